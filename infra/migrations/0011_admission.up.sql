-- What admission and budgets count: rates, who is in flight, and what was spent and reserved.

-- Token buckets. One statement refills a bucket, takes from it and says what it gave: the columns from "must" on are
-- those of the last draw.
CREATE TABLE rate_buckets (
    bucket     text PRIMARY KEY,
    level      double precision NOT NULL,
    at         timestamptz NOT NULL,
    burst      double precision NOT NULL,
    per_s      double precision NOT NULL,
    must       double precision NOT NULL,
    wish       double precision NOT NULL,
    returned   double precision NOT NULL,
    available  double precision NOT NULL,
    granted    double precision NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE rate_buckets IS 'Token buckets of rate limits; a bucket without a row is full';
COMMENT ON COLUMN rate_buckets.level IS 'What was left at the time "at"; under zero it is owed to requests that wait';
COMMENT ON COLUMN rate_buckets.must IS 'Of the last draw: what it took even below zero, for requests that wait';
COMMENT ON COLUMN rate_buckets.wish IS 'Of the last draw: what it took only where it was there';
COMMENT ON COLUMN rate_buckets.returned IS 'Of the last draw: what it gave back of an earlier one';
COMMENT ON COLUMN rate_buckets.available IS 'The level that the last draw found';
COMMENT ON COLUMN rate_buckets.granted IS 'What the last draw got of its wish';
CREATE INDEX rate_buckets_at ON rate_buckets USING brin (at);

-- What the limits said to a request, so that a redelivery gets the same and is not charged again.
ALTER TABLE idempotency
    ADD COLUMN ruling text NOT NULL DEFAULT '',
    ADD COLUMN ruled_by text NOT NULL DEFAULT '',
    ADD COLUMN ruled_until timestamptz;
COMMENT ON COLUMN idempotency.ruling IS 'open, admitted, queued or rejected; empty where no limit was asked';
COMMENT ON COLUMN idempotency.ruled_by IS 'The limit that said so, e.g. tenant.requests';
COMMENT ON COLUMN idempotency.ruled_until IS 'queued: when it may go on; rejected: when another one may';

-- Requests of tenants with a cap, from their admission to their final answer.
CREATE TABLE in_flight (
    lane        text NOT NULL,
    tenant      text NOT NULL,
    request_id  text NOT NULL,
    until       timestamptz NOT NULL,
    entered_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (lane, tenant, request_id)
) WITH (fillfactor = 70);
COMMENT ON TABLE in_flight IS 'Requests that count against their tenant''s max_in_flight';
COMMENT ON COLUMN in_flight.until IS 'When the request''s time to live ends: it counts no longer then, whatever became of it';
-- One row a capped tenant, locked while its requests are counted.
CREATE TABLE in_flight_tenants (
    lane    text NOT NULL,
    tenant  text NOT NULL,
    PRIMARY KEY (lane, tenant)
);
COMMENT ON TABLE in_flight_tenants IS 'Locked by whoever lets requests of the tenant in, so that two workers can''t count the same room';

CREATE TABLE budgets (
    budget        text NOT NULL,
    scope         text NOT NULL,
    period_start  timestamptz NOT NULL,
    spent         numeric(38, 12) NOT NULL DEFAULT 0,
    reserved      numeric(38, 12) NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    PRIMARY KEY (budget, scope, period_start)
) WITH (fillfactor = 50);
COMMENT ON TABLE budgets IS 'Each budget''s standing by period (UTC), in US dollars';
COMMENT ON COLUMN budgets.scope IS 'Whose money, e.g. tenant=acme,user=u1: a budget for each value has a row for each';
COMMENT ON COLUMN budgets.reserved IS 'Sum of the open reservations';

CREATE TABLE budget_reservations (
    call_id       uuid NOT NULL,
    budget        text NOT NULL,
    scope         text NOT NULL,
    period_start  timestamptz NOT NULL,
    state         text NOT NULL CHECK (state IN ('open', 'settled')),
    amount        numeric(38, 12) NOT NULL,
    expires_at    timestamptz NOT NULL,
    crossed       jsonb NOT NULL DEFAULT '[]',
    changed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (call_id, budget, scope)
) WITH (fillfactor = 70);
COMMENT ON TABLE budget_reservations IS 'What a call may cost while it is open, and what it did cost afterwards';
COMMENT ON COLUMN budget_reservations.amount IS 'open: the worst case, reserved; settled: what was spent';
COMMENT ON COLUMN budget_reservations.expires_at IS 'An open one is settled from the journal after that, by this database''s clock';
COMMENT ON COLUMN budget_reservations.crossed IS 'The thresholds that the settlement crossed: told again when the event comes again';
CREATE INDEX budget_reservations_open ON budget_reservations (expires_at) WHERE state = 'open';
CREATE INDEX budget_reservations_changed_at ON budget_reservations (changed_at);
