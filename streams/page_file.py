"""Pages for a browser, made of templates and written to a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from jinja2 import Environment, PackageLoader, StrictUndefined

from schemas.errors import ConfigurationError


def environment(package: str) -> Environment:
    """The templates in a package's folder ``pages``. What is put into them is text, never markup."""
    return Environment(
        loader=PackageLoader(package, "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def check_folder(path: Path | None) -> None:
    """Raise ``ConfigurationError`` where the folder of a page is not there, before the work for it is done."""
    if path is not None and not path.absolute().parent.is_dir():
        raise ConfigurationError(f"--html: the folder {path.absolute().parent} is not there; make it first")


def write_whole(page: str, path: Path) -> None:
    """Write a page: whole or not at all. Raises ``ConfigurationError`` when it can't be written."""
    with whole_file(path, "--html") as file:
        file.write(page.encode())


@contextmanager
def whole_file(path: Path, option: str) -> Iterator[BinaryIO]:
    """A file beside this one, which takes its place when the block ends well and is removed when it does not.

    Raises ``ConfigurationError`` that names the option when it can't be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            yield file
        beside.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{option}: {path} can't be written: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
