-- The books: one row for each attempt that was paid, or may have been, kept from its cost events.
CREATE TABLE ledger (
    attempt_id            text PRIMARY KEY,
    event_id              text NOT NULL,
    digest                text NOT NULL,
    tenant                text NOT NULL,
    lane                  text NOT NULL,
    run                   text NOT NULL,
    request_id            text NOT NULL,
    purpose               text NOT NULL,
    ordinal               integer NOT NULL,
    stage                 text NOT NULL,
    route                 text NOT NULL,
    deployment            text NOT NULL,
    provider              text NOT NULL,
    model                 text NOT NULL,
    account               text NOT NULL,
    response_id           text,
    price_source          text NOT NULL,
    served_by             text NOT NULL,
    prompt_version        text NOT NULL,
    team                  text NOT NULL,
    user_id               text NOT NULL,
    session               text NOT NULL,
    feature               text NOT NULL,
    tier                  text NOT NULL,
    arm                   text NOT NULL,
    state                 text NOT NULL,
    prompt_tokens         bigint NOT NULL,
    completion_tokens     bigint NOT NULL,
    cached_prompt_tokens  bigint NOT NULL,
    cache_write_tokens    bigint NOT NULL,
    reasoning_tokens      bigint NOT NULL,
    usage_estimated       boolean NOT NULL,
    amount_usd            numeric(38, 12) NOT NULL,
    avoided_cost_usd      numeric(38, 12) NOT NULL,
    estimated             boolean NOT NULL,
    upper_bound           boolean NOT NULL,
    incurred_at           timestamptz NOT NULL,
    recorded_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    conflicts             integer NOT NULL DEFAULT 0,
    history               jsonb NOT NULL DEFAULT '[]'
);
CREATE INDEX ledger_incurred_at ON ledger (incurred_at);
CREATE INDEX ledger_request ON ledger (request_id);
COMMENT ON TABLE ledger IS 'One row an attempt; amounts are sums over its cost events, each counted once';
COMMENT ON COLUMN ledger.event_id IS 'Id of the cost event that the row was opened by';
COMMENT ON COLUMN ledger.digest IS 'sha256 of what that event said, as hex: the same again changes nothing';
COMMENT ON COLUMN ledger.state IS 'done, failed or unknown; that of a late settlement once it is known';
COMMENT ON COLUMN ledger.amount_usd IS 'US dollars; of an unknown attempt the most that it can have cost';
COMMENT ON COLUMN ledger.incurred_at IS 'When the attempt ended, by the database''s clock; a late settlement does not move it';
COMMENT ON COLUMN ledger.conflicts IS 'Events that said otherwise than an earlier one of the same id; the dearer one counts';
COMMENT ON COLUMN ledger.history IS 'Every event of the attempt, where there is more than one';
