"""What the schema registry holds, against the contracts of this version."""

from __future__ import annotations

from schemas.compat import version_findings
from schemas.files import event_schemas
from streams import security
from streams.doctor.checkup import ProblemError
from streams.doctor.redact import shown_url
from streams.probes import probe_registry
from streams.settings import Settings


async def look_registry(settings: Settings) -> str:
    """Whether it answers."""
    await probe_registry(settings.registry)()
    return shown_url(settings.registry.url)


async def look_schemas(settings: Settings) -> str:
    """Whether every contract is registered, and can live with every version that the registry holds of it."""
    today = event_schemas()
    holdings = await security.registry(settings.registry).holdings(today)
    missing = [name for name, holding in holdings.items() if holding.schema_id is None]
    broken = [
        f"{finding.record}.{finding.field}: {finding.rule}"
        for name, holding in holdings.items()
        for version in holding.versions
        for finding in version_findings(today, {name: version.schema}, f"id {version.schema_id}")
    ]
    if broken:
        raise ProblemError(
            f"not compatible with what the registry holds: {'; '.join(broken[:5])}",
            "deploy the version of Headrace that registered them, or give the lane a registry of its own",
        )
    if missing:
        raise ProblemError(f"not registered: {', '.join(missing)}")
    versions = sum(len(holding.versions) for holding in holdings.values())
    return f"{len(today)} contracts registered, compatible with all {versions} versions held"
