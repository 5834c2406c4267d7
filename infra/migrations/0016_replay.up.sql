-- Replays: a stage, or several, run once more over what was recorded, into a lane of the run's own.
CREATE TABLE replay_runs (
    run             text PRIMARY KEY,
    name            text NOT NULL UNIQUE,
    lane            text NOT NULL UNIQUE,
    source_lane     text NOT NULL,
    target          text NOT NULL CHECK (target IN ('shadow', 'live')),
    stages          text[] NOT NULL CHECK (cardinality(stages) > 0),
    config          jsonb NOT NULL,
    code_version    text NOT NULL,
    state           text NOT NULL DEFAULT 'planned'
                    CHECK (state IN ('planned', 'running', 'stopped', 'done', 'failed', 'cancelled')),
    reason          text NOT NULL DEFAULT '',
    copies_books    boolean NOT NULL DEFAULT false,
    owner           text NOT NULL DEFAULT '',
    epoch           integer NOT NULL DEFAULT 0,
    lease_until     timestamptz NOT NULL DEFAULT '-infinity',
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at      timestamptz,
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at        timestamptz
);
COMMENT ON TABLE replay_runs IS 'One row a replay; its progress is in replay_places';
COMMENT ON COLUMN replay_runs.lane IS 'Where it writes; its topics and rows are nobody else''s';
COMMENT ON COLUMN replay_runs.stages IS 'The stages it runs, in order; each reads what the one before wrote in the lane';
COMMENT ON COLUMN replay_runs.config IS 'What was asked for: selection, changes, limits';
COMMENT ON COLUMN replay_runs.copies_books IS 'Its ledger rows are copies of what was booked before, and no money';
COMMENT ON COLUMN replay_runs.epoch IS 'Grows with each process that takes the run; only the latest may write';
COMMENT ON COLUMN replay_runs.lease_until IS 'End of the lease by this database''s clock; nobody else takes the run before';

-- The stretch of one partition that a step of a run reads, and how far it is.
CREATE TABLE replay_places (
    run             text NOT NULL REFERENCES replay_runs ON DELETE CASCADE,
    step            integer NOT NULL CHECK (step >= 0),
    topic           text NOT NULL,
    partition       integer NOT NULL,
    first_offset    bigint NOT NULL,
    end_offset      bigint NOT NULL,
    next_offset     bigint NOT NULL,
    counts          jsonb NOT NULL DEFAULT '{}',
    cost_usd        numeric(38, 12) NOT NULL DEFAULT 0,
    avoided_usd     numeric(38, 12) NOT NULL DEFAULT 0,
    written         jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (run, step, topic, partition),
    CHECK (first_offset <= next_offset AND next_offset <= greatest(first_offset, end_offset))
);
COMMENT ON COLUMN replay_places.end_offset IS 'One past the last offset, as it was when the step began';
COMMENT ON COLUMN replay_places.next_offset IS 'Everything before it is done and acknowledged by the broker';
COMMENT ON COLUMN replay_places.counts IS 'Events by outcome';
COMMENT ON COLUMN replay_places.written IS 'How far the lane''s topics were written then, as {topic: {partition: offset}}';

-- What a backfill did to each answer.
CREATE TABLE replay_answers (
    run             text NOT NULL REFERENCES replay_runs ON DELETE CASCADE,
    tenant          text NOT NULL,
    lane            text NOT NULL,
    request_id      text NOT NULL,
    outcome         text NOT NULL CHECK (outcome IN ('revised', 'left')),
    reason          text NOT NULL DEFAULT '',
    revision        integer,
    decided_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run, tenant, lane, request_id),
    CHECK ((outcome = 'revised') = (revision IS NOT NULL))
);
COMMENT ON TABLE replay_answers IS 'Answers that a backfill gave a new revision, and those that it left alone and why';
