"""The queries of batches and their items. All time is the database's."""

from __future__ import annotations

ITEM_COLUMNS = """
    i.tenant, i.lane, i.run, i.request_id, i.deployment, i.route, i.event_id, coalesce(i.input, ''), i.control_offset,
    i.expires_at, i.state, i.batch_id, i.attempt_id, i.epoch, i.reply,
    (SELECT b.open_at FROM batches AS b WHERE b.batch_id = i.batch_id), i.replied_at"""

ITEM = f"SELECT {ITEM_COLUMNS} FROM batch_items AS i WHERE i.call_id = %(call_id)s"

# What was stored here is acknowledged on its topic next: on disk when this returns, whatever the server's default.
ADD = """
INSERT INTO batch_items (call_id, tenant, lane, run, request_id, deployment, route, event_id, input, control_offset,
    expires_at)
VALUES (%(call_id)s, %(tenant)s, %(lane)s, %(run)s, %(request_id)s, %(deployment)s, %(route)s, %(event_id)s, %(input)s,
    %(control_offset)s, %(expires_at)s)
ON CONFLICT DO NOTHING
RETURNING set_config('synchronous_commit', 'on', true)
"""

MOVE = """
WITH moved AS (
    UPDATE batch_items SET state = %(now)s,
        input = CASE WHEN %(now)s = 'done' THEN NULL ELSE input END,
        reply = CASE WHEN %(now)s = 'done' THEN NULL ELSE reply END
    WHERE call_id = %(call_id)s AND state = %(was)s
    RETURNING call_id, state
), woken AS (
    UPDATE deferred SET not_before = clock_timestamp()
    FROM batch_followers AS f JOIN moved ON f.leader = moved.call_id
    WHERE moved.state IN ('done', 'withdrawn') AND deferred.lane = f.lane AND deferred.stage = 'complete'
      AND deferred.run = f.run AND deferred.event_id = f.event_id AND deferred.not_before > clock_timestamp()
)
SELECT call_id FROM moved
"""

FOLLOW = """
INSERT INTO batch_followers (call_id, leader, lane, run, event_id)
SELECT %(call_id)s, call_id, %(lane)s, %(run)s, %(event_id)s FROM batch_items
WHERE call_id = %(leader)s AND state = ANY(%(states)s)
ON CONFLICT (call_id) DO UPDATE SET leader = excluded.leader, stored_at = clock_timestamp()
RETURNING call_id
"""

FOLLOWED = "DELETE FROM batch_followers WHERE call_id = %(call_id)s RETURNING leader"

LEAD = """
INSERT INTO batch_collectors AS c (lane, deployment, owner, until)
VALUES (%(lane)s, %(deployment)s, %(owner)s, clock_timestamp() + make_interval(secs => %(hold_s)s))
ON CONFLICT (lane, deployment) DO UPDATE SET owner = excluded.owner, until = excluded.until
WHERE c.owner = excluded.owner OR c.until <= clock_timestamp()
RETURNING owner
"""

# What a line adds to the messages of its event.
_LINE_BYTES = 512
_READY = """
    SELECT call_id, length(input) AS size, stored_at FROM batch_items
    WHERE lane = %(lane)s AND deployment = %(deployment)s AND state = 'waiting' AND not_before <= clock_timestamp()
      AND 'route/' || route <> ALL(%(but)s::text[]) AND 'tenant/' || tenant <> ALL(%(but)s::text[])
    ORDER BY stored_at, call_id LIMIT %(limit)s"""

WAITING = f"""
SELECT count(*), coalesce(sum(size + {_LINE_BYTES}), 0)::bigint,
    coalesce(extract(epoch FROM clock_timestamp() - min(stored_at)), 0)::double precision
FROM ({_READY}) AS ready
"""

BEGIN = """
INSERT INTO batches (batch_id, lane, deployment) VALUES (%(batch_id)s, %(lane)s, %(deployment)s)
"""

TAKE = f"""
UPDATE batch_items SET state = 'taken', batch_id = %(batch_id)s
FROM (SELECT call_id, row_number() OVER whole AS place, sum(size + {_LINE_BYTES}) OVER whole AS bytes
      FROM ({_READY}) AS ready WINDOW whole AS (ORDER BY stored_at, call_id)) AS chosen
WHERE batch_items.call_id = chosen.call_id AND batch_items.state = 'waiting'
  AND (chosen.bytes <= %(max_bytes)s OR chosen.place = 1)
RETURNING batch_items.call_id
"""

UNFINISHED = """
SELECT batch_id, lane, deployment, state, provider_file, provider_batch, provider_status,
    coalesce(extract(epoch FROM clock_timestamp() - creating_at), 0)::double precision,
    coalesce(extract(epoch FROM clock_timestamp() - open_at), 0)::double precision,
    extract(epoch FROM clock_timestamp() - looked_at)::double precision
FROM batches WHERE lane = %(lane)s AND deployment = %(deployment)s AND state NOT IN ('ended', 'lost')
ORDER BY begun_at, batch_id
"""

ITEMS = f"""
SELECT {ITEM_COLUMNS} FROM batch_items AS i
WHERE i.batch_id = %(batch_id)s AND i.state = %(state)s AND i.call_id > %(after)s::uuid
ORDER BY i.call_id LIMIT %(limit)s
"""

CLAIMED = """
UPDATE batch_items SET state = 'sent', attempt_id = one.attempt_id, epoch = one.epoch, input = one.input
FROM unnest(%(calls)s::uuid[], %(attempts)s::uuid[], %(epochs)s::integer[], %(inputs)s::bytea[])
    AS one (call_id, attempt_id, epoch, input)
WHERE batch_items.call_id = one.call_id AND batch_id = %(batch_id)s AND state = 'taken'
"""

RETURN = """
UPDATE batch_items SET state = 'returned', batch_id = NULL
WHERE batch_id = %(batch_id)s AND call_id = ANY(%(calls)s::uuid[]) AND state IN ('taken', 'sent')
"""

WAIT = """
UPDATE batch_items SET state = 'waiting', batch_id = NULL, attempt_id = NULL,
    not_before = clock_timestamp() + make_interval(secs => %(wait_s)s)
WHERE batch_id = %(batch_id)s AND call_id = ANY(%(calls)s::uuid[]) AND state IN ('taken', 'sent')
"""

ADVANCE = """
UPDATE batches SET state = %(state)s, provider_file = coalesce(%(provider_file)s, provider_file),
    provider_batch = coalesce(%(provider_batch)s, provider_batch),
    provider_status = coalesce(%(provider_status)s, provider_status),
    creating_at = CASE WHEN %(state)s = 'creating' THEN clock_timestamp() ELSE creating_at END,
    open_at = CASE WHEN %(state)s = 'open' THEN clock_timestamp() ELSE open_at END,
    ended_at = CASE WHEN %(state)s IN ('ended', 'lost') THEN clock_timestamp() ELSE ended_at END
WHERE batch_id = %(batch_id)s AND state NOT IN ('ended', 'lost')
RETURNING set_config('synchronous_commit', 'on', true)
"""

LOOKED = """
UPDATE batches SET looked_at = clock_timestamp(), provider_status = %(status)s WHERE batch_id = %(batch_id)s
"""

# Paid for, and gone at the provider some day: on disk when this returns.
ANSWER = """
UPDATE batch_items SET reply = one.reply, replied_at = clock_timestamp(),
    state = CASE WHEN state = 'sent' THEN 'answered' ELSE state END
FROM unnest(%(calls)s::uuid[], %(replies)s::bytea[]) AS one (call_id, reply)
WHERE batch_items.call_id = one.call_id AND batch_id = %(batch_id)s AND state IN ('sent', 'withdrawn')
  AND batch_items.reply IS NULL
RETURNING set_config('synchronous_commit', 'on', true)
"""

LATE = f"""
SELECT {ITEM_COLUMNS} FROM batch_items AS i
WHERE i.lane = %(lane)s AND i.deployment = %(deployment)s AND i.state = 'withdrawn' AND i.reply IS NOT NULL
ORDER BY i.call_id LIMIT %(limit)s
"""

# Again and again, because an event may be set aside just after its item was answered.
WAKE = """
UPDATE deferred SET not_before = clock_timestamp()
FROM batch_items AS i
WHERE i.lane = %(lane)s AND i.state IN ('answered', 'returned')
  AND deferred.lane = i.lane AND deferred.stage = 'complete' AND deferred.run = i.run
  AND deferred.event_id = i.event_id AND deferred.not_before > clock_timestamp()
RETURNING deferred.event_id
"""

FIGURES = """
SELECT (SELECT count(*) FROM batches
        WHERE lane = %(lane)s AND deployment = %(deployment)s AND state NOT IN ('ended', 'lost')),
    coalesce((SELECT jsonb_object_agg(state, items) FROM (
        SELECT state, count(*) AS items FROM batch_items
        WHERE lane = %(lane)s AND deployment = %(deployment)s AND state <> 'done' GROUP BY state) AS counted), '{}'),
    coalesce((SELECT extract(epoch FROM clock_timestamp() - min(stored_at)) FROM batch_items
        WHERE lane = %(lane)s AND deployment = %(deployment)s AND state IN ('waiting', 'taken', 'sent', 'answered')),
        0)::double precision
"""
