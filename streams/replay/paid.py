"""What a run would pay that nobody could tell or limit: refused before it is begun."""

from __future__ import annotations

from datetime import UTC, datetime

from schemas.errors import ConfigurationError
from streams.deployed import embedding_terms, routes
from streams.replay.run import Run
from streams.settings import Settings
from streams.several import scores_replies

_MANY = 1_000_000


def check_embeddings(settings: Settings, stages: tuple[str, ...]) -> None:
    """Raise ``ConfigurationError`` where a stage would buy embeddings: a replay neither limits nor books them."""
    if embedding_terms(settings) is None:
        return
    policy = settings.evaluate
    buying = {
        "enrich": True,
        "complete": "complete" in stages and any(scores_replies(route) for route in routes(settings).values()),
        "evaluate": policy.groundedness or policy.relevance,
    }
    found = [name for name in stages if buying.get(name)]
    if found:
        raise ConfigurationError(
            f"{', '.join(found)} would buy embeddings of {settings.embeddings.model}, and a replay can neither limit "
            "nor book what they cost: leave the stage out, or set [embeddings] to an endpoint whose calls are free"
        )


def unpriced(run: Run) -> bool:
    """Whether the run makes calls that a dry run can't price: what they ask comes of a stage before them."""
    return "complete" in run.stages[1:]


def check_limit(run: Run, settings: Settings) -> None:
    """Raise ``ConfigurationError`` for a run without a limit whose price nobody can tell, unless its calls are free."""
    if not unpriced(run) or run.config.max_cost_usd is not None:
        return
    now = datetime.now(UTC)
    offered = [one for route in routes(settings).values() for one in route.deployments]
    if any(one.price.most(_MANY, _MANY, now) for one in offered):
        raise ConfigurationError(
            f"what complete asks is made by {run.stages[0]}, so its calls can't be priced before: say --max-cost USD"
        )
