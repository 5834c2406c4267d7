"""What a provider's Batch API does for us, and a fake one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import orjson

from processors.complete.routes import Deployment

# Under this name in a batch's metadata is our own id of it.
METADATA = "headrace_batch"
# States of a batch at OpenAI that end it.
FINAL = frozenset({"completed", "failed", "expired", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A batch as its provider shows it."""

    provider_batch: str
    status: str
    output_file: str | None = None
    error_file: str | None = None
    input_file: str | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.status in FINAL


class BatchProvider(Protocol):
    """Every method is one exchange, bounded in time, and raises a ``ProviderError`` that holds none of its text."""

    async def upload(self, deployment: Deployment, name: str, data: bytes) -> str:
        """Upload a file of requests; its id. Costs nothing, however often."""
        ...

    async def create(self, deployment: Deployment, file: str, batch_id: str) -> Seen:
        """Make a batch of a file, with our id of it. Costs money as soon as it is sent."""
        ...

    async def find(self, deployment: Deployment, batch_id: str) -> Seen | None:
        """The batch that has our id, of the newest few thousand."""
        ...

    async def look(self, deployment: Deployment, provider_batch: str) -> Seen:
        """A batch as it is now."""
        ...

    async def cancel(self, deployment: Deployment, provider_batch: str) -> None:
        """Ask to end a batch; what was worked on stays paid."""
        ...

    def download(self, deployment: Deployment, file: str) -> AsyncIterator[bytes]:
        """The bytes of a file, in pieces."""
        ...

    async def discard(self, deployment: Deployment, file: str) -> None:
        """Delete a file."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


@dataclass(slots=True)
class _Made:
    seen: Seen
    batch_id: str
    requests: list[dict[str, Any]]


@dataclass(slots=True)
class FakeProvider:
    """A provider in memory. ``turns`` looks end a batch with ``end``; ``answer`` gives each request's reply line.

    ``fail`` raises by the name of the method, once each, before anything is done, and ``fail_after`` behind it.
    """

    turns: int = 1
    end: str = "completed"
    answer: Callable[[dict[str, Any]], dict[str, Any] | None] = field(default=lambda one: reply_line(one))  # noqa: PLW0108
    fail: dict[str, Exception] = field(default_factory=dict)
    # A batch is made, and the reply to that is lost.
    fail_after: dict[str, Exception] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    made: list[_Made] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    @property
    def paid(self) -> list[str]:
        """The ids of all requests of all batches."""
        return [str(one["custom_id"]) for made in self.made for one in made.requests]

    async def upload(self, deployment: Deployment, name: str, data: bytes) -> str:  # noqa: ARG002
        self._called("upload")
        return self._store(data)

    async def create(self, deployment: Deployment, file: str, batch_id: str) -> Seen:  # noqa: ARG002
        self._called("create")
        requests = [orjson.loads(line) for line in self.files[file].splitlines()]
        seen = Seen(provider_batch=f"b{len(self.made) + 1}", status="validating", input_file=file)
        self.made.append(_Made(seen, batch_id, requests))
        if "create" in self.fail_after:
            raise self.fail_after.pop("create")
        return seen

    async def find(self, deployment: Deployment, batch_id: str) -> Seen | None:  # noqa: ARG002
        self._called("find")
        return next((made.seen for made in self.made if made.batch_id == batch_id), None)

    async def look(self, deployment: Deployment, provider_batch: str) -> Seen:  # noqa: ARG002
        self._called("look")
        made = next(one for one in self.made if one.seen.provider_batch == provider_batch)
        if not made.seen.over and self.calls.count("look") >= self.turns:
            lines = [] if self.end == "failed" else [self.answer(one) for one in made.requests]
            told = [orjson.dumps(line) for line in lines if line is not None]
            file = self._store(b"\n".join(told)) if told else None
            made.seen = replace(made.seen, status=self.end, output_file=file)
        return made.seen

    async def cancel(self, deployment: Deployment, provider_batch: str) -> None:  # noqa: ARG002
        self._called("cancel")
        self.end = "cancelled"

    async def download(self, deployment: Deployment, file: str) -> AsyncIterator[bytes]:  # noqa: ARG002
        self._called("download")
        data = self.files[file]
        for start in range(0, len(data), 100):
            yield data[start : start + 100]

    async def discard(self, deployment: Deployment, file: str) -> None:  # noqa: ARG002
        self._called("discard")
        self.files.pop(file, None)

    async def close(self) -> None:
        """Nothing is open."""

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fail:
            raise self.fail.pop(name)

    def _store(self, data: bytes) -> str:
        name = f"f{len(self.calls)}"
        self.files[name] = data
        return name


def reply_line(request: dict[str, Any], text: str = "An answer.") -> dict[str, Any]:
    """The line of a request that was answered: ten tokens in, five out."""
    body = {
        "id": f"chatcmpl-{request['custom_id'][:8]}",
        "object": "chat.completion",
        "model": request["body"]["model"],
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }
    response = {"status_code": 200, "request_id": "req", "body": body}
    return {"id": "r", "custom_id": request["custom_id"], "response": response, "error": None}
