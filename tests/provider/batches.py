"""OpenAI's Batch API: a file of requests is uploaded, worked on at half price, and its results fetched as a file.

A batch takes ``turns`` looks at it until it is done (2 where the script sets none), so that no test waits for a clock.
Posted to ``/script`` as ``{"batch": {"turns": 3, "end": "completed"}}``; ``end`` may be ``failed`` or ``expired``: of
an expired batch every second request was not worked on. ``without`` ``files`` or ``batches`` they are not served.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import orjson
from aiohttp import web

from tests.provider.calls import BATCH_SHARE
from tests.provider.faults import Script

_MOST_REQUESTS = 50_000

# Answers one body under its custom id at a share of the price: status and body.
AnswerOne = Callable[[Mapping[str, Any], str, Decimal], tuple[int, dict[str, Any]]]


@dataclass(slots=True)
class Batch:
    """A batch while it runs and after."""

    batch_id: str
    input_file: str
    endpoint: str
    metadata: dict[str, str]
    looks: int = 0
    status: str = "validating"
    output_file: str | None = None
    error_file: str | None = None
    completed: int = 0
    failed: int = 0
    total: int = 0

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.batch_id,
            "object": "batch",
            "endpoint": self.endpoint,
            "input_file_id": self.input_file,
            "completion_window": "24h",
            "created_at": 0,
            "status": self.status,
            "output_file_id": self.output_file,
            "error_file_id": self.error_file,
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "metadata": self.metadata,
        }


@dataclass(slots=True)
class Batches:
    """Files and batches, kept while the provider runs."""

    answer: AnswerOne
    script: Script
    files: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    # Files may be deleted: no later one has their name.
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def routes(self) -> list[web.RouteDef]:
        """Where they are served."""
        return [
            web.post("/v1/files", self.upload),
            web.get("/v1/files", self.list_files),
            web.get("/v1/files/{file}/content", self.content),
            web.delete("/v1/files/{file}", self.delete),
            web.post("/v1/batches", self.create),
            web.get("/v1/batches", self.list_batches),
            web.get("/v1/batches/{batch}", self.look),
            web.post("/v1/batches/{batch}/cancel", self.cancel),
        ]

    async def upload(self, request: web.Request) -> web.Response:
        posted = await request.post()
        if self.script.batch_without == "files":
            return web.Response(status=404, text="404 page not found")
        sent = posted["file"]
        assert isinstance(sent, web.FileField)
        name = f"file-{next(self.numbers)}"
        self.files[name], self.names[name] = sent.file.read(), sent.filename
        return web.json_response(self._file(name, str(posted.get("purpose", ""))))

    async def list_files(self, request: web.Request) -> web.Response:
        listed = [self._file(name, "batch") for name in self.names]
        return web.json_response({"object": "list", "data": listed, "has_more": False})

    async def content(self, request: web.Request) -> web.Response:
        body = self.files.get(request.match_info["file"])
        return _missing() if body is None else web.Response(body=body, content_type="application/octet-stream")

    async def delete(self, request: web.Request) -> web.Response:
        name = request.match_info["file"]
        self.names.pop(name, None)
        gone = self.files.pop(name, None) is not None
        return web.json_response({"id": name, "object": "file", "deleted": gone})

    async def create(self, request: web.Request) -> web.Response:
        posted = await request.json()
        if self.script.batch_without == "batches":
            return web.json_response({"detail": "Method Not Allowed"}, status=405)
        requests = self._requests(posted["input_file_id"])
        if requests is None:
            return _missing()
        batch = Batch(
            batch_id=f"batch_{len(self.batches) + 1}",
            input_file=posted["input_file_id"],
            endpoint=posted["endpoint"],
            metadata=posted.get("metadata") or {},
            total=len(requests),
        )
        ids = [one.get("custom_id") for one in requests]
        if len(requests) > _MOST_REQUESTS or len(set(ids)) != len(ids):
            batch.status = "failed"
        self.batches[batch.batch_id] = batch
        return web.json_response(batch.shown())

    async def list_batches(self, request: web.Request) -> web.Response:
        listed = [batch.shown() for batch in reversed(self.batches.values())]
        return web.json_response({"object": "list", "data": listed, "has_more": False})

    async def look(self, request: web.Request) -> web.Response:
        batch = self.batches.get(request.match_info["batch"])
        if batch is None:
            return _missing()
        batch.looks += 1
        if batch.status in ("validating", "in_progress", "finalizing"):
            if batch.looks >= self.script.batch_turns:
                self._finish(batch, self.script.batch_end)
            else:
                batch.status = "in_progress"
        elif batch.status == "cancelling":
            self._finish(batch, "cancelled")
        return web.json_response(batch.shown())

    async def cancel(self, request: web.Request) -> web.Response:
        batch = self.batches.get(request.match_info["batch"])
        if batch is None:
            return _missing()
        if batch.status in ("validating", "in_progress", "finalizing"):
            batch.status = "cancelling"
        return web.json_response(batch.shown())

    def _finish(self, batch: Batch, end: str) -> None:
        batch.status = end
        if end == "failed":
            return
        done: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for n, one in enumerate(self._requests(batch.input_file) or []):
            custom_id = str(one["custom_id"])
            if end == "cancelled" or (end == "expired" and n % 2):
                told = {"code": f"batch_{end}", "message": "CANARY not worked on in time"}
                errors.append({"id": f"r{n}", "custom_id": custom_id, "response": None, "error": told})
                continue
            status, body = self.answer(one["body"], custom_id, BATCH_SHARE)
            response = {"status_code": status, "request_id": f"req_{n}", "body": body}
            line = {"id": f"r{n}", "custom_id": custom_id, "response": response, "error": None}
            (done if status == 200 else errors).append(line)
        # Results come in any order.
        batch.output_file, batch.error_file = self._store(done[::-1]), self._store(errors)
        batch.completed, batch.failed = len(done), len(errors)

    def _requests(self, file: str) -> list[dict[str, Any]] | None:
        body = self.files.get(file)
        return None if body is None else [orjson.loads(line) for line in body.splitlines() if line.strip()]

    def _store(self, lines: list[dict[str, Any]]) -> str | None:
        if not lines:
            return None
        name = f"file-{next(self.numbers)}"
        self.files[name], self.names[name] = b"".join(orjson.dumps(line) + b"\n" for line in lines), f"{name}.jsonl"
        return name

    def _file(self, name: str, purpose: str) -> dict[str, Any]:
        size = len(self.files[name])
        about = {"id": name, "object": "file", "bytes": size, "created_at": 0, "filename": self.names[name]}
        return {**about, "purpose": purpose or "batch", "status": "processed"}


def _missing() -> web.Response:
    return web.json_response({"error": {"message": "CANARY no such thing", "code": "not_found"}}, status=404)
