"""The journal's queries. All time is the database's: ``clock_timestamp()``, never a worker's."""

from __future__ import annotations

CALL_COLUMNS = "input_hash, input, state, lease_owner, lease_epoch, lease_until, result, failure, updated_at, kept"

INSERT_CALL = f"""
INSERT INTO calls (call_id, tenant, lane, run, request_id, purpose, ordinal, input_hash, input)
SELECT %(call_id)s, %(tenant)s, %(lane)s, %(run)s, %(request_id)s, %(purpose)s, %(ordinal)s, %(input_hash)s, %(input)s
WHERE NOT %(expired)s AND coalesce(%(expires_at)s::timestamptz > clock_timestamp(), true)
ON CONFLICT DO NOTHING
RETURNING {CALL_COLUMNS}, clock_timestamp()
"""

LOCK_CALL = f"SELECT {CALL_COLUMNS}, clock_timestamp() FROM calls WHERE call_id = %s FOR UPDATE"

SELECT_KEPT = "SELECT kept FROM calls WHERE call_id = %s AND state = 'calling' AND kept IS NOT NULL"

SELECT_CALL = f"SELECT {CALL_COLUMNS} FROM calls WHERE call_id = %s"

EARLIER_RESULT = f"""
SELECT {CALL_COLUMNS}, run FROM calls
WHERE tenant = %(tenant)s AND lane = %(lane)s AND request_id = %(request_id)s AND run <> %(run)s
  AND purpose = %(purpose)s AND ordinal = %(ordinal)s AND state = 'done' AND input_hash = %(input_hash)s
  AND NOT EXISTS (SELECT FROM calls WHERE call_id = %(call_id)s)
ORDER BY updated_at, call_id LIMIT 1
"""

TAKE_CALL = """
UPDATE calls
SET state = 'calling', lease_owner = %(owner)s, lease_epoch = %(epoch)s,
    lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s), updated_at = clock_timestamp()
WHERE call_id = %(call_id)s
"""

EXTEND_LEASE = """
UPDATE calls SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s), updated_at = clock_timestamp()
WHERE call_id = %(call_id)s AND lease_epoch = %(epoch)s AND state = 'calling'
RETURNING clock_timestamp()
"""

FINISH_CALL = """
UPDATE calls SET state = 'done', result = %(result)s, lease_until = NULL, kept = NULL, updated_at = clock_timestamp()
WHERE call_id = %(call_id)s AND lease_epoch = %(epoch)s AND state = 'calling'
RETURNING clock_timestamp()
"""

END_CALL = """
UPDATE calls SET state = %(state)s, failure = %(failure)s, lease_until = NULL, kept = NULL, updated_at = %(now)s
WHERE call_id = %(call_id)s
"""

# The attempt that brought it is saved with it, which waits for the disk.
KEEP = "UPDATE calls SET kept = %(kept)s WHERE call_id = %(call_id)s"

# Locked in the order of their ids, as results that are booked together lock them.
RENEW = """
WITH held AS MATERIALIZED (
    SELECT c.call_id FROM calls AS c
    JOIN unnest(%(call_ids)s::uuid[], %(epochs)s::integer[]) AS asked (call_id, epoch) USING (call_id)
    WHERE c.lease_epoch = asked.epoch AND c.lease_owner = %(owner)s AND c.state = 'calling'
    ORDER BY c.call_id FOR UPDATE OF c
)
UPDATE calls SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
FROM held WHERE calls.call_id = held.call_id AND calls.lease_owner = %(owner)s AND calls.state = 'calling'
RETURNING calls.call_id
"""

ATTEMPT_COLUMNS = """
    attempt_id, ordinal, epoch, route, deployment, provider, model, price_source, account, stage_version,
    control_offset, bound_prompt_tokens, bound_completion_tokens, upper_bound_usd, state, started_at, ended_at,
    error_class, error_code, http_status, response_id, duration_ms, first_token_ms, prompt_tokens,
    completion_tokens, cached_prompt_tokens, cache_write_tokens, reasoning_tokens, usage_estimated, usage_details,
    cost_usd, estimated, upper_bound, late_at, duplicate, unknown_code, unknown_duration_ms"""

ATTEMPT_NAMES = tuple(name.strip() for name in ATTEMPT_COLUMNS.split(","))

# A call with its attempts, as they are at one moment and in one round trip; a row for each attempt.
SELECT_OUTCOME = f"""
SELECT {", ".join(f"calls.{name.strip()}" for name in CALL_COLUMNS.split(","))},
    {", ".join(f"attempts.{name}" for name in ATTEMPT_NAMES)}
FROM calls LEFT JOIN attempts USING (call_id) WHERE calls.call_id = %s ORDER BY attempts.ordinal
"""

SELECT_ATTEMPTS = f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE call_id = %s ORDER BY ordinal"

# What is written here is paid for: it has to be on disk when the transaction returns, whatever the server's default.
OPEN_ATTEMPT = f"""
INSERT INTO attempts (attempt_id, call_id, ordinal, epoch, route, deployment, provider, model, price_source,
    account, stage_version, control_offset, bound_prompt_tokens, bound_completion_tokens,
    upper_bound_usd, state, started_at)
VALUES (%(attempt_id)s, %(call_id)s, %(ordinal)s, %(epoch)s, %(route)s, %(deployment)s, %(provider)s, %(model)s,
    %(price_source)s, %(account)s, %(stage_version)s, %(control_offset)s, %(bound_prompt_tokens)s,
    %(bound_completion_tokens)s, %(upper_bound_usd)s, 'calling', clock_timestamp())
RETURNING {ATTEMPT_COLUMNS}, set_config('synchronous_commit', 'on', true)
"""

SAVE_ATTEMPT = """
UPDATE attempts
SET state = %(state)s, ended_at = %(ended_at)s, error_class = %(error_class)s, error_code = %(error_code)s,
    http_status = %(http_status)s, response_id = %(response_id)s, duration_ms = %(duration_ms)s,
    first_token_ms = %(first_token_ms)s,
    prompt_tokens = %(prompt_tokens)s, completion_tokens = %(completion_tokens)s,
    cached_prompt_tokens = %(cached_prompt_tokens)s, cache_write_tokens = %(cache_write_tokens)s,
    reasoning_tokens = %(reasoning_tokens)s, usage_estimated = %(usage_estimated)s,
    usage_details = %(usage_details)s, cost_usd = %(cost_usd)s,
    estimated = %(estimated)s, upper_bound = %(upper_bound)s, late_at = %(late_at)s, duplicate = %(duplicate)s,
    unknown_code = %(unknown_code)s, unknown_duration_ms = %(unknown_duration_ms)s
WHERE attempt_id = %(attempt_id)s
RETURNING set_config('synchronous_commit', 'on', true)
"""
