-- Calls that go by a provider's Batch API: what waits, what was sent together, and the replies.
CREATE TABLE batches (
    batch_id         uuid PRIMARY KEY,
    lane             text NOT NULL,
    deployment       text NOT NULL,
    state            text NOT NULL DEFAULT 'claiming'
        CHECK (state IN ('claiming', 'uploading', 'uploaded', 'creating', 'open', 'ended', 'lost')),
    provider_file    text,
    provider_batch   text,
    provider_status  text NOT NULL DEFAULT '',
    begun_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    creating_at      timestamptz,
    open_at          timestamptz,
    looked_at        timestamptz,
    ended_at         timestamptz
);
COMMENT ON TABLE batches IS 'Batches of calls at providers; each step is noted before it is taken';
COMMENT ON COLUMN batches.state IS 'How far it is; lost: it may have been made, and its provider does not know it';
COMMENT ON COLUMN batches.provider_file IS 'The provider''s id of the uploaded requests';
COMMENT ON COLUMN batches.provider_batch IS 'The provider''s id of the batch';
COMMENT ON COLUMN batches.provider_status IS 'What the provider last said of it, or the code of an error';
COMMENT ON COLUMN batches.creating_at IS 'Just before the provider was asked to make it';
CREATE INDEX batches_unfinished ON batches (lane, deployment, begun_at) WHERE state NOT IN ('ended', 'lost');
CREATE INDEX batches_begun_at ON batches (begun_at);

CREATE TABLE batch_items (
    call_id         uuid PRIMARY KEY,
    tenant          text NOT NULL,
    lane            text NOT NULL,
    run             text NOT NULL,
    request_id      text NOT NULL,
    deployment      text NOT NULL,
    route           text NOT NULL,
    event_id        text NOT NULL,
    input           bytea,
    control_offset  bigint NOT NULL,
    expires_at      timestamptz,
    state           text NOT NULL DEFAULT 'waiting'
        CHECK (state IN ('waiting', 'taken', 'sent', 'answered', 'returned', 'withdrawn', 'done')),
    batch_id        uuid REFERENCES batches ON DELETE SET NULL,
    attempt_id      uuid,
    epoch           integer NOT NULL DEFAULT 0,
    reply           bytea,
    replied_at      timestamptz,
    not_before      timestamptz NOT NULL DEFAULT clock_timestamp(),
    stored_at       timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 70);
COMMENT ON TABLE batch_items IS 'Calls that go by batch, one row each; their events are set aside in deferred';
COMMENT ON COLUMN batch_items.event_id IS 'The event of the stage complete that asks for the call';
COMMENT ON COLUMN batch_items.input IS 'Wire bytes of that event; empty once the journal has what became of the call';
COMMENT ON COLUMN batch_items.state IS
    'returned: called as any other; withdrawn: its request ended before the reply came; done: the journal has the outcome';
COMMENT ON COLUMN batch_items.epoch IS 'Lease epoch under which its batch claimed the call';
COMMENT ON COLUMN batch_items.reply IS 'The line that the provider wrote for it, until the journal has it';
CREATE INDEX batch_items_waiting ON batch_items (lane, deployment, stored_at) WHERE state = 'waiting';
CREATE INDEX batch_items_batch ON batch_items (batch_id, call_id);
CREATE INDEX batch_items_open ON batch_items (lane, deployment, state) WHERE state <> 'done';
CREATE INDEX batch_items_stored_at ON batch_items (stored_at);

-- Whoever works on a deployment's batches now.
CREATE TABLE batch_collectors (
    lane        text NOT NULL,
    deployment  text NOT NULL,
    owner       text NOT NULL,
    until       timestamptz NOT NULL,
    PRIMARY KEY (lane, deployment)
);
COMMENT ON TABLE batch_collectors IS 'The worker that collects a deployment''s batches; another one may once its time is over';
