"""The query of a call that is made for the first time: granted in one round trip, where claims of others take several.

Separate from ``sql`` for its length only.
"""

from __future__ import annotations

from processors.journal.sql import ATTEMPT_COLUMNS

# No row where the call is there already, whatever its state, or may not be begun any more.
GRANT_NEW = f"""
WITH new AS (
    INSERT INTO calls (call_id, tenant, lane, run, request_id, purpose, ordinal, input_hash, input,
        state, lease_owner, lease_epoch, lease_until)
    SELECT %(call_id)s, %(tenant)s, %(lane)s, %(run)s, %(request_id)s, %(purpose)s, %(ordinal)s, %(input_hash)s,
        %(input)s, 'calling', %(owner)s, 1, clock_timestamp() + make_interval(secs => %(lease_s)s)
    WHERE NOT %(expired)s AND coalesce(%(expires_at)s::timestamptz > clock_timestamp(), true)
    ON CONFLICT DO NOTHING
    RETURNING call_id
)
INSERT INTO attempts (attempt_id, call_id, ordinal, epoch, route, deployment, provider, model, price_source,
    account, stage_version, control_offset, bound_prompt_tokens, bound_completion_tokens,
    upper_bound_usd, state, started_at)
SELECT %(attempt_id)s, call_id, 0, 1, %(route)s, %(deployment)s, %(provider)s, %(model)s,
    %(price_source)s, %(account)s, %(stage_version)s, %(control_offset)s, %(bound_prompt_tokens)s,
    %(bound_completion_tokens)s, %(upper_bound_usd)s, 'calling', clock_timestamp()
FROM new
RETURNING {ATTEMPT_COLUMNS}, set_config('synchronous_commit', 'on', true)
"""
