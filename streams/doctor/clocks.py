"""The clocks of broker, database and this machine.

Only the first two have to agree: a request's age is the difference between them.
"""

from __future__ import annotations

from datetime import datetime

from streams.doctor.checkup import ProblemError
from streams.doctor.kafka import newest_append
from streams.doctor.postgres import database_time
from streams.settings import Settings

TOLERATED_S = 2.0


async def look_clocks(settings: Settings, lane: str) -> str:
    """How far the clocks are apart. Writes nothing, so a broker that is behind shows only as an old newest record."""
    appended = await newest_append(settings, lane)
    now, machine_behind_s = await database_time(settings)
    return judge_clocks(now, appended, machine_behind_s=machine_behind_s)


def judge_clocks(now: datetime, appended: datetime | None, *, machine_behind_s: float) -> str:
    """What the database's time, and the broker's of its newest record, say. Raises ProblemError for a broker ahead."""
    way = "ahead of" if machine_behind_s >= 0 else "behind"
    seen = f"database {abs(machine_behind_s) * 1000:.0f} ms {way} this machine"
    if appended is None:
        return f"{seen}; the broker has appended nothing in this lane to compare with"
    age_s = (now - appended).total_seconds()
    if age_s < -TOLERATED_S:
        raise ProblemError(
            f"the broker is {-age_s:.1f} s ahead of the database, so that requests outlive their ttl; {seen}",
            "synchronise the clocks of broker and database (NTP)",
        )
    if age_s < 0:
        return f"{seen}; broker {-age_s * 1000:.0f} ms ahead of the database"
    return f"{seen}; broker at most {_length(age_s)} behind the database (age of its newest record)"


def _length(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
