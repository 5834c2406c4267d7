"""What an audit says of an answer's origins, as branches of its tree: prompts, passages, verdicts and control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text
from rich.tree import Tree

from streams.cli.lines import clean

SHORT = 12


def add_sections(top: Tree, explained: Mapping[str, Any]) -> None:
    """Add a branch for each part that has something to say."""
    for title, lines in (
        ("prompts", _prompts(explained)),
        ("passages", _passages(explained)),
        ("guards", _verdicts(explained)),
        ("routing", _routing(explained)),
        ("control", _control(explained)),
        ("erasures", _erasures(explained)),
    ):
        branch: Tree | None = None
        for line in lines:
            branch = branch or top.add(Text(title, style="bold"))
            branch.add(Text(clean(line)))


def _prompts(explained: Mapping[str, Any]) -> Iterator[str]:
    for one in explained["prompts"]:
        digest = f" {one['digest'][:SHORT]}" if one["digest"] else " is not stored any more"
        if one["is_current"]:
            yield f"{one['prompt']}{digest} · still the current one"
            continue
        yield f"{one['prompt']}{digest} · now {one['current']} is live"
        for line in (one["diff"] or "").splitlines():
            yield f"  {line}"


def _passages(explained: Mapping[str, Any]) -> Iterator[str]:
    for version in explained["index_versions"]:
        yield f"index {version} · embedded by {', '.join(explained['embedding_models']) or 'nobody knows whom'}"
    for one in explained["passages"]:
        now = one["document_now"]
        if now is None:
            state = "not in the index now"
        elif now["deleted"]:
            state = "its document was removed"
        else:
            state = "its document has changed since" if now["changed"] else "its document is unchanged"
        cited = " · cited" if one["cited"] else ""
        yield (
            f"[{one['number']}] {one['namespace']}/{one['document_id']} {one['digest'][:SHORT]} of document "
            f"{one['document_digest'][:SHORT]} · score {one['score']:.3f}{cited} · {state}"
        )


def _verdicts(explained: Mapping[str, Any]) -> Iterator[str]:
    for one in explained["verdicts"]:
        what = " ".join(str(part) for part in (one["category"], one["detail"]) if part)
        spans = ", ".join(f"{span['kind']} {span['start_char']}-{span['end_char']}" for span in one["spans"])
        yield f"{one['stage']} {one['guard']} {one['outcome']} {what}{f' · {spans}' if spans else ''}".rstrip()


def _routing(explained: Mapping[str, Any]) -> Iterator[str]:
    for one in explained["routing"]:
        hard, hedge = one["complexity"], one["hedge"]
        if hard is not None:
            where = "the request named a model" if hard["requested"] else hard["target"] or "the route itself"
            spread = "none" if hard["spread"] is None else f"{hard['spread']:.3f}"
            yield (
                f"{hard['name']} because of {', '.join(hard['reasons'])} · to {where} · "
                f"{hard['prompt_tokens']} tokens, {hard['question']} question, "
                f"effort {hard['reasoning_effort'] or 'none asked for'}, {hard['passages']} passages, spread {spread}"
            )
        if hedge is not None:
            basis = f"of {hedge['samples']} calls" if hedge["samples"] else "of the settings"
            yield (
                f"hedged after {hedge['after_ms']:.0f} ms ({basis}) by attempt {hedge['attempt']} · "
                f"attempt {hedge['won']} at {one['deployment']} answered first"
            )
        yield from _cascade(one["cascade"])
        yield from _fan_out(one["fan_out"])


def _cascade(cascade: Mapping[str, Any] | None) -> Iterator[str]:
    """A line for each reply that was checked before a stronger model was asked."""
    for step in cascade["steps"] if cascade is not None else ():
        found = " ".join(str(part) for part in (step["check"], step["code"]) if part)
        figure = "" if step["value"] is None else f" · {step['value']:g}, at least {step['threshold']:g} was wanted"
        yield f"attempt {step['attempt']} at {step['deployment']} {step['outcome']} {found}".rstrip() + figure
    if cascade is not None and cascade["reason"]:
        yield f"the reply stands all the same: {cascade['reason']}"


def _fan_out(fan_out: Mapping[str, Any] | None) -> Iterator[str]:
    """A line for what was made of the samples, and one for each of them."""
    if fan_out is None:
        return
    agreed = "" if fan_out["agreement"] is None else f" · {fan_out['agreement']:.0%} agree"
    by = fan_out["field"] or fan_out["scorer"]
    yield (
        f"{fan_out['aggregate']}{f' by {by}' if by else ''} · {fan_out['answered']} of {len(fan_out['samples'])} "
        f"answered, {fan_out['needed']} needed{agreed}"
    )
    for one in fan_out["samples"]:
        said = [f"sample {one['number']} {one['outcome']}", f"at {one['deployment'] or 'no deployment'}"]
        said += [one["code"]] if one["code"] else []
        said += ["used"] if one["used"] else []
        said += [] if one["group"] is None else [f"votes as sample {one['group']}"]
        said += [] if one["score"] is None else [f"score {one['score']:.3f}"]
        yield " · ".join(
            [*said, f"{len(one['attempts'])} attempts", f"${one['cost_usd'] or 0}", f"call {one['call_id']}"]
        )


def _control(explained: Mapping[str, Any]) -> Iterator[str]:
    for moment in explained["control"]:
        live = ", ".join(
            f"{one['kind']} {one['name']}{'@' + one['version'] if one['version'] else ''}" for one in moment["live"]
        )
        at = "before the first record" if moment["offset"] < 0 else f"offset {moment['offset']}"
        ended = " · the request was cancelled" if moment["cancelled"] else ""
        yield f"{at} for {', '.join(moment['stages'])}: {live or 'nothing was made live'}{ended}"


def _erasures(explained: Mapping[str, Any]) -> Iterator[str]:
    for one in explained["erasures"]:
        who = f" by {one['author']}" if one["author"] else ""
        yield f"{one['topic']}-{one['partition']}@{one['offset']} {one['erased_at']}{who}: {one['reason']}"
