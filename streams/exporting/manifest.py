"""The manifest of an export: what lies in it, with the digest of every file and of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from schemas.errors import ConfigurationError

NAME = "manifest.json"
VERSION = 1
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file. ``path`` is below the export's folder."""

    kind: str
    path: str
    records: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """An export. ``records``: of each kind; ``rejected``: of each kind, what could not be read and lies as JSON lines.

    ``stretches``: the offsets that were read, by ``<topic>-<partition>``. ``digest`` is over all the rest.
    """

    lane: str
    format: str
    since: str | None
    until: str | None
    exported_at: str
    records: Mapping[str, int]
    rejected: Mapping[str, int]
    stretches: Mapping[str, tuple[int, int]]
    parts: tuple[Part, ...]
    version: int = VERSION

    @property
    def digest(self) -> str:
        """sha256 of what it says, as hex: the same export has the same."""
        return hashlib.sha256(orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS)).hexdigest()

    def write(self, folder: Path) -> None:
        """Write it."""
        body = {**asdict(self), "digest": self.digest}
        (folder / NAME).write_bytes(orjson.dumps(body, option=orjson.OPT_INDENT_2) + b"\n")


def sha256_of(file: Path) -> str:
    """A file's sha256, as hex. Reads it in portions."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an export. Raises ``ConfigurationError`` where there is none, or it does not fit itself."""
    file = folder / NAME
    try:
        body: dict[str, Any] = orjson.loads(file.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{file} can't be read ({error.strerror}); name the folder of an export") from None
    except ValueError:
        raise ConfigurationError(f"{file} is no JSON; export again") from None
    try:
        said = body.pop("digest")
        if body["version"] != VERSION:
            raise ConfigurationError(f"{file} is of version {body['version']}; this build reads version {VERSION}")
        parts = tuple(Part(**part) for part in body.pop("parts"))
        manifest = Manifest(**{**body, "parts": parts})
    except (KeyError, TypeError, AttributeError):
        raise ConfigurationError(f"{file} is no manifest of an export") from None
    if manifest.digest != said:
        raise ConfigurationError(f"{file}: its digest is not that of what it says: it was altered; export again")
    return manifest


def check_files(folder: Path, manifest: Manifest) -> Iterator[Part]:
    """Each file as it is found to be what the manifest says. Raises ``ConfigurationError`` for one that is not."""
    root = folder.resolve()
    for part in manifest.parts:
        file = (root / part.path).resolve()
        if not file.is_relative_to(root):
            raise ConfigurationError(f"{folder / NAME} names {part.path}, which is not in the folder")
        try:
            found = sha256_of(file)
        except OSError as error:
            raise ConfigurationError(f"{file} can't be read ({error.strerror}); export again") from None
        if found != part.sha256:
            raise ConfigurationError(f"{file} is not the file that was exported: its sha256 is another; export again")
        yield part
