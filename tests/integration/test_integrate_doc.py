"""The programs of docs/integrate.md run as they are, against the real broker and registry."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.records import Answer, Failure, Meta, Request, Text
from streams.publish import Publisher
from streams.reading import TopicReader, partition_for
from streams.topics import topic_name
from tests.support.commands import Commands
from tests.support.stack import TestStack

DOC = Path(__file__).parents[2] / "docs" / "integrate.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```", DOC.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
OURS = {"streams", "schemas", "processors", "infra", "tests"}


@pytest.fixture
def commands(stack: TestStack, lane: str, tmp_path: Path) -> Commands:
    return Commands(stack, lane, tmp_path, ("requests", "answers"))


def run(program: str, commands: Commands, folder: Path, **more: str) -> str:
    """Run a program as a file of its own, in a folder without our packages."""
    path = folder / "program.py"
    path.write_text(program)
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP": commands.settings.kafka.bootstrap,
        "REGISTRY_URL": commands.settings.registry.url,
        "LANE": commands.lane,
        **more,
    }
    ran = subprocess.run(
        [sys.executable, str(path)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_page_has_a_producer_and_a_consumer_of_about_twenty_lines() -> None:
    assert len(PROGRAMS) == 2
    assert all(len([line for line in program.splitlines() if line.strip()]) <= 27 for program in PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_of_ours_is_imported(program: str) -> None:
    imported = set()
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported
    assert not imported & OURS


def test_the_producer_publishes_a_request_that_we_read(commands: Commands, tmp_path: Path) -> None:
    run(PROGRAMS[0], commands, tmp_path, REQUEST_ID="r-1")
    with TopicReader(commands.settings) as reader:
        stretches = reader.ends(reader.places([topic_name("", commands.lane, "requests")]))
        (entry,) = reader.read(stretches)
    assert (entry.key, entry.partition) == (b"r-1", partition_for(b"r-1", commands.settings.partitions))
    request = commands.codec.decode(entry.value or b"", Request)
    meta = Meta(
        event_id=request.meta.event_id, request_id="r-1", tenant="default", lane=commands.lane, stage="producer"
    )
    # What the program left out has the contract's defaults.
    assert request == Request(meta=meta, query=Text(inline="What does the with statement do?"), ttl_ms=60_000)


def test_the_consumer_takes_each_answer_once_and_commits(commands: Commands, tmp_path: Path) -> None:
    # All in one partition, so that their order is known.
    ids = [one for one in (f"r-{n}" for n in range(100)) if partition_for(one.encode(), 4) == 0]
    first, second, third = ids[:3]
    publish(commands, [answer(commands, first), answer(commands, first), answer(commands, second, status="failed")])
    group = {"GROUP": f"{commands.lane}.products"}
    out = run(PROGRAMS[1], commands, tmp_path, ANSWERS="2", **group)
    assert out.splitlines() == [f"{first} answered answer to {first}", f"{second} failed The model gave no text."]
    publish(commands, [answer(commands, third)])
    # What was committed does not come again to the same group.
    again = run(PROGRAMS[1], commands, tmp_path, ANSWERS="1", **group)
    assert again.splitlines() == [f"{third} answered answer to {third}"]


def answer(commands: Commands, request_id: str, *, status: str = "answered") -> Answer:
    failure = Failure(code="empty_output", error_class="policy", message="The model gave no text.")
    return Answer(
        meta=Meta(event_id=f"e-{request_id}", request_id=request_id, tenant="default", lane=commands.lane),
        status=status,
        text=Text(inline=f"answer to {request_id}") if status == "answered" else None,
        failure=None if status == "answered" else failure,
    )


def publish(commands: Commands, answers: list[Answer]) -> None:
    publisher = Publisher(commands.settings, commands.codec, lane=commands.lane)
    for one in answers:
        publisher.publish("answers", one, one.meta.request_id)
    assert publisher.flush() == []
