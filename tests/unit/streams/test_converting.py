"""Documents that have to be converted, good and bad ones, all read in one go by real child processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from schemas.records import Document
from streams.loading import Bounds, LoadedFile, Owner, find_sources, load_sources
from streams.loading.converter import Converters
from streams.loading.record import UnreadableError
from tests.support.documents import docx, pdf

OWNER = Owner(tenant="acme", namespace="docs")
HTML = """<!DOCTYPE html><html lang="en-GB"><head><title> The  manual </title>
<meta name="author" content="A. Writer"><meta name="description" content="How to.">
<script>var canary = 1</script></head>
<body><nav>Menu</nav><main><h1>Manual</h1><p>Turn the <b>key</b>, see <a href="more.html">more</a>.</p>
<table><tr><th>Part</th><th>Price</th></tr><tr><td>Key</td><td>3</td></tr></table></main></body></html>"""
# Each entity stands for fifty of the one before.
BOMB = (
    '<!DOCTYPE d [<!ENTITY a "xxxxxxxxxx">'
    + "".join(f'<!ENTITY {name} "{f"&{chr(ord(name) - 1)};" * 50}">' for name in "bcdefg")
    + "]>"
)
FILES: dict[str, bytes] = {
    "page.html": HTML.encode(),
    "latin.html": '<meta charset="iso-8859-1"><p>Größe</p>'.encode("iso-8859-1"),
    "wrong.html": '<meta charset="utf-8"><p>Größe</p>'.encode("iso-8859-1"),
    "scripts.html": b"<html><body><script>render()</script></body></html>",
    "deep.html": b"<div>" * 3_000 + b"word",
    "paper.pdf": pdf("The first page speaks of keys.", "The second of locks.", title="On locks"),
    "mixed.pdf": pdf("A page with text.", "", ""),
    "scan.pdf": pdf("", ""),
    "secret.pdf": pdf("Nobody reads this.", encrypted=True),
    "cut.pdf": pdf("A page.")[:200],
    "nothing.pdf": b"",
    "letter.docx": docx("Dear reader,", "the key is under the mat.", title="A letter"),
    "blank.docx": docx(),
    "cut.docx": docx("Text.")[:300],
    "old.docx": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
    "bomb.docx": docx("Text.", padding=257 << 20),
    "entities.docx": docx("&g;", entity=BOMB),
    "plain.zip.docx": b"PK\x05\x06" + bytes(18),
    "prices.csv": b'part;price;note\nkey;3;"small; steel"\n\nlock;12;"two\nlines";extra\n',
    "tabs.tsv": b"a\tb\n1\t2\n",
    "wrong.csv": "name,size\nx,Größe\n".encode("iso-8859-1"),
    "open.csv": b'a,b\n1,"two\n3,4\n',
    "heading.csv": b"a,b\n",
    "huge.html": b"<p>" + b"x" * 400_000,
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedFile]:
    """Every file, read once."""
    folder = tmp_path_factory.mktemp("files")
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    found = find_sources([folder])
    files = list(load_sources(found.sources, OWNER, Bounds(max_bytes=390_000)))
    assert len(files) == len(FILES) and found.passed_over == 0
    return {Path(file.path).name: file for file in files}


def document(loaded: dict[str, LoadedFile], name: str) -> Document:
    assert not loaded[name].problems, loaded[name].problems
    [document] = loaded[name].documents
    return document


def body(document: Document) -> str:
    assert document.body is not None and document.body.inline is not None
    return document.body.inline


def test_a_page_is_markdown_without_its_menu_and_scripts(loaded: dict[str, LoadedFile]) -> None:
    page = document(loaded, "page.html")
    assert (page.title, page.language, page.media_type) == ("The manual", "en-GB", "text/markdown")
    assert page.metadata == {"author": "A. Writer", "description": "How to."}
    assert "# Manual" in body(page) and "[more](more.html)" in body(page) and "| Key | 3 |" in body(page)
    assert "Menu" not in body(page) and "canary" not in body(page)
    assert page.uri.startswith("file:") and page.modified_at is not None


def test_a_page_is_read_in_the_encoding_that_it_names(loaded: dict[str, LoadedFile]) -> None:
    assert "Größe" in body(document(loaded, "latin.html"))


def test_a_deeply_nested_page_keeps_its_text_or_is_named(loaded: dict[str, LoadedFile]) -> None:
    file = loaded["deep.html"]
    assert [body(one).strip() for one in file.documents] == ["word"] or "nested" in file.problems[0].what


def test_a_pdf_gives_all_its_pages(loaded: dict[str, LoadedFile]) -> None:
    paper = document(loaded, "paper.pdf")
    assert "speaks of keys" in body(paper) and "second of locks" in body(paper) and "\f" not in body(paper)
    assert (paper.title, paper.metadata) == ("On locks", {"author": "A. Writer", "pages": "2"})
    assert document(loaded, "mixed.pdf").metadata["pages_without_text"] == "2"


def test_a_word_file_gives_its_paragraphs(loaded: dict[str, LoadedFile]) -> None:
    letter = document(loaded, "letter.docx")
    assert body(letter) == "Dear reader,\n\nthe key is under the mat.\n"
    assert (letter.title, letter.metadata) == ("A letter", {"author": "A. Writer"})


def test_a_row_of_a_table_names_its_columns(loaded: dict[str, LoadedFile]) -> None:
    prices = document(loaded, "prices.csv")
    assert (
        body(prices)
        == "part: key\nprice: 3\nnote: small; steel\n\npart: lock\nprice: 12\nnote: two lines\ncolumn 4: extra\n"
    )
    assert prices.metadata == {"columns": "part, price, note", "rows": "2"}
    assert body(document(loaded, "tabs.tsv")) == "a: 1\nb: 2\n"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("wrong.html", "is not utf-8 at byte"),
        ("scripts.html", "has no text; it may be made by scripts"),
        ("scan.pdf", "has no text: its pages are images"),
        ("secret.pdf", "is an encrypted PDF"),
        ("cut.pdf", "is no PDF or a damaged one"),
        ("nothing.pdf", "is empty"),
        ("blank.docx", "has no text"),
        ("cut.docx", "is no Word file or a damaged one"),
        ("old.docx", "is an encrypted or an old Word file"),
        ("bomb.docx", "would be unpacked to 269"),
        ("plain.zip.docx", "is no Word file inside"),
        ("entities.docx", "is no Word file or a damaged one"),
        ("wrong.csv", "is not utf-8 at byte"),
        ("open.csv", "is no CSV: unexpected end of data"),
        ("heading.csv", "has no row under its heading"),
        ("huge.html", "has 400003 bytes, more than 390000"),
    ],
)
def test_what_can_not_be_read_is_named_with_what_to_do(loaded: dict[str, LoadedFile], name: str, what: str) -> None:
    file = loaded[name]
    assert not file.documents
    [problem] = file.problems
    assert what in problem.what and problem.todo, problem
    assert "Größe" not in str(problem)


def test_a_job_that_hangs_is_ended_and_the_next_one_is_done(tmp_path: Path) -> None:
    pipe, good = tmp_path / "endless.html", tmp_path / "good.csv"
    os.mkfifo(pipe)
    good.write_text("a\n1\n")

    def job(path: Path, kind: str) -> dict[str, object]:
        return {"path": str(path), "kind": kind, "max_bytes": 1000}

    with Converters(1) as converters:
        # Nobody ever writes into the pipe: opening it blocks for ever.
        with pytest.raises(UnreadableError, match=r"was not read within 0\.5 s"):
            converters.convert(job(pipe, "html"), timeout_s=0.5)
        assert converters.convert(job(good, "csv"), timeout_s=60).text == "a: 1\n"


def test_a_pipe_is_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    [file] = load_sources(find_sources([tmp_path / "pipe.txt"]).sources, OWNER)
    assert "no file but a pipe" in file.problems[0].what
    assert not find_sources([tmp_path]).sources
