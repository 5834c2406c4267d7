-- What each process uses of the providers' capacity, told about every second, so that replays take only what live
-- workers leave. Nothing of it outlives a crash of the server, and nothing needs to: it is told again within a second.
CREATE UNLOGGED TABLE provider_use (
    holder          text PRIMARY KEY,
    kind            text        NOT NULL CHECK (kind IN ('live', 'replay')),
    lane            text        NOT NULL,
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    use             jsonb       NOT NULL,
    said            text        NOT NULL DEFAULT ''
);
COMMENT ON TABLE provider_use IS 'One row a process that calls models, by the database''s clock';
COMMENT ON COLUMN provider_use.holder IS 'One life of a worker, or a run of a replay';
COMMENT ON COLUMN provider_use.use IS 'By endpoint: calls open, the most of the last minutes, the limit, who waits, 429s';
COMMENT ON COLUMN provider_use.said IS 'What a replay waits for';
