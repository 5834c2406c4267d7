"""Settings: one frozen object, read once from ``headrace.toml`` and ``HEADRACE_*`` variables.

A nested field is set by two underscores: ``HEADRACE_KAFKA__BOOTSTRAP``. Variables win over the file. With the
embedded stack the endpoints come from ``<folder>/stack.json``; a stack set to ``external`` never falls back to it.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from schemas.errors import ConfigurationError
from streams.budget_settings import BudgetSettings, check_budgets
from streams.cache_settings import check_caches
from streams.complexity import check_complexity
from streams.credentials import PrincipalSettings, SaslSettings, Section, TlsSettings, one_secret, with_password
from streams.embedding_settings import EmbeddingSettings
from streams.evaluate_settings import EvaluateSettings
from streams.limit_settings import LimitSettings, TenantSettings
from streams.lineage_settings import LineageSettings
from streams.retention import FOREVER, Retention
from streams.route_settings import (
    DeploymentSettings,
    FieldError,
    PriceSettings,
    RouteSettings,
    check_overrides,
    check_routes,
    over_embedded,
    reached,
)
from streams.several_checks import check_several
from streams.toml_lines import line_of

CONFIG_VARIABLE = "HEADRACE_CONFIG"
DEFAULT_CONFIG = "headrace.toml"


class KafkaSettings(Section):
    """The broker. ``options`` are librdkafka's names; they reach the commands alone, so security is set here instead.

    ``principals`` are credentials of single stages: a worker of that stage takes them in place of ``tls`` and ``sasl``.
    """

    bootstrap: str = Field(min_length=1)
    options: dict[str, str] = {}
    tls: TlsSettings | None = None
    sasl: SaslSettings | None = None
    principals: dict[str, PrincipalSettings] = {}
    replication: int = Field(default=1, ge=1)
    # A broker that does not acknowledge within this time counts as away; the same bytes are sent again.
    produce_timeout_s: float = Field(default=30.0, gt=0)


class RegistrySettings(Section):
    """The schema registry (Confluent-compatible). ``options`` are confluent-kafka's client names."""

    url: str = Field(min_length=1)
    options: dict[str, str] = {}
    username: str | None = None
    password: SecretStr | None = None
    password_env: str | None = None
    password_file: Path | None = None
    tls: TlsSettings | None = None

    @model_validator(mode="after")
    def _cross_check(self) -> RegistrySettings:
        one_secret(self, "password", needed=self.username is not None)
        if self.tls is not None and not self.tls.check_hostname:
            raise ValueError("tls.check_hostname can't be switched off for the registry; correct its certificate")
        return self


class PostgresSettings(Section):
    """Postgres with pgvector. The DSN may hold a password and is never printed; TLS is ``sslmode`` in it.

    A password from a variable or a file is put into the DSN.
    """

    dsn: SecretStr
    password_env: str | None = None
    password_file: Path | None = None
    pool_size: int = Field(default=16, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _with_password(cls, values: Any) -> Any:
        return with_password(values)


class DeltaSettings(Section):
    """How a streamed text is cut into deltas: after so long, or at so many characters, whichever comes first."""

    interval_ms: float = Field(default=50.0, ge=0, le=5_000)
    characters: int = Field(default=256, ge=1, le=65_536)


class FilterSettings(Section):
    """What the filter lets pass."""

    allow_truncated: bool = False


class ReleaseSettings(Section):
    """Streams. Beyond a limit the stream that began first is ended; its answer has the text."""

    # Longer than a call and the pause before its next attempt take.
    stall_s: float = Field(default=180.0, gt=0)
    most_streams: int = Field(default=10_000, ge=1)
    # Held back, of all streams of a worker together.
    most_characters: int = Field(default=50_000_000, ge=1)
    # Not acknowledged yet, of all streams of a worker together.
    most_deltas: int = Field(default=250_000, ge=1)


class BodySettings(Section):
    """Events that are too large for a topic: their largest texts are stored in Postgres."""

    # Of a whole event; a worker has several in hand. 0: what is over a topic's limit is refused.
    max_bytes: int = Field(default=32_000_000, ge=0, le=500_000_000)
    # What admission lets in, in characters: a message, all messages, all images and other data as base64.
    message_chars: int = Field(default=10_000, ge=1, le=100_000_000)
    total_chars: int = Field(default=200_000, ge=1, le=100_000_000)
    data_chars: int = Field(default=250_000, ge=0, le=100_000_000)

    @model_validator(mode="after")
    def _cross_check(self) -> BodySettings:
        if self.message_chars > self.total_chars:
            raise ValueError("message_chars has to be at most total_chars: one message is all of them at least")
        return self


class StageSettings(Section):
    """How a stage runs; ``None`` leaves the stage's declaration as it is."""

    concurrency: int | None = Field(default=None, ge=1, le=1024)
    timeout_s: float | None = Field(default=None, gt=0)


Days = Annotated[float, Field(ge=1 / 24, le=36_500)] | Literal["forever"]


class RetentionSettings(Section):
    """How long topics and tables are kept, in days or ``"forever"``, by kind; what is left out keeps its default."""

    topics: dict[str, Days] = Field(default_factory=dict)
    tables: dict[str, Days] = Field(default_factory=dict)
    # The broker's offsets.retention.minutes: a group that was away for longer starts again from the oldest event.
    offsets_days: float = Field(default=7.0, ge=0, le=36_500)
    # How often each worker purges tables; 0: only `headrace purge` does.
    purge_interval_s: float = Field(default=3600.0, ge=0)
    # Rows deleted in one transaction.
    purge_batch: int = Field(default=1000, ge=1, le=100_000)

    @model_validator(mode="after")
    def _resolves(self) -> RetentionSettings:
        self.resolved()
        return self

    def resolved(self) -> Retention:
        """The defaults under these settings. Raises ``ValueError`` for what would let a request be paid twice."""
        return Retention.of(_in_days(self.topics), _in_days(self.tables), self.offsets_days)


def _in_days(given: dict[str, float | Literal["forever"]]) -> dict[str, float]:
    return {name: FOREVER if days == "forever" else days for name, days in given.items()}


class WorkerSettings(Section):
    """What holds for every worker process."""

    # How long SIGTERM waits for in-flight work; as long as an attempt may take where it is not set. A call that is cut
    # off may have been paid, so less than that can pay twice. A container's own grace has to be longer.
    grace_s: float | None = Field(default=None, gt=0)
    session_timeout_s: float = Field(default=30.0, ge=6)
    heartbeat_s: float = Field(default=3.0, gt=0)
    rebalance_timeout_s: float = Field(default=180.0, gt=0)
    request_timeout_s: float = Field(default=200.0, gt=0)
    commit_interval_s: float = Field(default=1.0, gt=0)
    lease_s: float = Field(default=15.0, gt=0)
    http_host: str = "127.0.0.1"
    http_port: int = Field(default=0, ge=0, le=65535)
    failpoint: str | None = None
    # Prompt and answer texts in logs. Off: they hold personal data.
    log_content: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(BaseSettings):
    """All settings. Endpoints without a default are required."""

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        nested_model_default_partial_update=True,
    )

    stack: Literal["embedded", "external"] = "embedded"
    folder: Path = Path(".headrace")
    prefix: str = Field(default="", pattern=r"^[a-zA-Z0-9._-]*$")
    trust_producers: bool = True
    kafka: KafkaSettings
    registry: RegistrySettings
    postgres: PostgresSettings
    embeddings: EmbeddingSettings
    deployments: dict[str, DeploymentSettings]
    # By provider/model, with a shell's wildcards; they win over the price library.
    prices: dict[str, PriceSettings] = {}
    routes: dict[str, RouteSettings]
    default_route: str = "default"
    tenants: dict[str, TenantSettings] = {"default": TenantSettings()}
    limits: LimitSettings = LimitSettings()
    budgets: dict[str, BudgetSettings] = {}
    filter: FilterSettings = FilterSettings()
    release: ReleaseSettings = ReleaseSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    stages: dict[str, StageSettings] = {}
    deltas: DeltaSettings = DeltaSettings()
    bodies: BodySettings = BodySettings()
    worker: WorkerSettings = WorkerSettings()
    retention: RetentionSettings = RetentionSettings()
    lineage: LineageSettings = LineageSettings()
    partitions: int = Field(default=4, ge=1, le=1000)
    # The file that they were read from.
    _file: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _cross_check(self) -> Settings:
        for name in self.prices:
            if not all(name.partition("/")[::2]):
                raise FieldError(("prices", name), "names no model; write provider/model, as in openai/gpt-4o*")
        check_several(self.routes, self.deployments)
        check_routes(self.routes, self.deployments)
        check_complexity(self.routes, self.deployments)
        for name, tenant in self.tenants.items():
            check_overrides(name, tenant.routes, self.routes)
        check_budgets(self.budgets, () if self.trust_producers else self.tenants)
        for name in self.tenant_topics:
            # A dot would make one tenant's topics look like another's.
            if not re.fullmatch(r"[a-zA-Z0-9_-]{1,100}", name):
                raise ValueError(
                    f"tenants.{name}: a tenant with topics of its own is named by letters, digits, _ and -"
                )
        check_caches({name: route.cache for name, route in self.routes.items()}, self.retention.resolved())
        for name in self.evaluate.routes:
            if name not in self.routes:
                raise ValueError(f"evaluate.routes.{name} is no route")
        if self.default_route not in self.routes:
            raise FieldError(("default_route",), f"is {self.default_route!r}, which is no route")
        worker = self.worker
        if worker.heartbeat_s * 3 > worker.session_timeout_s:
            raise ValueError("worker.heartbeat_s has to be at most a third of worker.session_timeout_s")
        if not worker.session_timeout_s <= worker.request_timeout_s:
            raise ValueError("worker.session_timeout_s has to be at most worker.request_timeout_s")
        if not worker.rebalance_timeout_s < worker.request_timeout_s:
            raise ValueError("worker.rebalance_timeout_s has to be less than worker.request_timeout_s")
        return self

    @property
    def caps(self) -> dict[str, int]:
        """How many requests of a tenant may be in the stream, for tenants with a limit to that."""
        return {name: tenant.max_in_flight for name, tenant in self.tenants.items() if tenant.max_in_flight}

    @property
    def tenant_topics(self) -> tuple[str, ...]:
        """The tenants with topics of their own: all, where producers are not trusted and there are several."""
        return tuple(sorted(self.tenants)) if not self.trust_producers and len(self.tenants) > 1 else ()

    @property
    def call_concurrency(self) -> int:
        """How many events its ``complete`` stage has in hand: as many as the deployments of its routes take calls.

        Twice as many where requests wait for each other's answers, so that others can be called meanwhile.
        """
        used = frozenset().union(*(reached(name, self.routes, self.deployments) for name in self.routes))
        waits = any(route.cache.waits for route in self.routes.values())
        return sum(self.deployments[name].max_concurrency for name in used) * (2 if waits else 1)

    def at(self, *path: str) -> str:
        """A field's place, for a message: its file and line, where a file sets it, and its name."""
        return _place(self._file, path)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 (the signature is pydantic's)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # What load_settings passes in comes from files, so variables go before it.
        return env_settings, init_settings


def load_settings(config: Path | None = None, *, folder: Path | None = None) -> Settings:
    """Read the settings. Blocks on two small files; raises ``ConfigurationError`` that names the field at fault."""
    values = _read_file(config)
    if folder is not None:
        values["folder"] = str(folder)
    stack = os.environ.get("HEADRACE_STACK", values.get("stack", "embedded"))
    if stack == "embedded":
        where = Path(os.environ.get("HEADRACE_FOLDER", values.get("folder", ".headrace")))
        values = _merge(over_embedded(_embedded(where), values), values)
    file = _file_of(config)
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, stack, file if file.exists() else None)) from None
    settings._file = file if file.exists() else None
    return settings


def _file_of(config: Path | None) -> Path:
    return config or Path(os.environ.get(CONFIG_VARIABLE, DEFAULT_CONFIG))


def _read_file(config: Path | None) -> dict[str, Any]:
    path = _file_of(config)
    if not path.exists():
        if config is not None or CONFIG_VARIABLE in os.environ:
            raise ConfigurationError(f"{path} does not exist; correct {CONFIG_VARIABLE} or write the file")
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is no valid TOML: {error}") from None


def _embedded(folder: Path) -> dict[str, Any]:
    """What the embedded stack wrote about itself; empty while it was never up."""
    path = folder / "stack.json"
    if not path.exists():
        return {}
    try:
        endpoints = json.loads(path.read_text()).get("endpoints", {})
    except (ValueError, AttributeError):
        raise ConfigurationError(f"{path} can't be read; run `headrace down`, then `headrace up`") from None
    if not endpoints:
        return {}
    local = {"base_url": f"{endpoints['model_url']}", "model": endpoints["model_name"], "provider": "llama_cpp"}
    # The bundled server has four slots of 2,048 tokens.
    local |= {"max_concurrency": 4, "context_tokens": 2048, "default_max_tokens": 160}
    # Nobody bills it.
    local |= {"price": {"prompt": "0", "completion": "0"}}
    return {
        "kafka": {"bootstrap": endpoints["kafka_bootstrap"]},
        "registry": {"url": endpoints["registry_url"]},
        "postgres": {"dsn": endpoints["postgres_dsn"]},
        "embeddings": {
            "base_url": endpoints["embeddings_url"],
            "model": endpoints["embeddings_model"],
            "dimension": endpoints["embedding_dimension"],
        },
        "deployments": {"local": local},
        "routes": {"default": {"deployment": "local"}},
        # The bundled model seldom ends by itself; what it said up to its limit is published with a verdict.
        "filter": {"allow_truncated": True},
        # The embeddings are at hand and cost nothing.
        "evaluate": {"rate": 1.0},
    }


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _explain(error: ValidationError, stack: str, file: Path | None) -> str:
    lines = []
    for problem in error.errors(include_input=False, include_url=False):
        cause, path, said = problem.get("ctx", {}).get("error"), problem["loc"], f": {problem['msg']}"
        if isinstance(cause, FieldError):
            path, said = (*path, *cause.path), f" {cause.said}"
        elif problem["type"] == "extra_forbidden":
            said = ": there is no such setting; correct or remove it"
        lines.append(_place(file, tuple(str(part) for part in path)) + said)
    hint = "; the embedded stack is not up: run `headrace up`" if stack == "embedded" else ""
    missing = any(problem["type"] == "missing" for problem in error.errors())
    return "settings: " + "; ".join(lines) + (hint if missing else "")


def _place(file: Path | None, path: tuple[str, ...]) -> str:
    name = ".".join(path) or "settings"
    line = line_of(file.read_text(encoding="utf-8"), path) if file is not None and file.exists() else None
    return name if line is None else f"{file}:{line}: {name}"
