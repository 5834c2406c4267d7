"""``make bench``: the small benchmarks after each other, one JSON object a line; ``make bench ARGS="NAME [options]"``.

The long ones (``LONG``) print Markdown and run only when they are named. What follows a name goes to that benchmark.
"""

from __future__ import annotations

import subprocess
import sys

BENCHES = ("codec", "stages", "audit", "seal", "retrieval", "account", "release", "caches", "nearest")
LONG = ("proxy", "overhead", "concurrency", "backlog", "arrivals", "disk", "replay", "live-replay")


def main() -> int:
    """Run the benches that are named, or the small ones; 1 when one of them fails, 2 for an unknown name."""
    given = sys.argv[1:] or list(BENCHES)
    if given[0] not in (*BENCHES, *LONG):
        sys.stderr.write(f"no bench {given[0]}; there are {', '.join((*BENCHES, *LONG))}\n")
        return 2
    runs: list[list[str]] = []
    for one in given:
        if one in (*BENCHES, *LONG):
            runs.append([one])
        else:
            runs[-1].append(one)
    codes = []
    for name, *options in runs:
        sys.stderr.write(f"--- {name}\n")
        argv = [sys.executable, "-m", f"tests.bench.{name.replace('-', '_')}", *options]
        codes.append(subprocess.run(argv, check=False).returncode)
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
