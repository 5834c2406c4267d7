"""The bundled model and embeddings, through the clients that reach remote providers too."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from infra.embedded import model_server
from infra.embedded.child import ChildSpec
from infra.embedded.health import is_ready
from infra.embedded.ports import free_port
from tests.support.stack import TestStack


def test_the_model_answers_chats_with_usage(stack: TestStack) -> None:
    with openai.OpenAI(base_url=stack.model_url, api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == [stack.model_name]
        answer = client.chat.completions.create(
            model=stack.model_name, messages=[{"role": "user", "content": "Say hello."}], max_tokens=12
        )
        assert answer.choices[0].message.content
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(
                model=stack.model_name, messages=[{"role": "user", "content": "word " * 3_000}], max_tokens=5
            )


def test_the_embeddings_answer_the_client_that_asks_for_base64(stack: TestStack) -> None:
    with openai.OpenAI(base_url=stack.embeddings_url, api_key="none", max_retries=0) as client:
        reply = client.embeddings.create(model=stack.embeddings_model, input=["one", "two"])
    assert [len(entry.embedding) for entry in reply.data] == [384, 384]
    assert sum(value * value for value in reply.data[0].embedding) == pytest.approx(1, abs=1e-4)


@contextmanager
def started(folder: Path) -> Iterator[tuple[ChildSpec, subprocess.Popen[bytes]]]:
    """A model server of the test's own; one whose port was taken meanwhile is tried with another one."""
    for left in (2, 1, 0):
        spec = model_server.spec(folder, port=free_port())
        with subprocess.Popen(spec.argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + spec.start_timeout_s
            while process.poll() is None and not is_ready(spec.health):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            if process.poll() is None:
                yield spec, process
                return
        assert left, f"it ended with {process.returncode}"


def test_the_model_server_ends_at_once_with_a_call_in_flight(tmp_path: Path) -> None:
    with started(tmp_path) as (spec, process):
        streaming, whole = threading.Event(), threading.Event()
        caller = threading.Thread(target=_stream, args=(spec.port, streaming, whole))
        caller.start()
        assert streaming.wait(120)
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
        caller.join(60)
        assert not whole.is_set(), "it did not wait for the call"


def _stream(port: int | None, streaming: threading.Event, whole: threading.Event) -> None:
    assert port is not None
    with openai.OpenAI(base_url=model_server.url(port), api_key="none", max_retries=0) as client:
        try:
            chunks = client.chat.completions.create(
                model=model_server.MODEL_NAME,
                messages=[{"role": "user", "content": "Tell a very long story about a river."}],
                max_tokens=1_500,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            for _ in chunks:
                streaming.set()
            whole.set()
        except Exception:
            return
