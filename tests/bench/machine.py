"""What a benchmark ran on, what its processes used, and its figures as Markdown."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.support.stack import TestStack

CORES = 2
SAMPLE_S = 1.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6
_LIBRARIES = ("faust-streaming", "aiokafka", "confluent-kafka", "psycopg")


def confine() -> None:
    """Keep this process, and all that it starts, on the same two cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


@contextmanager
def fresh_stack() -> Iterator[tuple[Path, TestStack]]:
    """A folder and a stack in it, which starts what is asked of it; both are gone behind the block."""
    with tempfile.TemporaryDirectory(prefix="hr-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        stack = TestStack(folder / "stack")
        try:
            yield folder, stack
        finally:
            stack.close()


@contextmanager
def sampled(take: Callable[[], None]) -> Iterator[None]:
    """Call ``take`` in a thread of its own, at once and then every second, until the block ends."""
    over = threading.Event()

    def follow() -> None:
        take()
        while not over.wait(SAMPLE_S):
            take()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)


def described(stack: TestStack, **more: str) -> str:
    """Machine, versions and command, as lines of Markdown."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores"
    versions = {
        "headrace": version("headrace"),
        "python": platform.python_version(),
        **stack.versions,
        **{name: version(name) for name in _LIBRARIES},
        **more,
    }
    options = " ".join([Path(sys.argv[0]).stem.replace("_", "-"), *sys.argv[1:]])
    return "\n".join(
        [
            f"* Machine: {_processor()}, {cores}, {memory:.0f} GiB, Linux {platform.release()}; load average at the "
            f"end {os.getloadavg()[0]:.1f}; {datetime.now(UTC):%Y-%m-%d}",
            f"* Versions: {', '.join(f'{name} {number}' for name, number in versions.items())}",
            f'* Command: `make bench ARGS="{options}"`',
        ]
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; numbers to the right, floats with one digit."""
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    lines += [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows]
    return "\n".join(lines)


def show(*blocks: str) -> None:
    """Print blocks of Markdown, with a line between them."""
    sys.stdout.write("\n\n".join(blocks) + "\n")
    sys.stdout.flush()


def tell(text: str) -> None:
    """Say on stderr how far the run is."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def percentile(values: Iterable[float], share: float) -> float:
    """The nearest-rank percentile; nan of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


class Meter:
    """Processor time of groups of processes, each with its children, from when it is made."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = dict(roots)
        self._before = self._now()

    def ms_per(self, requests: int) -> dict[str, float]:
        """Processor milliseconds for each request so far, by group."""
        return {name: (after - self._before[name]) * 1000 / max(1, requests) for name, after in self._now().items()}

    def _now(self) -> dict[str, float]:
        stats = _stats()
        children: dict[int, list[int]] = {}
        for pid, (parent, _) in stats.items():
            children.setdefault(parent, []).append(pid)
        others = set(self._roots.values())
        return {
            name: sum(stats[pid][1] for pid in _tree(root, children, others - {root}) if pid in stats)
            for name, root in self._roots.items()
        }


def resident_mb(pid: int) -> float:
    """Memory of one process, in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB


def tree_mb(pid: int) -> float:
    """Memory of a process and those below it, in MB; what they share is counted for each."""
    children: dict[int, list[int]] = {}
    for one, (parent, _) in _stats().items():
        children.setdefault(parent, []).append(one)
    found = 0.0
    for one in _tree(pid, children, set()):
        with suppress(OSError):
            found += resident_mb(one)
    return found


def _tree(root: int, children: Mapping[int, Sequence[int]], others: set[int]) -> list[int]:
    """A process and those below it, but not those that are counted by themselves."""
    found, waiting = list[int](), [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += [child for child in children.get(pid, ()) if child not in others]
    return found


def _stats() -> dict[int, tuple[int, float]]:
    """Parent and processor seconds of every process, those of its ended children included."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[int(path.parent.name)] = (int(fields[1]), sum(int(field) for field in fields[11:15]) / _TICKS)
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _cell(value: object) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
