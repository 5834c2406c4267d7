"""Exports, imports and ingested documents as they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

from streams.dead_letters import safe_message
from streams.exporting.export import RECORDS
from streams.exporting.manifest import Manifest
from streams.lineage.code import commit
from streams.lineage.happening import Dataset, Happening, Lineage
from streams.lineage.topics import Topics
from streams.settings import Settings
from streams.topics import input_topics, kind_of, topic_name

FILES = "file"


@contextmanager
def telling(lineage: Lineage, begun: Happening) -> Iterator[Callable[[Happening], None]]:
    """Tell that something begins, and how it ends: with what is handed to the function, or with what was raised.

    Waits at the end for what is not sent yet, as the settings say.
    """
    ended = [replace(begun, phase="COMPLETE")]
    lineage.tell(begun)
    try:
        yield ended.append
    except Exception as error:
        ended.append(replace(begun, phase="FAIL", error=safe_message(error)))
        raise
    except BaseException:
        ended.append(replace(begun, phase="ABORT", error="interrupted"))
        raise
    finally:
        lineage.tell(replace(ended[-1], at=datetime.now(UTC)))
        lineage.close()


def exporting(
    settings: Settings,
    topics: Topics,
    lane: str,
    kinds: Sequence[str],
    *,
    since: datetime | None,
    until: datetime | None,
) -> Happening:
    """An export that begins."""
    named = [topic for kind in kinds for topic in _topics(settings, lane, kind)]
    return _begun(
        f"{settings.prefix}{lane}.export",
        "export",
        "Recorded events as files",
        inputs=tuple(topics.dataset(topic, lane, columns=True) for topic in named),
        since=since,
        until=until if since else None,
        facts={"lane": lane, "kinds": list(kinds)},
    )


def exported(begun: Happening, topics: Topics, manifest: Manifest, folder: Path, settings: Settings) -> Happening:
    """An export that is done."""
    stretches: dict[str, dict[int, tuple[int, int]]] = {}
    for place, (first, end) in manifest.stretches.items():
        topic, _, number = place.rpartition("-")
        stretches.setdefault(topic, {})[int(number)] = (first, end)
    records: dict[str, int] = {}
    for topic in stretches:
        kind = kind_of(topic, settings.prefix, manifest.lane)
        # The requests of several tenants are in the files of one kind.
        if sum(kind_of(one, settings.prefix, manifest.lane) == kind for one in stretches) == 1:
            records[topic] = manifest.records.get(kind, 0)
    inputs = tuple(
        topics.dataset(topic, manifest.lane, stretches=parts, records=records.get(topic))
        for topic, parts in sorted(stretches.items())
    )
    facts = {**begun.facts, "records": dict(manifest.records), "rejected": dict(manifest.rejected)}
    return replace(begun, phase="COMPLETE", inputs=inputs, outputs=(_folder(folder, manifest),), facts=facts)


def importing(settings: Settings, topics: Topics, lane: str, manifest: Manifest, folder: Path) -> Happening:
    """An import that begins."""
    kinds = [kind for kind in dict.fromkeys(part.kind for part in manifest.parts) if kind in RECORDS]
    return _begun(
        f"{settings.prefix}{lane}.import",
        "import",
        "An export, loaded into a lane",
        inputs=(_folder(folder, manifest),),
        outputs=tuple(
            topics.dataset(topic_name(settings.prefix, lane, kind), lane, columns=True)
            for kind in kinds
            if kind != "dead-letters"
        ),
        facts={"lane": lane, "exported_lane": manifest.lane, "exported_at": manifest.exported_at},
    )


def imported(begun: Happening, done: Mapping[str, int]) -> Happening:
    """An import that is done."""
    return replace(begun, phase="COMPLETE", facts={**begun.facts, **done})


def ingesting(settings: Settings, topics: Topics, lane: str, given: Sequence[str]) -> Happening:
    """Documents that begin to be published."""
    return _begun(
        f"{settings.prefix}{lane}.ingest",
        "ingest",
        "Files and web pages, published as documents",
        inputs=tuple(_source(one) for one in given),
        outputs=(topics.dataset(topic_name(settings.prefix, lane, "documents"), lane, columns=True),),
        facts={"lane": lane},
    )


def ingested(begun: Happening, *, published: int, removed: int, problems: int) -> Happening:
    """Documents that are published."""
    [documents] = begun.outputs
    facts = {**begun.facts, "published": published, "removed": removed, "problems": problems}
    return replace(begun, phase="COMPLETE", outputs=(replace(documents, records=published + removed),), facts=facts)


def _begun(
    job: str,
    family: str,
    description: str,
    *,
    facts: Mapping[str, object],
    inputs: tuple[Dataset, ...] = (),
    outputs: tuple[Dataset, ...] = (),
    since: datetime | None = None,
    until: datetime | None = None,
) -> Happening:
    known = {"commit": commit()} if commit() else {}
    return Happening(
        phase="START",
        at=datetime.now(UTC),
        run_id=uuid4(),
        job=job,
        family=family,
        description=description,
        inputs=inputs,
        outputs=outputs,
        since=since,
        until=until,
        facts={**known, **facts},
    )


def _topics(settings: Settings, lane: str, kind: str) -> tuple[str, ...]:
    if kind == "requests":
        return input_topics(settings, lane, kind)
    return (topic_name(settings.prefix, lane, kind),)


def _folder(folder: Path, manifest: Manifest) -> Dataset:
    return Dataset(
        namespace=FILES,
        name=str(folder.absolute()),
        digest=manifest.digest,
        records=sum(part.records for part in manifest.parts),
        size_bytes=sum(part.bytes for part in manifest.parts),
        files=len(manifest.parts),
    )


def _source(given: str) -> Dataset:
    """A file, folder or page. What is behind a page's path may be a token, and is left out."""
    parts = urlsplit(given)
    if parts.scheme in ("http", "https"):
        host = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
        return Dataset(namespace=f"{parts.scheme}://{host}", name=parts.path or "/")
    return Dataset(namespace=FILES, name=str(Path(given).absolute()))
