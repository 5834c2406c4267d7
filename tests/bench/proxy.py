"""Against the LiteLLM proxy: requests a second and added time with so many requests open, at the same provider.

``make bench ARGS="proxy [--seconds 30] [--in-flight 10,50,100,200]"``. Everything runs on the same two cores, one
after the other: the provider by itself, the proxy, all stages without retrieval, all stages with it.
"""

from __future__ import annotations

import argparse
import os
import secrets
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench import litellm_proxy
from tests.bench.flow import Ask, Measured, flowing
from tests.bench.machine import Meter, confine, described, percentile, show, table, tell
from tests.faults.traffic import SUBJECTS
from tests.provider.process import ProviderProcess
from tests.support.stack import TestStack

LATENCY_MS = 200.0
QUESTION = "How does the with statement work in Python, and when should it be used?"
HEADS = (
    *("", "in flight", "requests/s", "added p50, ms", "added p95, ms", "added p99, ms"),
    *("requests", "lost", "not answered"),
)

Line = tuple[str, int, float, float, float, float, int, int, int]


def line(name: str, in_flight: int, found: Measured, seconds: float) -> Line:
    """One line of the table: what was answered after a warm-up, while requests still came."""
    warm_s = min(5.0, seconds / 4)
    latencies = found.within(warm_s, seconds)
    added = [one - LATENCY_MS for one in latencies]
    rate = len(latencies) / (seconds - warm_s)
    tails = (percentile(added, share) for share in (0.5, 0.95, 0.99))
    return (name, in_flight, rate, *tails, found.sent, found.lost, found.not_answered())  # type: ignore[return-value]


def over_http(folder: Path, levels: Sequence[int], seconds: float) -> tuple[list[Line], list[tuple[object, ...]]]:
    """The provider by itself, and the proxy before it."""
    provider = ProviderProcess(folder / "provider.jsonl", "--slow-ms", f"{LATENCY_MS:g}", "--slow-share", "1")
    lines, cpu = [], []
    try:
        direct = f"{provider.base_url}/chat/completions"
        for level in levels:
            tell(f"the provider by itself, {level} in flight")
            found = litellm_proxy.closed(direct, QUESTION, in_flight=level, seconds=seconds)
            lines.append(line("provider alone", level, found, seconds))
        with litellm_proxy.LiteLLMProxy(provider.base_url, folder) as proxy:
            litellm_proxy.closed(proxy.url, QUESTION, in_flight=10, seconds=min(5.0, seconds), key=proxy.key)
            for level in levels:
                tell(f"LiteLLM, {level} in flight")
                meter = Meter({"proxy": proxy.pid, "provider": provider.pid, "client": os.getpid()})
                found = litellm_proxy.closed(proxy.url, QUESTION, in_flight=level, seconds=seconds, key=proxy.key)
                lines.append(line("LiteLLM proxy", level, found, seconds))
                cpu.append(("LiteLLM proxy", level, _parts(meter.ms_per(found.sent))))
    finally:
        provider.stop()
    return lines, cpu


def ours(
    stack: TestStack, folder: Path, levels: Sequence[int], seconds: float, *, search: bool
) -> tuple[list[Line], list[tuple[object, ...]]]:
    """All stages, as ``headrace up`` runs them, with the journal, the ledger, logs and metrics on."""
    name = "Headrace with retrieval" if search else "Headrace"
    subjects = [subject for subject, _ in SUBJECTS]
    searched: Callable[[int], str] = lambda n: f"How does the {subjects[n % len(subjects)]} number {n} work?"  # noqa: E731
    ask = Ask(searched, search=True) if search else Ask(lambda _: QUESTION)
    lines, cpu = [], []
    lane = f"b{secrets.token_hex(3)}"
    with flowing(stack, folder / lane, lane, latency_ms=LATENCY_MS, documents=search) as running:
        running.flow.closed("warm", ask, in_flight=10, seconds=min(5.0, seconds))
        for level in levels:
            tell(f"{name}, {level} in flight")
            meter = Meter({**running.processes, "client": os.getpid()})
            found = running.flow.closed(f"at{level}", ask, in_flight=level, seconds=seconds)
            lines.append(line(name, level, found, seconds))
            cpu.append((name, level, _parts(meter.ms_per(found.sent))))
    return lines, cpu


def _parts(used: dict[str, float]) -> str:
    """Processor time by process, for one cell."""
    counted = sum(ms for name, ms in used.items() if name not in ("provider", "client"))
    return f"**{counted:.1f}** | " + ", ".join(f"{name} {ms:.1f}" for name, ms in used.items())


def ratios(lines: Sequence[Line]) -> str:
    """How many times the proxy's throughput ours is, by requests in flight."""
    theirs = {one[1]: one[2] for one in lines if one[0] == "LiteLLM proxy"}
    told = [f"{one[0]} at {one[1]} in flight {one[2] / theirs[one[1]]:.2f} ×" for one in lines if "Headrace" in one[0]]
    return "Requests a second against the LiteLLM proxy's: " + "; ".join(told) + "."


def main() -> None:
    parser = argparse.ArgumentParser(prog="proxy", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--in-flight", default="10,50,100,200")
    parser.add_argument("--without-retrieval", action="store_true", help="leave out the run with retrieval")
    options = parser.parse_args()
    levels = [int(part) for part in options.in_flight.split(",")]
    litellm_proxy.installed()
    confine()
    with tempfile.TemporaryDirectory(prefix="hr-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        lines, cpu = over_http(folder, levels, options.seconds)
        stack = TestStack(folder / "stack")
        try:
            for search in (False, True)[: 1 if options.without_retrieval else 2]:
                more, used = ours(stack, folder, levels, options.seconds, search=search)
                lines, cpu = lines + more, cpu + used
            about = described(stack, litellm=litellm_proxy.installed_version())
        finally:
            stack.close()
    show(
        table(HEADS, lines),
        ratios(lines),
        table(("CPU ms a request", "in flight", "all but provider and client", "by process"), cpu),
        about,
    )


if __name__ == "__main__":
    main()
