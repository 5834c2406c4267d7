-- The journal of paid calls: one row a logical call, one row for each attempt that was sent or about to be sent.
CREATE TABLE calls (
    call_id      uuid PRIMARY KEY,
    tenant       text NOT NULL,
    lane         text NOT NULL,
    run          text NOT NULL,
    request_id   text NOT NULL,
    purpose      text NOT NULL,
    ordinal      integer NOT NULL,
    input_hash   text NOT NULL,
    input        bytea NOT NULL,
    state        text NOT NULL DEFAULT 'reserved'
                 CHECK (state IN ('reserved', 'calling', 'done', 'failed', 'unknown')),
    lease_owner  text,
    lease_epoch  integer NOT NULL DEFAULT 0,
    lease_until  timestamptz,
    result       bytea,
    failure      jsonb,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (tenant, lane, request_id, run, purpose, ordinal),
    CHECK (state <> 'done' OR result IS NOT NULL),
    CHECK (state NOT IN ('failed', 'unknown') OR failure IS NOT NULL)
);
COMMENT ON TABLE calls IS 'One paid call each: its input as first seen, its lease, its result';
COMMENT ON COLUMN calls.call_id IS 'UUIDv5 of tenant, lane, run, request_id, purpose and ordinal';
COMMENT ON COLUMN calls.input IS 'Wire bytes of the event that asked for the call, as first seen; they win over later ones';
COMMENT ON COLUMN calls.lease_until IS 'End of the lease by this database''s clock';
COMMENT ON COLUMN calls.result IS 'Wire bytes of the event that the call resulted in; published as they are';

CREATE TABLE attempts (
    attempt_id               uuid PRIMARY KEY,
    call_id                  uuid NOT NULL REFERENCES calls ON DELETE CASCADE,
    ordinal                  integer NOT NULL,
    epoch                    integer NOT NULL,
    route                    text NOT NULL,
    deployment               text NOT NULL,
    provider                 text NOT NULL,
    model                    text NOT NULL,
    price_source             text NOT NULL,
    account                  text NOT NULL,
    stage_version            text NOT NULL,
    control_offset           bigint NOT NULL,
    bound_prompt_tokens      bigint NOT NULL,
    bound_completion_tokens  bigint NOT NULL,
    upper_bound_usd          numeric(38, 12) NOT NULL,
    state                    text NOT NULL CHECK (state IN ('calling', 'done', 'failed', 'unknown')),
    started_at               timestamptz NOT NULL,
    ended_at                 timestamptz,
    error_class              text,
    error_code               text,
    http_status              integer,
    response_id              text,
    duration_ms              double precision,
    first_token_ms           double precision,
    prompt_tokens            bigint,
    completion_tokens        bigint,
    cached_prompt_tokens     bigint,
    cache_write_tokens       bigint,
    reasoning_tokens         bigint,
    usage_estimated          boolean NOT NULL DEFAULT false,
    cost_usd                 numeric(38, 12),
    estimated                boolean NOT NULL DEFAULT false,
    upper_bound              boolean NOT NULL DEFAULT false,
    late_at                  timestamptz,
    duplicate                boolean NOT NULL DEFAULT false,
    UNIQUE (call_id, ordinal),
    CHECK (state = 'calling' OR (ended_at IS NOT NULL AND cost_usd IS NOT NULL))
);
COMMENT ON TABLE attempts IS 'Every attempt of a call, committed before it is sent; cost events are read from here';
COMMENT ON COLUMN attempts.attempt_id IS 'UUIDv5 of the call''s key and the attempt''s ordinal; the id of its cost event';
COMMENT ON COLUMN attempts.upper_bound_usd IS 'The most that the attempt can cost; booked while its outcome is unknown';
COMMENT ON COLUMN attempts.late_at IS 'When the outcome came in after a later owner had booked the attempt unknown';
COMMENT ON COLUMN attempts.duplicate IS 'Paid for a result that was discarded, because a later owner had the call';
