"""The demonstration's questions and requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import ConfigurationError
from streams.demo.asking import Manner, request_of
from streams.demo.failure import failure
from streams.demo.questions import QUESTIONS, read_questions


def test_there_are_at_least_twelve_different_questions() -> None:
    assert len(set(QUESTIONS)) == len(QUESTIONS) >= 12


def test_the_same_question_again_is_another_request() -> None:
    manner = Manner(namespace="n")
    first, second = request_of("Why?", manner), request_of("Why?", manner)
    assert first.meta.request_id != second.meta.request_id
    assert first.meta.event_id != second.meta.event_id
    assert first.retrieval.namespaces == ("n",)
    assert first.retrieval.k == 3


def test_a_file_of_questions_has_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "questions.txt"
    path.write_text("# about Python\n\n  What is a class?  \nWhat is a module?\n", encoding="utf-8")
    assert read_questions(path) == ("What is a class?", "What is a module?")


@pytest.mark.parametrize("content", ["", "# nothing\n", None])
def test_a_file_without_questions_is_refused_by_name(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "questions.txt"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"--questions .*questions\.txt"):
        read_questions(path)


def test_a_failure_without_a_stack_says_that_it_was_stopped(tmp_path: Path) -> None:
    assert "was stopped" in str(failure(tmp_path, "no answer", suspects=("complete",)))
