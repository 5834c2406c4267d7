"""Downloads of the Java parts: exactly the files of ``maven.lock``, checked by sha256, into the shared cache.

``python -m infra.embedded.maven`` writes the lock again from the versions below, by resolving Kafka's dependencies.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.embedded.cache import cache_folder, locked, staging
from infra.embedded.errors import ArtifactError
from infra.embedded.progress import OnProgress, Progress, silent

KAFKA_VERSION = "4.1.1"
REGISTRY_VERSION = "2.6.13.Final"
KAFKA = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
# Kafka brings the logging facade alone; without a binding the broker's log is empty.
LOGGING = "org.slf4j:slf4j-simple:1.7.36"
REGISTRY = f"io.apicurio:apicurio-registry-app:{REGISTRY_VERSION}"
LOCK = Path(__file__).parent / "maven.lock"
CONNECTIONS = 6
TRIES = 3
READ_TIMEOUT_S = 30
CHUNK_BYTES = 1 << 20
Report = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One line of the lock: ``part group:artifact:version[:classifier]:packaging size sha256``."""

    part: str
    coordinate: str
    size_bytes: int
    sha256: str

    @property
    def fields(self) -> tuple[str, str, str, str, str]:
        group, name, version, *rest = self.coordinate.split(":")
        classifier = rest[0] if len(rest) > 1 else ""
        return group, name, version, classifier, rest[-1]

    def path(self, root: Path) -> Path:
        """Where the file lies under a cache folder."""
        group, name, version, classifier, packaging = self.fields
        suffix = f"-{classifier}" if classifier else ""
        return root.joinpath(*group.split("."), name, version, f"{name}-{version}{suffix}.{packaging}")


# Gets an artifact into a folder, tells how many bytes came, and returns the file. Raises whatever its client raises.
Resolve = Callable[[Artifact, Path, Report], Path]


def read_lock(path: Path = LOCK) -> list[Artifact]:
    """The pinned files. Raises ArtifactError for a line that is none."""
    artifacts = []
    for line in path.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        try:
            part, coordinate, size, sha256 = line.split()
            artifacts.append(Artifact(part, coordinate, int(size), sha256))
        except ValueError as error:
            raise ArtifactError(f"{path}: line {line!r} is not 'part coordinate size sha256'") from error
    return artifacts


def fetch(
    part: str,
    *,
    root: Path | None = None,
    on_progress: OnProgress = silent,
    lock: Path = LOCK,
    resolve: Resolve | None = None,
) -> list[Path]:
    """Paths of a part's files (``kafka``, ``registry``), downloading those that the cache lacks.

    Blocks on the network and, while another process downloads the same part, on it. Raises ArtifactError, which names
    the file, when one can't be had or differs from the lock; what came before stays in the cache.
    """
    folder = (root or cache_folder()) / "maven"
    folder.mkdir(parents=True, exist_ok=True)
    artifacts = [artifact for artifact in read_lock(lock) if artifact.part == part]
    if _missing(artifacts, folder):
        on_progress(Progress(part, "waiting"))
        with locked(folder / f".{part}.lock"):
            _download_all(part, _missing(artifacts, folder), folder, on_progress, resolve or resolve_from_maven)
    return [artifact.path(folder) for artifact in artifacts]


def _missing(artifacts: Sequence[Artifact], folder: Path) -> list[Artifact]:
    # A file gets its name only after its digest was checked, so its size is enough here.
    return [
        artifact
        for artifact in artifacts
        if not (path := artifact.path(folder)).exists() or path.stat().st_size != artifact.size_bytes
    ]


def _download_all(
    part: str, artifacts: Sequence[Artifact], folder: Path, on_progress: OnProgress, resolve: Resolve
) -> None:
    total = sum(artifact.size_bytes for artifact in artifacts)
    done = 0
    guard = threading.Lock()

    def report(count: int) -> None:
        nonlocal done
        with guard:
            done += count
            on_progress(Progress(part, "downloading", done, total))

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        futures = [pool.submit(_download, artifact, folder, report, resolve) for artifact in artifacts]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _download(artifact: Artifact, folder: Path, report: Report, resolve: Resolve) -> None:
    target = artifact.path(folder)
    reason: Exception | None = None
    for _ in range(TRIES):
        with staging(target) as temporary:
            try:
                got = resolve(artifact, temporary, report)
            except Exception as error:
                reason = error
                continue
            reason = _difference(artifact, got)
            if reason is None:
                got.rename(target)
                return
            report(-got.stat().st_size)
    raise ArtifactError(
        f"{artifact.coordinate} could not be downloaded ({TRIES} tries): {reason}; "
        f"check the network or put the file at {target}, then run the command again"
    ) from reason


def resolve_from_maven(artifact: Artifact, repository: Path, report: Report) -> Path:
    group, name, version, classifier, packaging = artifact.fields
    project = _context(repository, report).project(group, name)
    path: Path = project.at_version(version).artifact(classifier=classifier, packaging=packaging).resolve()
    return path


def _context(repository: Path, report: Report) -> Any:
    from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415  (0.3 s, and part of the embedded extra)

    logging.getLogger("jgo").setLevel(logging.ERROR)

    @contextmanager
    def bar(_name: str, _total: int) -> Iterator[Callable[[int], None]]:
        yield report

    return MavenContext(resolver=PythonResolver(progress_callback=bar), repo_cache=repository, timeout=READ_TIMEOUT_S)


def _difference(artifact: Artifact, path: Path) -> ArtifactError | None:
    size, digest = path.stat().st_size, sha256_of(path)
    if size != artifact.size_bytes:
        return ArtifactError(f"{size} bytes came instead of {artifact.size_bytes}")
    if digest != artifact.sha256:
        return ArtifactError(f"its sha256 is {digest}, the lock says {artifact.sha256}")
    return None


def sha256_of(path: Path) -> str:
    """The file's digest, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def write_lock(repository: Path) -> str:
    """The lock's text for the versions above. Blocks on the network for about 20 s."""
    context = _context(repository, lambda _count: None)
    lines = ["# part coordinate size sha256; written by python -m infra.embedded.maven"]
    roots = [context.create_dependency(coordinate) for coordinate in (KAFKA, LOGGING)]
    inputs, transitive = context.resolver.resolve(roots)
    needed = {str(d.artifact): d for d in [*inputs, *transitive] if d.scope in ("compile", "runtime", None)}
    for dependency in sorted(needed.values(), key=lambda d: (d.groupId, d.artifactId)):
        coordinate = f"{dependency.groupId}:{dependency.artifactId}:{dependency.version}:jar"
        lines.append(_line("kafka", coordinate, dependency.artifact.resolve()))
    group, name, version = REGISTRY.split(":")
    tarball = context.project(group, name).at_version(version).artifact(classifier="all", packaging="tar.gz")
    lines.append(_line("registry", f"{REGISTRY}:all:tar.gz", tarball.resolve()))
    return "\n".join(lines) + "\n"


def _line(part: str, coordinate: str, path: Path) -> str:
    return f"{part} {coordinate} {path.stat().st_size} {sha256_of(path)}"


def main() -> None:
    """Write the lock file again."""
    repository = Path(tempfile.mkdtemp(prefix="headrace-maven-"))
    try:
        LOCK.write_text(write_lock(repository))
    finally:
        shutil.rmtree(repository)
    sys.stderr.write(f"wrote {LOCK}\n")


if __name__ == "__main__":
    main()
