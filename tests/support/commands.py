"""Running commands of the command line in a test, against the test stack."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from schemas.codec import Codec
from schemas.files import event_schemas
from schemas.registry import Registry
from streams.cli import main
from streams.settings import Settings
from streams.topics import apply, compare
from tests.support.settings import settings_for
from tests.support.stack import TestStack


@dataclass(frozen=True)
class Ran:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Every line of stdout, as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


class Commands:
    """The command line with settings for the test stack, a lane with topics, and its codec.

    ``sections``: of the settings, beside what the stack has; none of them answers where it is left out.
    """

    def __init__(
        self, stack: TestStack, lane: str, folder: Path, kinds: tuple[str, ...], sections: str | None = None
    ) -> None:
        self.lane = lane
        self.settings: Settings = settings_for(stack)
        apply(self.settings, lane, compare(self.settings, lane, kinds))
        asyncio.run(Registry(stack.registry_url).register(event_schemas()))
        self.codec = asyncio.run(Codec.connect(stack.registry_url))
        self.config = folder / "headrace.toml"
        self.config.write_text(config_toml(stack, NO_PROVIDER if sections is None else sections))

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "HEADRACE_CONFIG": str(self.config)}

    def run(self, *arguments: str, stdin: bytes | None = None) -> Ran:
        """Run ``headrace`` in this process."""
        return run_headrace(*arguments, environment=self.environment, stdin=stdin)


def run_headrace(*arguments: str, environment: Mapping[str, str], stdin: bytes | None = None) -> Ran:
    """Run ``headrace`` in this process with these variables beside the ones there are."""
    out, err = io.StringIO(), io.StringIO()
    source = io.TextIOWrapper(io.BytesIO(stdin or b""))
    changed = patch.multiple(sys, argv=["headrace", *arguments], stdin=source)
    # This process is the test's own, and could not take it back.
    patient = patch("os.setpriority")
    with patch.dict(os.environ, environment), changed, patient, redirect_stdout(out), redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return Ran(code, out.getvalue(), err.getvalue())


def config_toml(stack: TestStack, sections: str, *, dsn: str = "") -> str:
    """Settings for the test stack, with ``sections`` below. ``dsn``: of another database."""
    return f"""
stack = "external"
[kafka]
bootstrap = "{stack.kafka_bootstrap}"
[registry]
url = "{stack.registry_url}"
[postgres]
dsn = "{dsn or stack.postgres_dsn}"
{sections}"""


# Nobody listens there.
NO_EMBEDDINGS = """
[embeddings]
base_url = "http://127.0.0.1:9/v1"
model = "none"
"""
NO_PROVIDER = f"""
{NO_EMBEDDINGS}
[deployments.local]
base_url = "http://127.0.0.1:9/v1"
model = "none"
[routes.default]
deployment = "local"
"""
