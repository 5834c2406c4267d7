-- What a replay paid outlives it: the lanes of runs that were deleted, where their calls and embeddings are found.
CREATE TABLE deleted_runs (
    lane            text PRIMARY KEY,
    run             text NOT NULL,
    source_lane     text NOT NULL,
    stages          text[] NOT NULL,
    created_at      timestamptz NOT NULL,
    deleted_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX deleted_runs_deleted_at ON deleted_runs (deleted_at);
COMMENT ON TABLE deleted_runs IS 'One row a replay that was deleted, for as long as the journal may have its calls';
