"""Earlier runs, whose paid calls and embeddings are reused: also those that were deleted."""

from __future__ import annotations

from processors.postgres import Database
from streams.replay.run import Run


async def earlier_runs(database: Database, run: Run, stage: str) -> list[tuple[str, str]]:
    """Lane and id of every other run of the same source lane that had the stage, newest first. Blocks on Postgres."""
    parameters = {"lane": run.source_lane, "run": run.run, "stage": stage}
    return [(lane, other) for lane, other in await database.execute(_EARLIER, parameters)]


_EARLIER = """
    SELECT lane, run FROM (
        SELECT lane, run, source_lane, stages, created_at FROM replay_runs
        UNION ALL SELECT lane, run, source_lane, stages, created_at FROM deleted_runs
    ) AS runs
    WHERE source_lane = %(lane)s AND run <> %(run)s AND %(stage)s = ANY(stages)
    ORDER BY created_at DESC, run
"""
