"""``python -m tests.support.mirror_worker DAY ARGUMENT…``: runs ``headrace`` on a day that a test says."""

from __future__ import annotations

import sys
from datetime import date

from streams.cli import main
from streams.mirroring import days

if __name__ == "__main__":
    said = date.fromisoformat(sys.argv.pop(1))
    days.TODAY = f"DATE '{said}'"  # type: ignore[assignment]
    main()
