-- A cheap model's reply outlives its worker while a stronger model is asked.
ALTER TABLE calls ADD COLUMN kept bytea;
COMMENT ON COLUMN calls.kept IS
    'The reply that answers where no stronger model does, as JSON; gone when the call has ended';

-- Requests that wait for an identical one which goes by batch.
CREATE TABLE batch_followers (
    call_id    uuid PRIMARY KEY,
    leader     uuid NOT NULL,
    lane       text NOT NULL,
    run        text NOT NULL,
    event_id   text NOT NULL,
    stored_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE batch_followers IS 'Requests that an identical one''s batch is to answer; their events are set aside';
COMMENT ON COLUMN batch_followers.leader IS 'The call that is waited for';
CREATE INDEX batch_followers_leader ON batch_followers (leader);
CREATE INDEX batch_followers_stored_at ON batch_followers (stored_at);
