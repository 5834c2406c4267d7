"""``make faults``: SIGKILL the stages from request to books under load; nothing is lost, and nothing paid twice.

``release`` and ``evaluate`` are killed in tests of their own.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.faults.pipeline import scene
from tests.faults.run import Options, Outcome, StalledError, run
from tests.faults.worker import WorkerFailedError
from tests.support.stack import TestStack

PROVIDER = ("--median-ms", "40", "--slow-ms", "2000")
DEFAULT_SEED = 20


def main() -> int:
    """Run and print the account. 0 when nothing was broken, 1 otherwise."""
    arguments = _arguments()
    # As Ctrl-C: what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = Options(
        requests=arguments.requests,
        kills=arguments.kills,
        seed=arguments.seed,
        rate=arguments.rate,
        stock_commit=arguments.stock_commit,
    )
    _say(f"seed {options.seed}: {options.requests} requests, {options.kills} kills, the embedded stack is started")
    folder = Path(tempfile.mkdtemp(prefix="hr-faults-"))
    folder.chmod(0o755)
    passed = False
    try:
        stack = TestStack(folder / "stack")
        try:
            slow = (*PROVIDER, "--slow-share", str(arguments.slow_share), "--seed", str(options.seed))
            with scene(stack, folder / "run", f"f{secrets.token_hex(3)}", *slow) as where:
                outcome = run(where, options, _say)
        finally:
            stack.close()
        passed = bool(outcome.verdict.lost) if options.stock_commit else not outcome.verdict.violations
        sys.stdout.write(_as_json(outcome, options, passed) if arguments.json else _as_text(outcome, options))
    except (StalledError, WorkerFailedError) as error:
        sys.stderr.write(f"faults: {error}\n")
    if passed:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        _say(f"the workers' logs and the provider's are in {folder / 'run'}")
    return 0 if passed else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kill", description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=9)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="of the schedule, the load and the provider")
    parser.add_argument("--rate", type=float, default=150.0, help="requests offered a second")
    parser.add_argument("--slow-share", type=float, default=0.08, help="share of calls that take two seconds")
    parser.add_argument("--stock-commit", action="store_true", help="with Faust's own commit, which has to lose some")
    parser.add_argument("--json", action="store_true", help="print one object")
    return parser.parse_args()


def _as_text(outcome: Outcome, options: Options) -> str:
    verdict = outcome.verdict
    kills = ", ".join(f"{stage} {count}" for stage, count in sorted(verdict.kills.items()))
    duplicates = ", ".join(f"{kind} {count}" for kind, count in verdict.duplicates.items())
    statuses = {"answered": 0, "rejected": 0, "failed": 0, **verdict.statuses}
    lines = [
        f"requests            {verdict.requests}",
        *(f"{status:<19} {count}" for status, count in statuses.items()),
        f"lost                {len(verdict.lost)}",
        f"made up             {len(verdict.phantoms)}",
        f"kills               {sum(verdict.kills.values())} ({kills})",
        f"duplicates          {duplicates} (same id, same bytes)",
        f"redelivered         {_again(outcome)} events came again on a topic, {outcome.redelivered} to a living worker",
        f"input drift         {verdict.drifted} deliveries; counted by the workers {outcome.drift_counted}",
        f"paid calls          {verdict.paid_calls}",
        f"extra paid calls    {verdict.extra_paid_calls}, of {verdict.calls_open_at_kills} open at the kills",
        f"booked unknown      {verdict.booked_unknown} attempts, at their upper bound",
        f"wall time           {outcome.wall_s:.1f} s, under load {outcome.load_s:.1f} s",
    ]
    if options.stock_commit:
        lost = len(verdict.lost)
        lines.append(
            f"Faust's own commit lost {lost} requests" + (", as expected." if lost else ": it has to lose some.")
        )
    elif verdict.violations:
        lines += [f"{len(verdict.violations)} violations:", *(f"  {text}" for text in verdict.violations[:40])]
    else:
        lines.append("Every request has one final answer; every extra paid call was open at a kill and is booked.")
    return "\n".join(lines) + "\n"


def _again(outcome: Outcome) -> int:
    """Events that came again because their cause was delivered again."""
    return sum(count for kind, count in outcome.verdict.duplicates.items() if kind != "requests")


def _as_json(outcome: Outcome, options: Options, passed: bool) -> str:
    verdict = outcome.verdict
    account = {
        "passed": passed,
        "stock_commit": options.stock_commit,
        "seed": options.seed,
        "requests": verdict.requests,
        "statuses": verdict.statuses,
        "lost": len(verdict.lost),
        "lost_ids": verdict.lost,
        "made_up": len(verdict.phantoms),
        "kills": verdict.kills,
        "duplicates": verdict.duplicates,
        "redelivered": {"on_topics": _again(outcome), "to_living_workers": outcome.redelivered},
        "input_drift": {"seen": verdict.drifted, "counted": outcome.drift_counted},
        "paid_calls": verdict.paid_calls,
        "extra_paid_calls": verdict.extra_paid_calls,
        "calls_open_at_kills": verdict.calls_open_at_kills,
        "booked_unknown": verdict.booked_unknown,
        "violations": verdict.violations,
        "wall_s": round(outcome.wall_s, 1),
        "load_s": round(outcome.load_s, 1),
    }
    return json.dumps(account) + "\n"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    raise SystemExit(main())
