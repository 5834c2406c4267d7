"""The embedding model behind OpenAI's embeddings API: ``python -m infra.embedded.embedding_server PORT``."""

from __future__ import annotations

import asyncio
import base64
import importlib.metadata
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web

from infra.embedded.child import ChildSpec, Health, python_argv
from infra.embedded.embedding_model import DIMENSION, MODEL_NAME, Embedded, EmbeddingModel, tokenizer_json, weights
from infra.embedded.ports import LOOPBACK

NAME = "embeddings"
START_TIMEOUT_S = 60.0
STOP_GRACE_S = 5.0
MAX_INPUTS = 2_048
MAX_BODY_BYTES = 16_000_000

EXECUTOR = web.AppKey("executor", ThreadPoolExecutor)
MODEL = web.AppKey("model", EmbeddingModel)


class BadRequestError(Exception):
    """The request's body is not what the API takes; ``param`` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def spec(folder: Path, *, port: int) -> ChildSpec:
    """How to run the embedding server. Raises StackError when model or tokenizer are not installed."""
    weights()
    tokenizer_json()
    return ChildSpec(
        name=NAME,
        kind="component",
        argv=python_argv("infra.embedded.embedding_server", str(port)),
        health=Health("http", f"http://{LOOPBACK}:{port}/health"),
        cwd=str(folder),
        port=port,
        version=f"{MODEL_NAME} int8 (onnxruntime {importlib.metadata.version('onnxruntime')})",
        start_timeout_s=START_TIMEOUT_S,
        stop_grace_s=STOP_GRACE_S,
    )


def url(port: int) -> str:
    """The base address that OpenAI clients take."""
    return f"http://{LOOPBACK}:{port}/v1"


def application(model: EmbeddingModel) -> web.Application:
    """The web application. Inference runs in a thread of its own, one request after another; the loop stays free."""
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app[MODEL] = model
    app[EXECUTOR] = ThreadPoolExecutor(1, thread_name_prefix="embed")
    app.router.add_post("/v1/embeddings", embeddings)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/health", health)
    return app


async def health(_: web.Request) -> web.Response:
    """200 once the model is loaded: the server does not listen before."""
    return web.json_response({"status": "ok"})


async def models(_: web.Request) -> web.Response:
    """The one model."""
    entry = {"id": MODEL_NAME, "object": "model", "owned_by": "headrace", "dimension": DIMENSION}
    return web.json_response({"object": "list", "data": [entry]})


async def embeddings(request: web.Request) -> web.Response:
    """Embed one text or a list of texts."""
    try:
        texts, encoding = parse(await request.text())
    except BadRequestError as error:
        detail = {"message": str(error), "type": "invalid_request_error", "param": error.param, "code": None}
        return web.json_response({"error": detail}, status=400)
    loop = asyncio.get_running_loop()
    embedded = await loop.run_in_executor(request.app[EXECUTOR], request.app[MODEL].embed, texts)
    return web.json_response(reply(embedded, encoding))


def parse(body: str) -> tuple[list[str], str]:
    """The texts and the wished encoding (``float`` or ``base64``). Raises BadRequestError."""
    try:
        data = json.loads(body)
    except ValueError as error:
        raise BadRequestError("the body is not JSON") from error
    if not isinstance(data, dict):
        raise BadRequestError("the body is not a JSON object")
    given = data.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise BadRequestError("input must be a text or a list of texts, none of them empty", "input")
    if len(texts) > MAX_INPUTS:
        raise BadRequestError(f"input has {len(texts)} texts; at most {MAX_INPUTS} are taken", "input")
    if data.get("model") not in (None, MODEL_NAME):
        raise BadRequestError(f"model {data['model']!r} is not served here; it is {MODEL_NAME}", "model")
    if data.get("dimensions") not in (None, DIMENSION):
        raise BadRequestError(f"dimensions must be {DIMENSION}", "dimensions")
    encoding = data.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise BadRequestError("encoding_format must be float or base64", "encoding_format")
    return texts, encoding


def reply(embedded: Embedded, encoding: str) -> dict[str, Any]:
    """The API's answer; base64 is little-endian float32, as OpenAI's."""
    vectors: list[Any]
    if encoding == "base64":
        vectors = [base64.b64encode(vector.astype(np.dtype("<f4")).tobytes()).decode() for vector in embedded.vectors]
    else:
        vectors = embedded.vectors.tolist()
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    usage = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
    return {"object": "list", "model": MODEL_NAME, "data": data, "usage": usage}


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    web.run_app(
        application(EmbeddingModel()),
        host=LOOPBACK,
        port=int(sys.argv[1]),
        print=None,
        access_log=None,
        shutdown_timeout=2.0,
        # Texts of a caller that has gone are not embedded: else a backlog would never be caught up with.
        handler_cancellation=True,
    )


if __name__ == "__main__":
    main()
