"""``make bench``: every benchmark after the other, one JSON object a line. Name some to run only these."""

from __future__ import annotations

import subprocess
import sys

BENCHES = ("codec", "stages", "audit", "retrieval", "account", "release", "caches")


def main() -> int:
    """Run the benches that are named, or all; 1 when one of them fails, 2 for an unknown name."""
    named = sys.argv[1:] or list(BENCHES)
    unknown = [name for name in named if name not in BENCHES]
    if unknown:
        sys.stderr.write(f"no bench {', '.join(unknown)}; there are {', '.join(BENCHES)}\n")
        return 2
    codes = []
    for name in named:
        sys.stderr.write(f"--- {name}\n")
        codes.append(subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=False).returncode)
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
