"""From files and a web page to passages in Postgres, through a real index worker that purges in the background."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest

from streams.loading.parts import cut
from tests.faults.worker import WorkerProcess
from tests.support.commands import Commands, Ran
from tests.support.documents import docx, pdf
from tests.support.polling import eventually
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack
PARAGRAPHS = [f"Paragraph {number} of the handbook speaks of lamps." for number in range(30)]
PAGE = b"<html><title>Lamps</title><body><p>A lamp gives light.</p></body></html>"


class Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/lamps"
    server.shutdown()
    thread.join()
    server.server_close()


class Desk:
    """A folder of documents, the command, and what the index has."""

    def __init__(self, stack: TestStack, lane: str, folder: Path) -> None:
        self.lane, self.folder = lane, folder
        self.commands = Commands(stack, lane, folder, ("documents", "control", "dead-letters", "alerts"))
        self.dsn = stack.postgres_dsn
        environment = {
            "HEADRACE_CONFIG": str(self.commands.config),
            "HEADRACE_EMBEDDINGS": json.dumps({"base_url": stack.embeddings_url, "model": stack.embeddings_model}),
            "HEADRACE_RETENTION__PURGE_INTERVAL_S": "0.5",
        }
        self.worker = WorkerProcess(("index",), lane=lane, slot=lane, env=environment, folder=folder, cpu=None)

    def ingest(self, *given: str) -> Ran:
        options = ("--tenant", self.lane, "--lane", self.lane, "--wait", "--timeout", "120", "--json")
        return self.commands.run("ingest", *given, *options)

    def rows(self, query: str) -> list[Any]:
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(query, {"tenant": self.lane}).fetchall()  # type: ignore[call-overload,no-any-return]

    def texts(self) -> dict[str, str]:
        """What each document's passages say, by its id."""
        query = """SELECT document_id, string_agg(text, '|' ORDER BY ordinal) FROM passages
            WHERE tenant = %(tenant)s GROUP BY document_id"""
        return dict(self.rows(query))


def files_of(ran: Ran) -> dict[str, Any]:
    return {one["file"]: one for one in ran.objects}


@pytest.fixture
def desk(stack: TestStack, lane: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.chdir(tmp_path)
    # Parts as they are, but of a size that a test can embed.
    monkeypatch.setattr("streams.loading.parts.cut", lambda text: cut(text, 600))
    desk = Desk(stack, lane, tmp_path)
    desk.worker.start()
    desk.worker.wait_ready()
    yield desk
    desk.worker.stop()


def test_what_is_ingested_is_found_and_a_failure_leaves_the_old_version_whole(desk: Desk, site: str) -> None:
    docs = desk.folder / "docs"
    docs.mkdir()
    (docs / "page.html").write_bytes(PAGE.replace(b"A lamp", b"Another lamp"))
    (docs / "paper.pdf").write_bytes(pdf("A paper on lamps.", title="On lamps"))
    (docs / "letter.docx").write_bytes(docx("A letter on lamps."))
    (docs / "prices.csv").write_text("part,price\nlamp,3\n")
    (docs / "handbook.md").write_text("\n\n".join(PARAGRAPHS))
    (docs / "scan.pdf").write_bytes(pdf(""))

    first = desk.ingest("docs", site)

    assert first.code == 1, first.err
    files = files_of(first)
    good = ("docs/handbook.md", "docs/letter.docx", "docs/page.html", "docs/paper.pdf", "docs/prices.csv", site)
    statuses = {name: one["status"] for name, one in files.items()}
    assert statuses == {**dict.fromkeys(good, "indexed"), "docs/scan.pdf": "failed"}
    parts = files["docs/handbook.md"]["published"]
    assert parts > 2
    texts = desk.texts()
    assert texts[site] == "A lamp gives light." and texts["docs/page.html"] == "Another lamp gives light."
    assert texts["docs/paper.pdf"] == "A paper on lamps." and texts["docs/letter.docx"] == "A letter on lamps."
    assert texts["docs/prices.csv"] == "part: lamp\nprice: 3"
    handbook = [f"docs/handbook.md#{number}" for number in range(2, parts + 1)]
    assert set(handbook) < set(texts)
    titles = desk.rows("SELECT title FROM passages WHERE tenant = %(tenant)s AND document_id = 'docs/paper.pdf'")
    assert titles == [("On lamps",)]

    # A new version that can't be read takes nothing away; one with fewer parts takes the others away.
    (docs / "paper.pdf").write_bytes(pdf("Unfinished")[:150])
    (docs / "handbook.md").write_text("\n\n".join(PARAGRAPHS[:15]))
    second = desk.ingest("docs")

    files = files_of(second)
    left = files["docs/handbook.md"]["published"]
    assert (files["docs/paper.pdf"]["status"], desk.texts()["docs/paper.pdf"]) == ("failed", "A paper on lamps.")
    assert (files["docs/handbook.md"]["status"], files["docs/handbook.md"]["removed"]) == ("indexed", parts - left)
    ids = {name for name in desk.texts() if name.startswith("docs/handbook.md")}
    assert ids == {"docs/handbook.md", *handbook[: left - 1]}

    purges_in_the_background(desk)


def purges_in_the_background(desk: Desk) -> None:
    with psycopg.connect(desk.dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO finals (tenant, lane, request_id, revision, event_id, status, answer, decided_at)"
            " SELECT %s, %s, 'r' || n, 0, 'e', 'answered', '', now() - interval '50 days'"
            " FROM generate_series(1, 3) AS n",
            (desk.lane, desk.lane),
        )
    eventually(lambda: not desk.rows("SELECT 1 FROM finals WHERE tenant = %(tenant)s"), "old answers to be purged")
    # Counted a moment after the batch is committed.
    eventually(lambda: desk.worker.metrics().get("headrace_purged_rows_total", 0) >= 3, "the purged rows to be counted")
