"""What is different in one pair: status, text, citations, verdicts, scores, and which way it went."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from rapidfuzz.distance import Indel

from processors.evaluate.sampling import position
from streams.replay.diff.said import GOOD, Said

Scores = Mapping[str, tuple[float | None, float | None]]
# Opinions of users are about the answer that they saw.
NOT_COMPARED = frozenset({"user_rating"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A pair as a row: ``base`` before, ``run`` now.

    ``direction`` is -1 for a regression, 1 for an improvement, else 0; ``severity`` how far it went, from -3 to 3.
    ``edit`` is the share of the characters that stay, ``cosine`` the nearness in meaning, where it was asked for;
    ``None`` where a side has no text. ``draw`` orders the pairs by chance, always alike.
    """

    tenant: str
    request_id: str
    feature: str
    prompt_base: str
    prompt_run: str
    index_base: str
    index_run: str
    route_base: str
    route_run: str
    status_base: str
    status_run: str
    worse: bool
    better: bool
    same_text: bool | None
    edit: float | None
    cosine: float | None
    verdicts: int
    cited_base: int
    cited_run: int
    cited_gone: int
    cited_new: int
    score: float | None
    direction: int
    severity: float
    price_base: int
    price_run: int
    paid_base: int
    paid_run: int
    prompt_tokens_base: int
    prompt_tokens_run: int
    completion_tokens_base: int
    completion_tokens_run: int
    latency_base: float | None
    latency_run: float | None
    draw: int


def compare(base: Said, run: Said, scores: Scores, *, decide: Collection[str], tolerance: float) -> Difference:
    """Compare a pair. ``decide``: the scores whose mean says which way it went, all of them where it is empty;
    by less than ``tolerance`` it went neither way. Costs time by the product of the texts' lengths, over 64.
    """
    was, is_ = base.status in GOOD, run.status in GOOD
    moved = score_change(scores, decide)
    step = int(is_) - int(was)
    severity = 2.0 * step + (moved or 0.0)
    direction = step or (0 if moved is None or abs(moved) < tolerance else 1 if moved > 0 else -1)
    return Difference(
        tenant=base.tenant,
        request_id=base.request_id,
        feature=base.feature or run.feature,
        prompt_base=base.prompt,
        prompt_run=run.prompt,
        index_base=base.index,
        index_run=run.index,
        route_base=base.route,
        route_run=run.route,
        status_base=base.status,
        status_run=run.status,
        worse=step < 0,
        better=step > 0,
        same_text=None if base.text is None and run.text is None else base.text == run.text,
        edit=edit_similarity(base.text, run.text),
        cosine=None,
        verdicts=sum(1 for _ in verdict_changes(base, run)),
        cited_base=len(base.citations),
        cited_run=len(run.citations),
        cited_gone=len(set(base.citations) - set(run.citations)),
        cited_new=len(set(run.citations) - set(base.citations)),
        score=moved,
        direction=direction,
        severity=severity,
        price_base=base.price_pico,
        price_run=run.price_pico,
        paid_base=base.paid_pico,
        paid_run=run.paid_pico,
        prompt_tokens_base=base.prompt_tokens,
        prompt_tokens_run=run.prompt_tokens,
        completion_tokens_base=base.completion_tokens,
        completion_tokens_run=run.completion_tokens,
        latency_base=base.latency_ms,
        latency_run=run.latency_ms,
        # SQLite's integers have a sign.
        draw=position("diff", f"{base.tenant}\x1f{base.request_id}") >> 1,
    )


def edit_similarity(base: str | None, run: str | None) -> float | None:
    """The share of both texts' characters that need not be deleted or inserted to make one of the other, 0 to 1."""
    return None if base is None or run is None else float(Indel.normalized_similarity(base, run))


def score_change(scores: Scores, decide: Collection[str] = ()) -> float | None:
    """The mean change of the scores that both sides have; ``None`` where there is none."""
    changes = [
        run - base
        for name, (base, run) in scores.items()
        if base is not None and run is not None and name not in NOT_COMPARED and (not decide or name in decide)
    ]
    return sum(changes) / len(changes) if changes else None


def verdict_changes(base: Said, run: Said) -> Iterable[tuple[str, str, str]]:
    """Guards whose outcome is another one, with what it was and is; ``none`` where the guard was not run."""
    for guard in sorted({*base.verdicts, *run.verdicts}):
        before, now = base.verdicts.get(guard, "none"), run.verdicts.get(guard, "none")
        if before != now:
            yield guard, before, now
