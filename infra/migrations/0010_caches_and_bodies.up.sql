-- Which call answers a request, for requests that ask the same; the texts that it is found by when they are only alike;
-- and bodies that are too large for a topic.
CREATE TABLE cache_entries (
    cache_key    bytea PRIMARY KEY,
    tenant       text NOT NULL,
    lane         text NOT NULL,
    route        text NOT NULL,
    call_id      uuid NOT NULL,
    lease_until  timestamptz NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX cache_entries_created_at ON cache_entries (created_at);
COMMENT ON TABLE cache_entries IS 'The call whose result answers a request: identical requests wait for it, or are served by it';
COMMENT ON COLUMN cache_entries.cache_key IS 'sha256 of everything that the answer depends on';
COMMENT ON COLUMN cache_entries.call_id IS 'A row of calls, which may not have been written yet, or may be purged';
COMMENT ON COLUMN cache_entries.lease_until IS 'Until when its worker has to begin the call, by this database''s clock';

CREATE TABLE cache_vectors (
    cache_key    bytea PRIMARY KEY REFERENCES cache_entries ON DELETE CASCADE,
    scope_key    bytea NOT NULL,
    embedding    vector({embedding_dimension}) NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX cache_vectors_scope ON cache_vectors (scope_key, created_at DESC);
COMMENT ON TABLE cache_vectors IS 'What was asked, as a vector, for the cache of alike questions; no text';
COMMENT ON COLUMN cache_vectors.scope_key IS 'sha256 of everything that the answer depends on but the question itself';

CREATE TABLE bodies (
    tenant       text NOT NULL,
    digest       bytea NOT NULL,
    body         bytea NOT NULL,
    stored_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, digest)
);
CREATE INDEX bodies_stored_at ON bodies (stored_at);
COMMENT ON TABLE bodies IS 'Texts that are too large for a topic; events name them by digest (claim check)';
COMMENT ON COLUMN bodies.digest IS 'sha256 of the body';
COMMENT ON COLUMN bodies.stored_at IS 'When an event last referred to it, to a day; it is purged by this';
