"""Which checks there are, in the order in which they are told."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from infra.embedded.stack import status
from streams.doctor.checkup import Check, NotCheckedError, ProblemError
from streams.doctor.clocks import look_clocks
from streams.doctor.kafka import look_kafka, look_topics
from streams.doctor.models import CALL_TIMEOUT_S, look_call, look_deployment, look_dimension, look_embeddings
from streams.doctor.postgres import look_migrations, look_pgvector, look_postgres, look_prompts
from streams.doctor.redact import shown_dsn, shown_url
from streams.doctor.registry import look_registry, look_schemas
from streams.settings import Settings

SLOW_S = 12.0


def checks(settings: Settings, *, lane: str, call: bool) -> list[Check]:
    """Every check for these settings. ``call``: also make calls that may cost money."""
    folder = settings.folder
    fixes = {
        "kafka": _bring_up(settings, f"start the broker, or correct kafka.bootstrap ({settings.kafka.bootstrap})"),
        "registry": _bring_up(
            settings, f"start the registry, or correct registry.url ({shown_url(settings.registry.url)})"
        ),
        "postgres": _bring_up(
            settings, f"start Postgres, or correct postgres.dsn ({shown_dsn(settings.postgres.dsn.get_secret_value())})"
        ),
        "embeddings": _bring_up(settings, "start the endpoint, or correct embeddings.base_url"),
    }
    plan = [
        Check(name="stack", look=partial(_look_stack, settings), fix=f"headrace up --folder {folder}"),
        Check(name="kafka", look=partial(look_kafka, settings), fix=fixes["kafka"]),
        Check(name="registry", look=partial(look_registry, settings), fix=fixes["registry"]),
        Check(name="postgres", look=partial(look_postgres, settings), fix=fixes["postgres"]),
        Check(
            name="topics",
            look=partial(look_topics, settings, lane),
            fix=f"headrace topics apply --lane {lane}",
            needs=("kafka",),
            limit_s=SLOW_S,
        ),
        Check(
            name="schemas",
            look=partial(look_schemas, settings),
            fix="headrace schemas register",
            needs=("registry",),
            limit_s=SLOW_S,
        ),
        Check(name="migrations", look=partial(look_migrations, settings), fix="headrace migrate", needs=("postgres",)),
        Check(
            name="pgvector",
            look=partial(look_pgvector, settings),
            fix="install pgvector 0.8 or newer on the server, then: headrace migrate",
            needs=("postgres",),
        ),
        Check(name="embeddings", look=partial(look_embeddings, settings), fix=fixes["embeddings"], limit_s=SLOW_S),
        Check(name="dimension", look=partial(look_dimension, settings), fix="headrace migrate", needs=("postgres",)),
    ]
    for name, deployment in settings.deployments.items():
        fix = _bring_up(settings, f"start the endpoint, or correct deployments.{name}.base_url")
        plan.append(Check(name=f"model {name}", look=partial(look_deployment, deployment), fix=fix))
        plan.append(
            Check(
                name=f"call {name}",
                look=partial(look_call, deployment, allowed=call),
                fix=f"correct deployments.{name}, or look into the endpoint's log",
                needs=(f"model {name}",),
                limit_s=CALL_TIMEOUT_S + 1,
            )
        )
    plan += [
        Check(
            name="prompts",
            look=partial(look_prompts, settings),
            fix="headrace prompt push NAME FILE, or correct routes.NAME.prompt",
            needs=("migrations",),
        ),
        Check(
            name="clocks",
            look=partial(look_clocks, settings, lane),
            fix="see what broker and database log",
            needs=("kafka", "postgres"),
        ),
    ]
    return plan


async def _look_stack(settings: Settings) -> str:
    if settings.stack != "embedded":
        raise NotCheckedError("the stack is external")
    return look_folder(settings.folder)


def look_folder(folder: Path) -> str:
    """Whether the embedded stack of this folder runs with every process ready."""
    state = status(folder)
    if not state.running:
        raise ProblemError(f"no embedded stack runs in {folder}")
    ill = [
        f"{child.name} is {child.status} (log: {child.log})" for child in state.components if child.status != "ready"
    ]
    if ill:
        raise ProblemError("; ".join(ill))
    names = ", ".join(child.name for child in state.components)
    return f"ready in {folder}: {names}"


def _bring_up(settings: Settings, otherwise: str) -> str:
    return f"headrace up --folder {settings.folder}" if settings.stack == "embedded" else otherwise
