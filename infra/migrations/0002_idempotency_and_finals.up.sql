-- Which request holds an idempotency key, and which body a request id stands for.
-- scope: 'key' for what a producer sent as idempotency key, 'request' for request ids.
CREATE TABLE idempotency (
    tenant text NOT NULL,
    lane text NOT NULL,
    scope text NOT NULL CHECK (scope IN ('key', 'request')),
    key text NOT NULL,
    request_id text NOT NULL,
    body_hash text NOT NULL,
    control_offset bigint NOT NULL,
    accepted_at timestamptz NOT NULL,
    reserved_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, lane, scope, key)
);

-- The final answer of each request and revision, as it was or will be published.
CREATE TABLE finals (
    tenant text NOT NULL,
    lane text NOT NULL,
    request_id text NOT NULL,
    revision integer NOT NULL CHECK (revision >= 0),
    event_id text NOT NULL,
    status text NOT NULL,
    answer bytea NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, lane, request_id, revision)
);

-- Rows are appended in the order of time and dropped in that order: a BRIN index is enough and costs next to nothing.
CREATE INDEX idempotency_reserved_at ON idempotency USING brin (reserved_at);
CREATE INDEX finals_decided_at ON finals USING brin (decided_at);
