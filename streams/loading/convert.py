"""Documents as text: HTML, PDF and Word through markitdown, CSV by ourselves. Runs in a child process, see ``child``.

Nothing of a document's content is in an error: names of error types alone.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urljoin

from streams.loading.record import Reading, UnreadableError
from streams.loading.table import read_table
from streams.loading.text import decode, heading

MARKDOWN = "text/markdown"
# A Word file is a zip: what it may be unpacked, by its own directory, which zipfile holds it to.
MAX_UNPACKED_BYTES = 256_000_000
MAX_ZIP_ENTRIES = 10_000
# The same for a converted text; more is a mistake or an attack.
MAX_TEXT_CHARS = 50_000_000
_LABEL_CHARS = 500
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
# pdfminer writes this for a glyph whose character it does not know.
_UNKNOWN_GLYPH = re.compile(r"\(cid:\d+\)")
_INSTALL = "install it: pip install 'headrace[documents]'"


def convert(data: bytes, kind: str, *, name: str, suffix: str = "", encoding: str = "", base: str = "") -> Reading:
    """The text of a document. ``base`` is the address that a page's links are relative to.

    Blocks, and may take any time and memory: the caller has to bound both. Raises ``UnreadableError``.
    """
    if not data.strip():
        raise UnreadableError("is empty", "remove it or write something")
    if kind == "csv":
        return read_table(data, name=name, tabs=suffix == ".tsv", encoding=encoding)
    convert_kind: Callable[..., Reading] = {"html": _html, "pdf": _pdf, "docx": _docx}[kind]
    try:
        reading = convert_kind(data, name=name, encoding=encoding, base=base)
    except ImportError:
        raise UnreadableError(f"is a {kind} file, which needs the extra `documents`", _INSTALL) from None
    # Postgres stores no NUL, and half a surrogate pair can't be encoded.
    text = reading.text.replace("\x00", "").encode("utf-8", "replace").decode()
    if len(text) > MAX_TEXT_CHARS:
        raise UnreadableError(f"has more than {MAX_TEXT_CHARS} characters of text", "split it")
    return Reading(
        text=text,
        title=_plain(reading.title) or name,
        media_type=reading.media_type,
        language=reading.language,
        metadata={key: _plain(value) for key, value in (reading.metadata or {}).items() if _plain(value)},
    )


def _html(data: bytes, *, name: str, encoding: str, base: str) -> Reading:  # noqa: ARG001 (one form for all)
    from bs4 import BeautifulSoup  # noqa: PLC0415 (an extra, and only needed here)
    from bs4.dammit import EncodingDetector  # noqa: PLC0415
    from markitdown.converters import HtmlConverter  # noqa: PLC0415

    declared = encoding or EncodingDetector.find_declared_encoding(data, is_html=True, search_entire_document=False)
    soup = BeautifulSoup(decode(data, declared or ""), "html.parser")
    labels = {
        name: str(tag.get("content") or "")
        for name in ("author", "description", "keywords")
        if (tag := soup.find("meta", attrs={"name": name})) is not None
    }
    root = soup.find("html")
    title = soup.title.get_text() if soup.title else ""
    for tag in soup(["script", "style", "template", "noscript", "svg"]):
        tag.decompose()
    if base:
        for link in soup.find_all("a", href=True):
            link["href"] = _absolute(base, str(link["href"]))
    mains = soup.find_all("main")
    # Menus and footers of a page that says where its own text is are not what one searches for.
    chosen = mains[0] if len(mains) == 1 and mains[0].get_text(strip=True) else soup
    text = HtmlConverter().convert_string(str(chosen)).markdown
    if not text.strip():
        raise UnreadableError("has no text; it may be made by scripts in a browser", "give a file with the text")
    return Reading(
        text=text + "\n",
        title=_plain(title) or heading(text),
        media_type=MARKDOWN,
        language=str(root.get("lang") or "")[:35] if root else "",
        metadata=labels,
    )


def _pdf(data: bytes, *, name: str, encoding: str, base: str) -> Reading:  # noqa: ARG001
    from markitdown import StreamInfo  # noqa: PLC0415
    from markitdown.converters import PdfConverter  # noqa: PLC0415
    from pdfminer.pdfdocument import PDFDocument, PDFEncryptionError  # noqa: PLC0415
    from pdfminer.pdfpage import PDFPage  # noqa: PLC0415
    from pdfminer.pdfparser import PDFParser  # noqa: PLC0415

    try:
        document = PDFDocument(PDFParser(io.BytesIO(data)))
        pages = sum(1 for _ in PDFPage.create_pages(document))
        text = PdfConverter().convert(io.BytesIO(data), StreamInfo(extension=".pdf")).markdown if pages else ""
    except PDFEncryptionError:
        raise UnreadableError("is an encrypted PDF", "save it without a password") from None
    except (MemoryError, RecursionError, ImportError):
        raise
    except Exception as error:
        raise _damaged("PDF", error) from None
    if not pages:
        raise UnreadableError("is a PDF without pages, or a damaged one", "open and save it anew")
    unknown = sum(len(match) for match in _UNKNOWN_GLYPH.findall(text))
    if not _UNKNOWN_GLYPH.sub("", text).strip() or unknown > len(text) / 2:
        what = "has fonts whose characters are not known" if unknown else "has no text: its pages are images"
        raise UnreadableError(what, "run text recognition (OCR) on it first")
    labels = {"pages": str(pages), **_pdf_labels(document.info)}
    by_page = text.split("\f")
    # Only where the pages are told apart: some may be scans among others with text.
    empty = sum(not page.strip() for page in by_page[:pages]) if len(by_page) > 1 else 0
    if empty:
        labels["pages_without_text"] = str(empty)
    text = "\n\n".join(page.strip() for page in by_page if page.strip()) + "\n"
    return Reading(text=text, title=labels.pop("title", ""), metadata=labels)


def _pdf_labels(info: Sequence[Mapping[Any, Any]]) -> dict[str, str]:
    from pdfminer.pdftypes import resolve1  # noqa: PLC0415
    from pdfminer.utils import decode_text  # noqa: PLC0415

    labels = {}
    for key, name in (("Title", "title"), ("Author", "author"), ("Subject", "description"), ("Keywords", "keywords")):
        value = resolve1(info[-1].get(key)) if info else None
        if isinstance(value, bytes):
            labels[name] = decode_text(value)
    return {name: value for name, value in labels.items() if value.strip()}


def _docx(data: bytes, *, name: str, encoding: str, base: str) -> Reading:  # noqa: ARG001
    from markitdown import StreamInfo  # noqa: PLC0415
    from markitdown.converters import DocxConverter  # noqa: PLC0415

    if data.startswith(_OLE):
        raise UnreadableError("is an encrypted or an old Word file", "save it as .docx without a password")
    try:
        labels = _docx_labels(data)
        # Its constructor has no annotations.
        converter: Any = DocxConverter
        text = converter().convert(io.BytesIO(data), StreamInfo(extension=".docx")).markdown
    except (UnreadableError, MemoryError, RecursionError, ImportError):
        raise
    except Exception as error:
        raise _damaged("Word file", error) from None
    if not text.strip():
        raise UnreadableError("has no text", "remove it, or run text recognition (OCR) on its images first")
    title = labels.pop("title", "") or heading(text)
    return Reading(text=text + "\n", title=title, media_type=MARKDOWN, metadata=labels)


def _docx_labels(data: bytes) -> dict[str, str]:
    """The properties of a Word file; refuses one that would be unpacked beyond bounds."""
    from defusedxml import ElementTree  # type: ignore[import-untyped]  # noqa: PLC0415

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > MAX_UNPACKED_BYTES or len(entries) > MAX_ZIP_ENTRIES:
            raise UnreadableError(
                f"would be unpacked to {unpacked} bytes in {len(entries)} files", "split it; it may be a zip bomb"
            )
        if "word/document.xml" not in archive.namelist():
            raise UnreadableError("is no Word file inside", "open and save it anew")
        if "docProps/core.xml" not in archive.namelist():
            return {}
        properties = ElementTree.fromstring(archive.read("docProps/core.xml"))
    names = {"title": "title", "creator": "author", "description": "description", "keywords": "keywords"}
    found = ((names.get(tag.tag.rpartition("}")[2]), (tag.text or "").strip()) for tag in properties)
    return {name: text for name, text in found if name and text}


def _damaged(what: str, error: Exception) -> UnreadableError:
    return UnreadableError(f"is no {what} or a damaged one ({type(error).__name__})", "open and save it anew")


def _absolute(base: str, link: str) -> str:
    try:
        return urljoin(base, link)
    except ValueError:
        return link


def _plain(text: str) -> str:
    """A label in one line, with nothing that can't be stored."""
    return " ".join(text.replace("\x00", "").encode("utf-8", "replace").decode().split())[:_LABEL_CHARS]
