"""The budgets' queries. All time is the database's."""

from __future__ import annotations

MAKE = """
INSERT INTO budgets (budget, scope, period_start)
SELECT budget, scope, start
FROM unnest(%(budgets)s::text[], %(scopes)s::text[], %(starts)s::timestamptz[]) AS asked (budget, scope, start)
ORDER BY budget, scope, start
ON CONFLICT DO NOTHING
"""

LOCK = """
SELECT b.budget, b.scope, b.period_start, b.spent, b.reserved
FROM budgets AS b
JOIN unnest(%(budgets)s::text[], %(scopes)s::text[], %(starts)s::timestamptz[]) AS asked (budget, scope, start)
  ON b.budget = asked.budget AND b.scope = asked.scope AND b.period_start = asked.start
ORDER BY b.budget, b.scope, b.period_start
FOR UPDATE OF b
"""

RESERVATIONS = """
SELECT budget, scope, period_start, state, amount, crossed FROM budget_reservations
WHERE call_id = %(call_id)s ORDER BY budget, scope
"""

MOVE = """
UPDATE budgets SET spent = spent + %(spent)s, reserved = reserved + %(reserved)s
WHERE budget = %(budget)s AND scope = %(scope)s AND period_start = %(start)s
"""

OPEN = """
INSERT INTO budget_reservations AS r (call_id, budget, scope, period_start, state, amount, expires_at)
VALUES (%(call_id)s, %(budget)s, %(scope)s, %(start)s, 'open', %(amount)s, clock_timestamp())
ON CONFLICT (call_id, budget, scope) DO UPDATE
SET period_start = excluded.period_start, state = 'open', amount = excluded.amount, changed_at = clock_timestamp()
"""

HOLD = """
UPDATE budget_reservations AS r
SET expires_at = clock_timestamp() + make_interval(secs => %(hold_s)s),
    samples = ARRAY(SELECT unnest(r.samples) UNION SELECT unnest(%(samples)s::uuid[]))
WHERE call_id = %(call_id)s AND state = 'open'
"""

SETTLE = """
UPDATE budget_reservations
SET state = 'settled', amount = %(amount)s, crossed = %(crossed)s, changed_at = clock_timestamp()
WHERE call_id = %(call_id)s AND budget = %(budget)s AND scope = %(scope)s
"""

LEFT_BEHIND = """
SELECT left_behind.call_id,
       EXISTS (SELECT FROM calls AS c
               WHERE c.call_id = ANY (left_behind.calls) AND c.state = 'calling'
                 AND c.lease_until > clock_timestamp()),
       coalesce((SELECT sum(coalesce(a.cost_usd, a.upper_bound_usd)) FROM attempts AS a
                 WHERE a.call_id = ANY (left_behind.calls)), 0)
FROM (SELECT call_id, call_id || max(samples) AS calls FROM budget_reservations
      WHERE state = 'open' AND expires_at <= clock_timestamp()
      GROUP BY call_id ORDER BY min(expires_at) LIMIT %(limit)s) AS left_behind
"""

STANDINGS = """
SELECT budget, scope, period_start, spent, reserved FROM budgets
WHERE (budget, period_start) IN (SELECT * FROM unnest(%(budgets)s::text[], %(starts)s::timestamptz[]))
ORDER BY budget, spent DESC, scope
"""

EXHAUSTED = """
SELECT b.budget, b.scope FROM budgets AS b
JOIN unnest(%(budgets)s::text[], %(starts)s::timestamptz[], %(limits)s::numeric[]) AS asked (budget, start, most)
  ON b.budget = asked.budget AND b.period_start = asked.start AND b.spent >= asked.most
"""
