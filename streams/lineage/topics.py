"""Topics as datasets: their names in a catalogue, and what their records are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from schemas.codec import Codec
from schemas.files import event_schemas
from schemas.record import Record
from streams.exporting.export import RECORDS
from streams.lineage.happening import Column, Contract, Dataset
from streams.settings import Settings
from streams.topics import kind_of

Stretches = Mapping[int, tuple[int, int]]


class Topics:
    """Makes datasets of topics. ``columns`` of records are told where they are asked for: they are long."""

    def __init__(self, settings: Settings, codec: Codec | None = None) -> None:
        self._prefix, self._codec = settings.prefix, codec
        self._namespace = kafka_namespace(settings.kafka.bootstrap)

    def dataset(
        self,
        topic: str,
        lane: str,
        *,
        stretches: Stretches | None = None,
        records: int | None = None,
        columns: bool = False,
    ) -> Dataset:
        """A topic of a lane."""
        kind = RECORDS.get(kind_of(topic, self._prefix, lane))
        return Dataset(
            namespace=self._namespace,
            name=topic,
            stretches=stretches or {},
            contract=None if kind is None else self._contract(kind, columns=columns),
            records=records,
        )

    def _contract(self, kind: type[Record], *, columns: bool) -> Contract:
        schema_id = None if self._codec is None else self._codec.schema_id(kind)
        return Contract(name=kind.AVRO_NAME, schema_id=schema_id, columns=columns_of(kind.AVRO_NAME) if columns else ())


def kafka_namespace(bootstrap: str) -> str:
    """How OpenLineage names a cluster: by the first of its brokers."""
    first = bootstrap.split(",", maxsplit=1)[0].strip()
    return f"kafka://{first.rpartition('://')[2]}"


@cache
def columns_of(record: str) -> tuple[Column, ...]:
    """The fields of a record by its full name, as its schema has them today."""
    schema = json.loads(event_schemas()[record])
    return tuple(
        Column(name=field["name"], type=_type(field["type"]), doc=field.get("doc", "")) for field in schema["fields"]
    )


def _type(schema: Any) -> str:
    if isinstance(schema, str):
        return schema.rpartition(".")[2]
    if isinstance(schema, list):
        return " or ".join(_type(one) for one in schema)
    if schema["type"] == "array":
        return f"array of {_type(schema['items'])}"
    if schema["type"] == "map":
        return f"map of {_type(schema['values'])}"
    if schema["type"] == "record":
        return str(schema["name"])
    return str(schema.get("logicalType", schema["type"]))
