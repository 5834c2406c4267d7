"""``headrace costs rerate`` on a ledger, a broker and what the account stage does between them."""

from __future__ import annotations

import asyncio
import secrets
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from processors.account.entry import entry_of
from processors.account.postgres import PostgresLedger
from processors.event import Incoming
from processors.postgres import Database
from schemas.records import Cost, Usage
from streams.reading import Entry, TopicReader
from tests.support.commands import Commands, Ran
from tests.support.costs import AT, cost
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

USAGE = Usage(prompt_tokens=1_000_000, completion_tokens=500_000)


class Books:
    """A lane with its costs topic; ``book`` does what the account stage would."""

    def __init__(self, stack: TestStack, folder: Path) -> None:
        self.lane = f"rerate{secrets.token_hex(4)}"
        self.commands = Commands(stack, self.lane, folder, ("costs",))
        self._dsn, self._folder = stack.postgres_dsn, folder

    def prices(self, text: str) -> str:
        path = self._folder / f"{secrets.token_hex(4)}.toml"
        path.write_text(text)
        return str(path)

    def rerate(self, prices: str, *arguments: str) -> Ran:
        given = ("--since", "2026-01-01", "--lane", self.lane, "--prices", prices, "--json")
        return self.commands.run("costs", "rerate", *given, *arguments)

    def events(self) -> list[Entry]:
        with TopicReader(self.commands.settings) as reader:
            return list(reader.read(reader.ends(reader.places([f"{self.lane}.costs"]))))

    def book(self, *costs: Cost) -> None:
        decoded = [self.commands.codec.decode(one.value or b"", Cost) for one in self.events()]
        entries = [entry_of(Incoming(record=one, meta=one.meta, raw=b"", appended_at=AT)) for one in (*costs, *decoded)]

        async def record() -> None:
            database = await Database.open(self._dsn)
            try:
                await PostgresLedger(database).record(entries)
            finally:
                await database.close()

        asyncio.run(record())

    def rows(self) -> dict[str, dict[str, Any]]:
        query = "SELECT * FROM ledger WHERE lane = %s"
        with psycopg.connect(self._dsn, row_factory=psycopg.rows.dict_row) as connection:
            found = connection.execute(query, (self.lane,)).fetchall()
        return {row["attempt_id"].removeprefix(f"{self.lane}-"): row for row in found}


@pytest.fixture(scope="module")
def books(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Books:
    books = Books(stack, tmp_path_factory.mktemp("rerate"))

    def one(name: str, amount: str, **fields: Any) -> Cost:
        values = {"provider": "openai", "model": "m1", "usage": USAGE, **fields}
        return cost(f"{books.lane}-{name}", amount, lane=books.lane, **values)

    books.book(
        one("done", "2"),
        one("lost", "9", state="unknown", upper_bound=True),
        one("refused", "0", state="failed", usage=Usage()),
        one("batch", "1", price_source="settings (prompt 1, completion 2) x 0.5 (batch)"),
        one("other", "7", model="m2"),
        one("reused", "0", served_by="journal", avoided_cost_usd=Decimal(2)),
    )
    return books


def test_new_prices_are_booked_once_and_nothing_is_overwritten(books: Books) -> None:
    dearer = books.prices('[prices."openai/m1"]\nprompt = 3\ncompletion = "2"\n')
    [planned] = books.rerate(dearer, "--dry-run").objects
    assert planned["total"] == {
        "rows": 4, "changed": 3, "old_usd": "12.00", "corrections_usd": "-2.00", "new_usd": "10.00"
    }  # fmt: skip
    assert (planned["unpriced_rows"], planned["adds_up"], planned["booked"]) == (1, True, None)
    assert books.events() == []

    # No worker books them: they are published, and published again as they were.
    first = books.rerate(dearer, "--wait-s", "0")
    assert (first.code, first.objects[0]["total"], first.objects[0]["not_booked"]) == (1, planned["total"], 3)
    assert "is a worker running the stage `account`" in first.err
    again = books.rerate(dearer, "--wait-s", "0")
    assert (again.code, again.objects[0]["published_again"], again.objects[0]["total"]["changed"]) == (1, 3, 0)
    assert len(books.events()) == 6
    assert len({one.value for one in books.events()}) == 3

    books.book()
    done = books.rerate(dearer)
    assert done.code == 0
    assert (done.objects[0]["total"]["changed"], done.objects[0]["published_again"]) == (0, 0)
    assert (done.objects[0]["total"]["new_usd"], done.objects[0]["booked"]) == ("10.00", True)
    assert len(books.events()) == 6, "nothing is appended the second time"

    rows = books.rows()
    assert {name: row["amount_usd"] for name, row in rows.items()} == {
        "done": Decimal(4), "lost": Decimal(4), "refused": Decimal(0), "batch": Decimal(2), "other": Decimal(7),
        "reused": Decimal(0),
    }  # fmt: skip
    assert rows["batch"]["price_source"] == "settings prices.openai/m1 (prompt 3, completion 2) x 0.5 (batch)"
    assert [Decimal(said["amount_usd"]) for said in rows["lost"]["history"]] == [Decimal(9), Decimal(-5)]
    assert (rows["lost"]["state"], rows["lost"]["price_version"][:9]) == ("unknown", "settings ")


def test_prices_may_go_there_and_back(books: Books) -> None:
    cheap = books.prices('[prices."openai/m2"]\nprompt = 1\n')
    dear = books.prices('[prices."openai/m2"]\nprompt = 5\n')
    for prices, amount in ((cheap, 1), (dear, 5), (cheap, 1), (dear, 5)):
        assert books.rerate(prices, "--wait-s", "0").objects[0]["total"]["changed"] == 1
        books.book()
        assert books.rerate(prices).code == 0
        assert books.rows()["other"]["amount_usd"] == amount
    assert len(books.rows()["other"]["history"]) == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[prices", "Expected"),
        ("default_route = 'x'", "no prices"),
        ('[prices."openai/m1"]\nprompt = -1', "prices.openai/m1.prompt"),
        ('[prices."openai/m1"]\nword = 1', "prices.openai/m1.word"),
    ],
)
def test_a_bad_price_file_is_refused(books: Books, text: str, said: str) -> None:
    path = books.prices(text)
    ran = books.rerate(path)
    assert (ran.code, ran.out) == (2, "")
    assert path in ran.err and said in ran.err


def test_a_person_sees_that_it_adds_up(books: Books) -> None:
    prices = books.prices('[prices."openai/m1"]\nprompt = 4\n')
    options = ("--since", "2026-01-01", "--lane", books.lane, "--prices", prices, "--dry-run")
    ran = books.commands.run("costs", "rerate", *options)
    assert ran.out.splitlines() == [
        "openai/m1: 0 of 4 attempts would be corrected; old 10.00 + corrections 0.00 = new 10.00",
        "total: 0 of 4 attempts would be corrected; old 10.00 + corrections 0.00 = new 10.00",
    ]
