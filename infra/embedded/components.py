"""The components of the stack: how each is prepared, and what others need to reach it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from infra.embedded import embedding_model, embedding_server, kafka, maven, model_server, postgres, registry
from infra.embedded.child import ChildSpec
from infra.embedded.ports import LOOPBACK, free_port
from infra.embedded.progress import OnProgress, Progress

COMPONENTS = (postgres.NAME, kafka.NAME, registry.NAME, embedding_server.NAME, model_server.NAME)
CONTROLLER = "kafka-controller"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Components that are ready to be started. ``endpoints`` and ``versions`` use the keys of ``stack.json``."""

    endpoints: Mapping[str, Any]
    versions: Mapping[str, str]
    ports: Mapping[str, int]
    children: tuple[ChildSpec, ...] = ()


def prepare(
    folder: Path,
    names: Sequence[str],
    remembered: Mapping[str, int],
    kafka_properties: Mapping[str, str],
    on_progress: OnProgress,
) -> Prepared:
    """Make folders and files of the named components, side by side. Keeps the remembered ports that are still free.

    Blocks on downloads and on formatting new data folders. Raises StackError for what can't be prepared.
    """
    ports = _ports(names, remembered)
    makers: dict[str, Callable[[], ChildSpec]] = {
        postgres.NAME: lambda: postgres.spec(folder, port=ports[postgres.NAME]),
        kafka.NAME: partial(_kafka, folder, ports, kafka_properties, on_progress),
        registry.NAME: lambda: registry.spec(
            folder, registry.unpack(on_progress=on_progress), port=ports[registry.NAME]
        ),
        embedding_server.NAME: lambda: embedding_server.spec(folder, port=ports[embedding_server.NAME]),
        model_server.NAME: lambda: model_server.spec(folder, port=ports[model_server.NAME]),
    }
    for name in names:
        on_progress(Progress(name, "preparing"))
    if not names:
        return Prepared({}, {}, {})
    with ThreadPoolExecutor(len(names)) as pool:
        children = tuple(pool.map(lambda name: makers[name](), names))
    endpoints: dict[str, Any] = {}
    versions: dict[str, str] = {}
    for child in children:
        endpoints.update(_endpoints(child.name, ports))
        versions[_VERSION_KEYS.get(child.name, child.name)] = child.version
    return Prepared(endpoints, versions, ports, children)


_VERSION_KEYS = {embedding_server.NAME: "embedding"}


def _kafka(folder: Path, ports: Mapping[str, int], properties: Mapping[str, str], on_progress: OnProgress) -> ChildSpec:
    jars = maven.fetch(kafka.NAME, on_progress=on_progress)
    return kafka.spec(folder, jars, port=ports[kafka.NAME], controller_port=ports[CONTROLLER], extra=properties)


def _ports(names: Sequence[str], remembered: Mapping[str, int]) -> dict[str, int]:
    wanted = [*names, *([CONTROLLER] if kafka.NAME in names else [])]
    ports: dict[str, int] = {}
    reserved = {port for name, port in remembered.items() if name not in wanted}
    for name in wanted:
        ports[name] = free_port(preferred=remembered.get(name), taken=reserved | set(ports.values()))
    return ports


def _endpoints(name: str, ports: Mapping[str, int]) -> dict[str, Any]:
    port = ports[name]
    match name:
        case kafka.NAME:
            return {"kafka_bootstrap": f"{LOOPBACK}:{port}"}
        case registry.NAME:
            return {"registry_url": registry.url(port)}
        case postgres.NAME:
            return {"postgres_dsn": postgres.dsn(port)}
        case embedding_server.NAME:
            return {
                "embeddings_url": embedding_server.url(port),
                "embeddings_model": embedding_model.MODEL_NAME,
                "embedding_dimension": embedding_model.DIMENSION,
            }
        case model_server.NAME:
            return {"model_url": model_server.url(port), "model_name": model_server.MODEL_NAME}
    return {}
