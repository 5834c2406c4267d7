"""Reading files as documents, good and bad ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Document
from streams.loading import (
    Bounds,
    Found,
    LoadedFile,
    Owner,
    Problem,
    Selection,
    find_sources,
    load,
    load_python_topics,
    load_sources,
)
from streams.loading.parts import PART_BYTES, cut

OWNER = Owner(tenant="acme", namespace="docs")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(*paths: Path) -> list[LoadedFile]:
    return list(load(paths, OWNER))


def documents(loaded: list[LoadedFile]) -> list[Document]:
    return [document for file in loaded for document in file.documents]


def problems(loaded: list[LoadedFile]) -> list[Problem]:
    return [problem for file in loaded for problem in file.problems]


def test_a_text_file_becomes_a_document(here: Path) -> None:
    [document] = documents(read(write(here / "a.txt", "Text\r\n")))
    assert document.body is not None and document.body.inline == "Text\r\n"
    assert (document.document_id, document.title, document.uri) == ("a.txt", "a", "file:a.txt")
    assert (document.meta.tenant, document.namespace, document.media_type) == ("acme", "docs", "text/plain")
    assert document.meta.request_id == "" and len(document.digest) == 64 and document.modified_at is not None


def test_a_markdown_file_is_titled_by_its_heading(here: Path) -> None:
    [document] = documents(read(write(here / "a.md", "intro\n\n# Real title\n")))
    assert (document.title, document.media_type) == ("Real title", "text/markdown")


def test_a_folder_is_read_through_and_hidden_and_other_files_are_passed_over(here: Path) -> None:
    for name in ("b/two.md", "one.txt", ".git/config.txt", "b/.hidden.txt", "b/image.png", "b/c/three.JSONL"):
        write(here / "docs" / name, '{"text": "x"}')
    loaded = read(here / "docs")
    assert [document.document_id for document in documents(loaded)] == [
        "docs/one.txt",
        "docs/b/two.md",
        "docs/b/c/three.JSONL#1",
    ]
    assert not problems(loaded)


def test_a_file_has_one_id_however_it_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(here / "docs" / "a.txt", "x")
    by_file, by_folder, relative = read(path), read(here / "docs"), read(Path("docs/a.txt"))
    assert {documents(loaded)[0].document_id for loaded in (by_file, by_folder, relative)} == {"docs/a.txt"}
    assert len(documents(read(path, here / "docs", path))) == 1
    assert documents(by_file)[0].meta.event_id == documents(by_folder)[0].meta.event_id
    elsewhere = here.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert documents(read(here / "docs"))[0].document_id == "docs/a.txt"


def test_each_line_of_a_jsonl_file_is_a_document(here: Path) -> None:
    lines = [
        {"id": "one", "title": "T", "text": "first", "uri": "u:1", "metadata": {"product": "a", "n": 3, "b": True}},
        {"document_id": 7, "body": "second\u2028still"},
        {"_id": "x", "text": "third", "url": "u:3"},
        {"text": "fourth"},
    ]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n\n"
    found = documents(read(write(here / "d.jsonl", text)))
    assert [d.document_id for d in found] == ["one", "7", "x", "d.jsonl#4"]
    assert found[0].metadata == {"product": "a", "n": "3", "b": "true"}
    assert (found[0].title, found[0].uri, found[2].uri) == ("T", "u:1", "u:3")
    assert found[1].body is not None and found[1].body.inline == "second\u2028still"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{bad", "is not JSON at column 2"),
        ("[1]", "list"),
        ("{}", "has no text or body"),
        ('{"text": ""}', "text is empty"),
        ('{"text": 3}', "text is a JSON int"),
        ('{"text": "a", "id": ""}', "id is empty"),
        ('{"text": "a", "id": true}', "id is a JSON bool"),
        ('{"text": "a\\u0000"}', "NUL"),
        ('{"text": "a\\ud800"}', "surrogate"),
        ('{"text": "a", "metadata": []}', "metadata is a JSON list"),
        ('{"text": "a", "metadata": {"k": {}}}', "metadata.k"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_line_is_named_and_the_others_go_on(here: Path, line: str, named: str) -> None:
    loaded = read(write(here / "d.jsonl", f'{{"id": "a", "text": "x"}}\n{line}\n{{"id": "b", "text": "y"}}'))
    assert [document.document_id for document in documents(loaded)] == ["a", "b"]
    [problem] = problems(loaded)
    assert (problem.file, problem.line) == ("d.jsonl", 2)
    assert named in problem.what and problem.todo
    assert str(problem).startswith("d.jsonl, line 2: ")


@pytest.mark.parametrize(
    ("name", "content", "what", "line"),
    [
        ("a.txt", b"one\ntwo \xff\n", "is not utf-8 at byte 8", 2),
        ("a.txt", b"", "is empty", None),
        ("a.md", b" \n\t\n", "is empty", None),
        ("a.txt", b"one\n\x00", "holds a NUL character", 2),
        ("a.xls", b"\xd0", "files of this kind are not read", None),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}', "is not utf-8 at byte 24", 2),
    ],
)
def test_a_bad_file_gives_nothing_and_the_others_go_on(
    here: Path, name: str, content: bytes, what: str, line: int | None
) -> None:
    loaded = read(write(here / name, content), write(here / "good.txt", "good"))
    assert [document.document_id for document in documents(loaded)] == ["good.txt"]
    [problem] = problems(loaded)
    assert (problem.file, problem.what, problem.line) == (name, what, line)


@pytest.mark.parametrize("name", ["no.txt", "nonexistent", "no.zip"])
def test_a_path_that_is_not_there_is_named(here: Path, name: str) -> None:
    [problem] = problems(read(here / name))
    assert problem.file == name and "No such file" in problem.what


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_understood_and_left_out(here: Path, encoding: str) -> None:
    [document] = documents(read(write(here / "a.txt", "zażółć".encode(encoding))))
    assert document.body is not None and document.body.inline == "zażółć"


def test_an_id_used_twice_is_a_problem(here: Path) -> None:
    write(here / "a.jsonl", '{"id": "x", "text": "1"}\n{"id": "x", "text": "2"}')
    write(here / "b.jsonl", '{"id": "x", "text": "3"}')
    loaded = read(here / "a.jsonl", here / "b.jsonl")
    assert len(documents(loaded)) == 1
    assert [(p.file, p.line) for p in problems(loaded)] == [("a.jsonl", 2), ("b.jsonl", 1)]
    assert "a.jsonl, line 1" in problems(loaded)[0].what


def test_changed_content_is_another_event_and_the_same_content_is_not(here: Path) -> None:
    first = documents(read(write(here / "a.txt", "one")))[0]
    assert documents(read(write(here / "a.txt", "one")))[0].meta.event_id == first.meta.event_id
    assert documents(read(write(here / "a.txt", "two")))[0].meta.event_id != first.meta.event_id


def test_python_carries_its_reference() -> None:
    topics = list(load_python_topics(OWNER))
    assert len(topics) >= 70
    lambdas = next(topic for topic in topics if topic.title == "lambda")
    assert lambdas.uri == "python:topic/lambda" and lambdas.body is not None
    assert sum(len(topic.body.inline or "") for topic in topics if topic.body) > 400_000


def names(found: Found) -> list[str]:
    return [source.name for source in found.sources]


def test_patterns_choose_what_a_folder_gives(here: Path) -> None:
    for name in ("a.md", "b.txt", "old/c.md", "old/d.txt", "deep/old/e.md", ".h.md", "x.bin"):
        write(here / "docs" / name, "x")

    def chosen(**options: Any) -> list[str]:
        return [name.removeprefix("docs/") for name in names(find_sources([here / "docs"], Selection(**options)))]

    assert chosen() == ["a.md", "b.txt", "deep/old/e.md", "old/c.md", "old/d.txt"]
    assert chosen(include=["*.md"]) == ["a.md", "deep/old/e.md", "old/c.md"]
    assert chosen(include=["*.md"], exclude=["old"]) == ["a.md"]
    assert chosen(exclude=["deep/*", "b.*"]) == ["a.md", "old/c.md", "old/d.txt"]
    assert chosen(hidden=True, include=[".*"]) == [".h.md"]
    assert find_sources([here / "docs"]).passed_over == 1
    # What was asked for by name or pattern is never passed over in silence.
    [asked] = load_sources(find_sources([here / "docs"], Selection(include=["x.bin"])).sources, OWNER)
    assert "files of this kind are not read" in asked.problems[0].what


def test_links_are_read_once_and_loops_end(here: Path) -> None:
    write(here / "docs" / "a.txt", "x")
    (here / "docs" / "loop").symlink_to(here / "docs")
    (here / "docs" / "again.txt").symlink_to(here / "docs" / "a.txt")
    (here / "docs" / "lost.txt").symlink_to(here / "nowhere.txt")
    loaded = read(here / "docs")
    assert [document.document_id for document in documents(loaded)] == ["docs/a.txt"]
    assert ["No such file" in problem.what for problem in problems(loaded)] == [True]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_a_folder_that_can_not_be_looked_into_is_named(here: Path) -> None:
    write(here / "docs" / "closed" / "a.txt", "x")
    (here / "docs" / "closed").chmod(0)
    [problem] = find_sources([here / "docs"]).problems
    (here / "docs" / "closed").chmod(0o755)
    assert "can't be looked into: Permission denied" in problem.what


def test_a_name_that_is_no_text_is_named(here: Path) -> None:
    path = os.fsencode(here) + b"/\xff.txt"
    with open(path, "wb") as file:  # noqa: PTH123 (the name is bytes)
        file.write(b"x")
    [problem] = problems(read(here))
    assert "not UTF-8" in problem.what and "\\udcff" in problem.file


def test_a_long_text_becomes_parts_that_say_whose_they_are(here: Path) -> None:
    text = "\n\n".join(f"Paragraph {number} — ends here." for number in range(50_000))
    found = documents(read(write(here / "long.md", "# Long\n\n" + text)))
    assert [document.document_id for document in found] == ["long.md", "long.md#2", "long.md#3"]
    bodies = [document.body.inline or "" for document in found if document.body]
    assert "".join(bodies) == "# Long\n\n" + text
    assert all(body.endswith("ends here.\n\n") for body in bodies[:-1])
    assert max(len(body.encode()) for body in bodies) <= PART_BYTES
    assert {document.title for document in found} == {"Long"}
    assert found[1].metadata == {"part_of": "long.md", "part": "2", "parts": "3"}


@given(st.text(max_size=200), st.integers(min_value=4, max_value=50))
def test_parts_join_to_the_text_whatever_it_is(text: str, limit: int) -> None:
    parts = list(cut(text, limit))
    assert "".join(parts) == text
    assert all(len(part.encode()) <= limit for part in parts)


def test_a_file_over_the_limit_is_refused_unread(here: Path) -> None:
    path = write(here / "a.txt", "x" * 1001)
    [file] = load_sources(find_sources([path]).sources, OWNER, Bounds(max_bytes=1000))
    assert "has 1001 bytes, more than 1000" in file.problems[0].what
