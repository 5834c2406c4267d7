"""Any record that its schema takes comes back from every format as it was; and analysts read the files."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import avro.datafile
import avro.io
import duckdb
import polars
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigurationError
from schemas.record import Record
from schemas.records import Answer, Cost, Meta, Text
from streams.exporting.export import RECORDS
from streams.exporting.formats import FORMATS, Row, read_rows, writer_of
from tests.contract.strategies import record_of

AT = datetime(2026, 5, 1, 12, 0, 0, 123000, tzinfo=UTC)
EVENTS = sorted({kind.AVRO_NAME for kind in RECORDS.values()})
BY_NAME = {kind.AVRO_NAME: kind for kind in RECORDS.values()}


def row(record: Record, offset: int = 0) -> Row:
    place = {
        "_topic": "live.answers",
        "_partition": 1,
        "_offset": offset,
        "_time": AT,
        "_key": b"r1",
        "_headers": [("ce_id", b"1"), ("ce_id", b"\xff"), ("empty", None)],
    }
    return place, record


def write(name: str, kind: type[Record], file: Path, rows: list[Row]) -> None:
    writer = writer_of(name, kind, file)
    writer.write(rows)
    writer.close()


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(
    max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
def test_what_is_written_is_read_again(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    event = data.draw(st.sampled_from(EVENTS))
    records = data.draw(st.lists(record_of(event), min_size=1, max_size=3))
    file = tmp_path_factory.mktemp("export") / f"part.{name}"
    rows = [row(record, offset) for offset, record in enumerate(records)]
    write(name, BY_NAME[event], file, rows)
    assert list(read_rows(name, BY_NAME[event], file)) == rows


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_is_cut_off_is_named(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"part.{name}"
    cost = Cost(meta=meta("e"), attempt_id="a", state="done", amount_usd=Decimal("0.1"))
    write(name, Cost, file, [row(cost)])
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ConfigurationError, match=str(file)):
        list(read_rows(name, Cost, file))


def meta(event_id: str) -> Meta:
    return Meta(event_id=event_id, request_id="r1", tenant="acme", lane="live", accepted_at=AT)


def answers(folder: Path, name: str) -> Path:
    file = folder / f"part.{name}"
    told = [
        Answer(
            meta=meta(f"e{n}"), status="answered", text=Text(inline=f"text {n}"), cost_usd=Decimal("0.000000000001") * n
        )
        for n in range(4)
    ]
    write(name, Answer, file, [row(one, offset) for offset, one in enumerate(told)])
    return file


@pytest.mark.parametrize(("name", "reader"), [("parquet", "read_parquet"), ("jsonl", "read_ndjson")])
def test_duckdb_reads_it(name: str, reader: str, tmp_path: Path) -> None:
    file = answers(tmp_path, name)
    wanted = "meta.tenant, sum(cost_usd::DECIMAL(38, 12)), max(text.inline), max(_offset)"
    query = f"SELECT {wanted} FROM {reader}('{file}') GROUP BY 1"
    with duckdb.connect() as connection:
        assert connection.execute(query).fetchall() == [("acme", Decimal("0.000000000006"), "text 3", 3)]


@pytest.mark.parametrize("name", ["parquet", "jsonl"])
def test_polars_reads_it(name: str, tmp_path: Path) -> None:
    file = answers(tmp_path, name)
    frame = polars.read_parquet(file) if name == "parquet" else polars.read_ndjson(file)
    assert frame.height == 4
    assert frame["text"].struct.field("inline").to_list() == [f"text {n}" for n in range(4)]
    if name == "parquet":
        assert frame["cost_usd"].sum() == Decimal("0.000000000006")
        assert frame["_time"].to_list()[0] == AT


@pytest.mark.parametrize("name", ["parquet", "jsonl"])
@given(data=st.data())
@settings(
    max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
def test_duckdb_and_polars_read_every_kind_of_event(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    event = data.draw(st.sampled_from(EVENTS))
    records = data.draw(st.lists(record_of(event), min_size=1, max_size=3))
    folder = tmp_path_factory.mktemp("export")
    for part in range(2):
        rows = [row(record, offset) for offset, record in enumerate(records)]
        write(name, BY_NAME[event], folder / f"part-{part}.{name}", rows)
    reader = "read_parquet" if name == "parquet" else "read_ndjson"
    with duckdb.connect() as connection:
        counted = f"SELECT count(meta.event_id), max(_offset) FROM {reader}('{folder}/*.{name}')"
        assert connection.execute(counted).fetchone() == (2 * len(records), len(records) - 1)
    scan = polars.scan_parquet if name == "parquet" else polars.scan_ndjson
    frame = scan(folder / f"*.{name}").select(polars.col("meta").struct.field("event_id"), "_offset").collect()
    assert frame["event_id"].to_list() == [record.meta.event_id for record in records] * 2  # type: ignore[attr-defined]


@given(data=st.data())
@settings(
    max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
def test_the_reference_reader_of_avro_reads_it(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    event = data.draw(st.sampled_from(EVENTS))
    record = data.draw(record_of(event))
    file = tmp_path_factory.mktemp("export") / "part.avro"
    write("avro", BY_NAME[event], file, [row(record, 7)])
    with avro.datafile.DataFileReader(file.open("rb"), avro.io.DatumReader()) as reader:
        [read] = list(reader)
    assert (read["_offset"], read["_time"], read["meta"]["event_id"]) == (7, AT, record.meta.event_id)  # type: ignore[attr-defined]
