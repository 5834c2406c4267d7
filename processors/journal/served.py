"""The queries that book a result which another call paid for."""

from __future__ import annotations

# A decision that was published must be found again: on disk when this returns, whatever the server's default.
INSERT_SERVED = """
INSERT INTO calls (call_id, tenant, lane, run, request_id, purpose, ordinal, input_hash, input, state, result)
SELECT %(call_id)s, %(tenant)s, %(lane)s, %(run)s, %(request_id)s, %(purpose)s, %(ordinal)s, %(input_hash)s, %(input)s,
       'done', %(result)s
WHERE NOT %(expired)s AND coalesce(%(expires_at)s::timestamptz > clock_timestamp(), true)
ON CONFLICT DO NOTHING
RETURNING updated_at, set_config('synchronous_commit', 'on', true)
"""

SERVE_CALL = """
UPDATE calls
SET state = 'done', result = %(result)s, lease_owner = NULL, lease_until = NULL, lease_epoch = %(epoch)s,
    kept = NULL, updated_at = clock_timestamp()
WHERE call_id = %(call_id)s
RETURNING updated_at, set_config('synchronous_commit', 'on', true)
"""
