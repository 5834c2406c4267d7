-- What is spent beside a request's own calls, and what is told of spending late: embeddings, late outcomes, tokens.

-- One row for each asker's part of a priced call to the embedding endpoint, committed before it is sent.
CREATE TABLE spends (
    spender    uuid NOT NULL,
    ordinal    integer NOT NULL,
    lane       text NOT NULL,
    tenant     text NOT NULL,
    state      text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'closed', 'lost')),
    event      bytea,
    asked      bytea NOT NULL,
    vectors    bytea,
    opened_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at     timestamptz NOT NULL,
    told_at    timestamptz,
    PRIMARY KEY (spender, ordinal)
);
CREATE INDEX spends_untold ON spends (lane, due_at) WHERE told_at IS NULL;
CREATE INDEX spends_opened_at ON spends (opened_at);
COMMENT ON TABLE spends IS 'What embedding cost, call by call and asker by asker; a worker publishes each row''s event';
COMMENT ON COLUMN spends.spender IS 'Id of the first cost event that the asker''s stage derives from its input';
COMMENT ON COLUMN spends.state IS 'open: sent, or about to be; closed: its outcome is known; lost: told at its upper bound';
COMMENT ON COLUMN spends.event IS 'Wire bytes of the cost event: at the upper bound while the row is open; gone once told';
COMMENT ON COLUMN spends.asked IS 'sha256 of the texts that were sent';
COMMENT ON COLUMN spends.vectors IS 'What came back, as 32-bit floats, so that a redelivery buys nothing; no text';
COMMENT ON COLUMN spends.due_at IS 'From when on any worker publishes it';

-- An outcome that came in after its attempt was booked unknown is told by any worker, not only by the one that booked it.
ALTER TABLE attempts ADD COLUMN late_told_at timestamptz;
CREATE INDEX attempts_late_untold ON attempts (late_at) WHERE late_at IS NOT NULL AND late_told_at IS NULL;
COMMENT ON COLUMN attempts.late_told_at IS 'When the event that corrects the attempt was acknowledged by the broker';

-- Draining a route or a tenant counts its open calls, which are few among many.
CREATE INDEX calls_open ON calls (lane, tenant) WHERE state = 'calling';

-- What a request used of its token limits, once it is known.
ALTER TABLE idempotency ADD COLUMN tokens_used bigint;
COMMENT ON COLUMN idempotency.tokens_used IS 'Tokens that the request''s limits were settled to after its call; NULL until then';

-- The nearest question, among any number of them.
CREATE INDEX cache_vectors_embedding ON cache_vectors USING hnsw (embedding vector_cosine_ops);
