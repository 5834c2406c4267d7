"""What is off in what was read: each question is one query over the store."""

from __future__ import annotations

from streams.auditing.seen import Seen

# What a lane of a replay has elsewhere.
_ELSEWHERE = ("cause_missing", "answer_without_request", "answer_not_final", "final_unpublished")


def check(
    seen: Seen,
    *,
    bound_us: int,
    until_us: int,
    now_us: int,
    grace_us: int,
    finals_us: int = 0,
    causes: bool = True,
) -> None:
    """Find what is off among requests accepted from ``bound_us`` to ``until_us``, and their events.

    A request has to have its answer once its time to live and the grace are over. ``finals_us``: the rows of answers
    that were published before may have gone. Without ``causes``, those are not looked for: in a lane of a replay they
    are in another lane.
    """
    seen.index()
    parameters = {"bound": bound_us, "until": until_us, "now": now_us, "grace": grace_us}
    parameters["finals"] = max(finals_us, bound_us)
    for kind, query in QUERIES.items():
        if causes or kind not in _ELSEWHERE:
            seen.find(kind, query, parameters)


# Each gives tenant, request, place and detail.
QUERIES = {
    "no_answer": """
        SELECT tenant, request_id, min(place),
            CASE WHEN EXISTS (SELECT 1 FROM letters WHERE letters.request_id = requests.request_id)
                THEN 'there is a dead letter' ELSE '' END
        FROM requests
        WHERE accepted BETWEEN :bound AND :until AND accepted + ttl_ms * 1000 + :grace < :now
            AND NOT EXISTS (SELECT 1 FROM answers
                WHERE answers.request_id = requests.request_id AND answers.tenant = requests.tenant)
        GROUP BY tenant, request_id
    """,
    "several_answers": """
        SELECT tenant, request_id, min(place), count(DISTINCT event_id) || ' of revision ' || revision
        FROM answers GROUP BY tenant, request_id, revision HAVING count(DISTINCT event_id) > 1
    """,
    "answer_without_request": """
        SELECT tenant, request_id, place, '' FROM answers
        WHERE accepted BETWEEN :bound AND :until AND NOT EXISTS (SELECT 1 FROM requests
            WHERE requests.request_id = answers.request_id AND requests.tenant = answers.tenant)
    """,
    "supersedes_unknown": """
        SELECT tenant, request_id, place, 'revision ' || revision || ' for ' || supersedes FROM answers
        WHERE revision > 0 AND accepted BETWEEN :bound AND :until
            AND NOT EXISTS (SELECT 1 FROM answers AS other WHERE other.event_id = answers.supersedes
                AND other.request_id = answers.request_id AND other.tenant = answers.tenant)
    """,
    "final_differs": """
        SELECT finals.tenant, finals.request_id, place, 'revision ' || finals.revision
        FROM finals JOIN answers USING (tenant, request_id, revision)
        WHERE finals.event_id <> answers.event_id OR finals.print <> answers.print
    """,
    "answer_not_final": """
        SELECT tenant, request_id, place, 'revision ' || revision || CASE run WHEN '' THEN '' ELSE ' of ' || run END
        FROM answers
        WHERE at >= :finals AND NOT imported AND NOT EXISTS (SELECT 1 FROM finals
            WHERE finals.request_id = answers.request_id AND finals.tenant = answers.tenant
                AND finals.revision = answers.revision)
    """,
    "final_unpublished": """
        SELECT tenant, request_id, '', 'revision ' || revision FROM finals
        WHERE decided BETWEEN :bound + :grace AND :until AND decided + :grace < :now
            AND NOT EXISTS (SELECT 1 FROM answers
                WHERE answers.request_id = finals.request_id AND answers.tenant = finals.tenant
                    AND answers.revision = finals.revision)
    """,
    "cause_missing": """
        SELECT tenant, request_id, place, kind || ' says ' || cause FROM events
        WHERE cause <> '' AND accepted BETWEEN :bound AND :until
            AND NOT EXISTS (SELECT 1 FROM events AS other WHERE other.event_id = events.cause)
            AND NOT EXISTS (SELECT 1 FROM requests WHERE requests.own_id = events.cause)
    """,
    "copies_differ": """
        SELECT min(tenant), min(request_id), min(place), kind || ' ' || event_id FROM events
        WHERE digest IS NOT NULL AND kind NOT LIKE 'enrichments.%'
        GROUP BY event_id, kind HAVING count(DISTINCT digest) > 1
        UNION ALL
        SELECT tenant, request_id, place, 'on the topic of ' || owner || ', and not as such among all answers'
        FROM copies
        WHERE at BETWEEN :bound + :grace AND :until AND at + :grace < :now AND (owner <> tenant
            OR NOT EXISTS (SELECT 1 FROM events WHERE events.event_id = copies.event_id
                AND events.kind = 'answers' AND events.digest = copies.digest))
    """,
    "input_drift": """
        SELECT min(tenant), min(request_id), min(place), event_id FROM events
        WHERE digest IS NOT NULL AND kind LIKE 'enrichments.%'
        GROUP BY event_id HAVING count(DISTINCT digest) > 1
    """,
    "undecodable_without_letter": """
        SELECT '', '', place, '' FROM broken
        WHERE at + :grace < :now AND NOT EXISTS (SELECT 1 FROM letters WHERE letters.place = broken.place)
    """,
}
