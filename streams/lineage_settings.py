"""Where lineage events go: to nobody, unless an address or a file is named."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import Field, SecretStr, model_validator

from streams.credentials import Section, one_secret


class LineageSettings(Section):
    """OpenLineage events of replays, exports, imports and ingested documents; docs/lineage.md.

    ``url`` takes them over HTTP, ``file`` gets a line each. ``parent`` is the run that this one belongs to, as
    ``NAMESPACE/JOB/RUN-ID``: whatever starts our commands says so in ``HEADRACE_LINEAGE__PARENT``.
    """

    url: str = ""
    endpoint: str = "api/v1/lineage"
    api_key: SecretStr | None = None
    api_key_env: str | None = None
    api_key_file: Path | None = None
    file: Path | None = None
    # Of the jobs, in the catalogue.
    namespace: str = Field(default="headrace", min_length=1)
    # Of an attempt to send, and of the wait for what is not sent when a command ends.
    timeout_s: float = Field(default=5.0, gt=0, le=300)
    # How often a run that goes on says so; 0: never.
    running_s: float = Field(default=60.0, ge=0)
    parent: str = ""

    @model_validator(mode="after")
    def _cross_check(self) -> LineageSettings:
        one_secret(self, "api_key")
        if self.url and self.file is not None:
            raise ValueError("url and file: set one of them")
        if self.url:
            _check_url(self.url)
        elif self.secured:
            raise ValueError("api_key goes with url, which is not set")
        if self.parent:
            self.parent_run()
        return self

    @property
    def on(self) -> bool:
        """Whether anything is told."""
        return bool(self.url) or self.file is not None

    @property
    def secured(self) -> bool:
        """Whether there is a key to send."""
        return any(one is not None for one in (self.api_key, self.api_key_env, self.api_key_file))

    def parent_run(self) -> tuple[str, str, str] | None:
        """Namespace, job and run id of the parent. Raises ``ValueError`` for what is none."""
        if not self.parent:
            return None
        # A namespace may be an address, with slashes of its own.
        parts = self.parent.rsplit("/", 2)
        try:
            if len(parts) != 3 or not all(parts):
                raise ValueError
            return parts[0], parts[1], str(UUID(parts[2]))
        except ValueError:
            raise ValueError("parent has to be NAMESPACE/JOB/RUN-ID, with a UUID at its end") from None


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise ValueError("url has to be an http or https address, e.g. http://marquez:5000")
    if parts.username is not None or parts.password is not None or parts.query:
        # Never quoted: it may be a secret.
        raise ValueError("url must hold no login and no query; set api_key_env to the variable that holds the key")
