"""The embedded stack's life: up, joined, crashed, broken, down. Each test has a stack and a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from infra.embedded import components, postgres, stack
from infra.embedded.cache import cache_folder
from infra.embedded.child import WorkerSpec, python_argv
from infra.embedded.errors import ComponentError, PortTakenError
from infra.embedded.ports import free_port, is_free
from infra.embedded.processes import marked
from infra.embedded.state import Layout, StackState, tail, write_json

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hr-"))
    path.chmod(0o755)
    yield path
    stack.down(path)
    shutil.rmtree(path)


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def pids(state: StackState) -> dict[str, int | None]:
    return {child.name: child.pid for child in state.components}


@contextmanager
def running(argv: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that is gone afterwards, whatever the test came to."""
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def create_topic(state: StackState, name: str, partitions: int) -> None:
    admin = AdminClient({"bootstrap.servers": state.endpoints["kafka_bootstrap"]})
    admin.create_topics([NewTopic(name, partitions)])[name].result(60)


def topics(state: StackState) -> dict[str, int]:
    admin = AdminClient({"bootstrap.servers": state.endpoints["kafka_bootstrap"]})
    return {name: len(topic.partitions) for name, topic in admin.list_topics(timeout=60).topics.items()}


def worker(name: str, code: str, *, port: int | None = None) -> WorkerSpec:
    return WorkerSpec(
        name=name,
        argv=(sys.executable, "-c", code),
        health_url=f"http://127.0.0.1:{port}/" if port else None,
        stop_grace_s=30.0,
    )


def test_a_restart_keeps_data_and_ports_and_needs_no_java_or_psql(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_folder().parent))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/sbin:/sbin")
    parts = ("postgres", "kafka", "registry")
    state = stack.up(folder, components=parts)
    create_topic(state, "kept", 2)
    with SchemaRegistryClient({"url": state.endpoints["registry_url"]}) as registry:
        schema_id = registry.register_schema("kept", Schema('"string"', "AVRO"))
    with psycopg.connect(state.endpoints["postgres_dsn"]) as connection:
        connection.execute("create extension vector")
        connection.execute("create table kept as select 42 as n")

    joined = stack.up(folder, components=parts)
    assert pids(joined) == pids(state)
    assert joined.supervisor_pid == state.supervisor_pid
    assert stack.join(folder).healthy

    assert stack.down(folder)
    assert marked(folder) == []
    assert not stack.status(folder).running
    assert not stack.down(folder)

    again = stack.up(folder, components=parts)
    assert again.endpoints == state.endpoints
    assert again.versions["pgvector"]
    assert topics(again)["kept"] == 2
    with SchemaRegistryClient({"url": again.endpoints["registry_url"]}) as registry:
        assert registry.get_schema(schema_id).schema_str == '"string"'
    with psycopg.connect(again.endpoints["postgres_dsn"]) as connection:
        assert connection.execute("select n from kept").fetchone() == (42,)


def test_after_a_kill_of_the_supervisor_up_works_again_with_the_data(folder: Path) -> None:
    state = stack.up(folder, components=("postgres", "kafka"))
    create_topic(state, "kept", 1)
    assert state.supervisor_pid is not None
    os.kill(state.supervisor_pid, signal.SIGKILL)
    eventually(lambda: not stack.is_running(folder), "the lock of a dead supervisor is free")
    assert [child.status for child in stack.status(folder).components] == ["stopped", "stopped"]

    again = stack.up(folder, components=("postgres", "kafka"))
    assert again.healthy
    assert not set(pids(again).values()) & set(pids(state).values())
    assert {process.pid for process in marked(folder)} >= {again.supervisor_pid, *pids(again).values()}
    assert not any(psutil.pid_exists(pid) for pid in pids(state).values() if pid)
    assert topics(again)["kept"] == 1


def test_a_postgres_that_outlived_its_supervisor_is_stopped_and_its_data_kept(folder: Path) -> None:
    stack.up(folder, components=("postgres",))
    stack.down(folder)
    spec = postgres.spec(folder, port=free_port())
    with running(spec.argv, user=spec.user, group=spec.user, stderr=subprocess.DEVNULL) as orphan:
        eventually((postgres.data_folder(folder) / "postmaster.pid").exists, "the orphan is up")
        assert marked(folder) == []
        state = stack.up(folder, components=("postgres",))
        assert orphan.wait(PATIENCE_S) == 0
    assert state.healthy


def test_a_pid_that_now_belongs_to_somebody_else_is_left_alone(folder: Path) -> None:
    stack.up(folder, components=("postgres",))
    stack.down(folder)
    with running([sys.executable, "-c", "import time; time.sleep(600)"]) as stranger:
        (postgres.data_folder(folder) / "postmaster.pid").write_text(
            f"{stranger.pid}\n{folder}\n1\n5432\n\n\n0\nready\n"
        )
        layout = Layout(folder)
        recorded = stack.status(folder).to_json() | {"supervisor_pid": stranger.pid}
        write_json(layout.state, recorded)
        assert not stack.down(folder)
        assert stack.up(folder, components=("postgres",)).healthy
        assert stranger.poll() is None


def test_a_killed_component_is_started_again_and_counted(folder: Path) -> None:
    state = stack.up(folder, components=("postgres",))
    with psycopg.connect(state.endpoints["postgres_dsn"]) as connection:
        connection.execute("create table kept as select 42 as n")
    pid = pids(state)["postgres"]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)

    def is_back() -> bool:
        child = stack.status(folder).child("postgres")
        return child is not None and child.status == "ready" and child.restarts >= 1

    eventually(is_back, "Postgres is started again")
    with psycopg.connect(state.endpoints["postgres_dsn"]) as connection:
        assert connection.execute("select n from kept").fetchone() == (42,)


def test_a_component_that_does_not_come_up_is_named_with_its_log_and_nothing_is_left(folder: Path) -> None:
    with pytest.raises(ComponentError) as caught:
        stack.up(folder, components=("postgres", "kafka"), kafka_properties={"metric.reporters": "no.such.Reporter"})
    assert caught.value.component == "kafka"
    assert "no.such.Reporter" in caught.value.log_tail
    assert "kafka did not come up: it ended with exit code 1" in str(caught.value)
    assert marked(folder) == []
    assert not stack.is_running(folder)


def test_a_port_that_was_taken_meanwhile_is_replaced(folder: Path) -> None:
    first = stack.up(folder, components=("postgres",))
    stack.down(folder)
    port = first.components[0].port
    thief = python_argv("http.server", "--bind", "127.0.0.1", str(port))
    with running(thief, stderr=subprocess.DEVNULL):
        eventually(lambda: not is_free(port or 0), "the thief listens")
        second = stack.up(folder, components=("postgres",))
    assert second.healthy
    assert second.components[0].port != port


@pytest.mark.parametrize(("component", "choice"), [("postgres", 0), ("kafka", 1)])
def test_a_port_that_is_taken_between_its_choice_and_the_start_is_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch, component: str, choice: int
) -> None:
    """Kafka's second port is its controller's, which its log alone tells of."""
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", 0))
        thief.listen()
        choose, chosen = components.free_port, list[int]()

        def racing(**wanted: Any) -> int:
            chosen.append(thief.getsockname()[1] if len(chosen) == choice else choose(**wanted))
            return chosen[-1]

        monkeypatch.setattr(components, "free_port", racing)
        state = stack.up(folder, components=(component,))
    assert state.healthy
    assert len(chosen) == 2 * (choice + 1)
    assert state.components[0].port == chosen[-1 - choice]


def test_a_worker_whose_port_is_taken_is_told_apart(folder: Path) -> None:
    stack.up(folder, components=("postgres",))
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", 0))
        thief.listen()
        port = thief.getsockname()[1]
        argv = python_argv("http.server", "--bind", "127.0.0.1", str(port))
        late = WorkerSpec("late", argv, {}, f"http://127.0.0.1:{port}/")
        with pytest.raises(PortTakenError, match=r"late did not come up: .* its port is taken"):
            stack.up(folder, [late], components=("postgres",))
    eventually(lambda: stack.status(folder).healthy, "the stack goes on without it")


def test_workers_join_and_leave_and_a_broken_one_is_named(folder: Path) -> None:
    port = free_port()
    good = WorkerSpec(
        "good", python_argv("http.server", "--bind", "127.0.0.1", str(port)), {}, f"http://127.0.0.1:{port}/"
    )
    stack.up(folder, components=("postgres",))
    state = stack.up(folder, [good], components=("postgres",))
    assert [(child.name, child.kind) for child in state.components] == [("postgres", "component"), ("good", "worker")]

    with pytest.raises(ComponentError, match="bad did not come up"):
        stack.up(
            folder,
            [worker("bad", "print('no such route'); raise SystemExit(2)", port=port + 1)],
            components=("postgres",),
        )
    assert "no such route" in tail(Layout(folder).log("bad"))
    eventually(lambda: stack.status(folder).child("bad") is None, "the broken worker is taken out")
    assert pids(stack.status(folder)) == pids(state)

    left = stack.remove(folder, ["good"])
    assert [child.name for child in left.components] == ["postgres"]
    assert not psutil.pid_exists(pids(state)["good"] or 0)


def test_workers_stop_before_the_components_they_use(folder: Path, tmp_path: Path) -> None:
    state = stack.up(folder, components=("postgres",))
    code = f"""
import pathlib, psycopg, signal, sys
def stop(*_):
    with psycopg.connect({state.endpoints["postgres_dsn"]!r}) as connection:
        pathlib.Path({str(tmp_path / "said")!r}).write_text(str(connection.execute("select 7").fetchone()[0]))
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
pathlib.Path({str(tmp_path / "runs")!r}).touch()
while True:
    signal.pause()
"""
    stack.up(folder, [worker("last-words", code)], components=("postgres",))
    eventually((tmp_path / "runs").exists, "the worker runs")
    stack.down(folder)
    assert (tmp_path / "said").read_text() == "7"


def test_two_ups_at_once_make_one_stack(folder: Path) -> None:
    states: list[StackState] = []
    threads = [
        threading.Thread(target=lambda: states.append(stack.up(folder, components=("postgres",)))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({state.supervisor_pid for state in states}) == 1
    assert pids(states[0]) == pids(states[1])


def test_ctrl_c_during_up_leaves_nothing_running(folder: Path) -> None:
    code = (
        "from pathlib import Path; from infra.embedded import stack; "
        f"stack.up(Path({str(folder)!r}), components=('postgres', 'kafka'))"
    )
    # A background run of the tests ignores control-C, and would pass that on.
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with running([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, preexec_fn=heeding) as process:
        eventually(lambda: len(stack.status(folder).components) == 2, "up is under way")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert marked(folder) == []
    assert not stack.is_running(folder)


def test_a_stack_with_an_owner_ends_with_it(folder: Path) -> None:
    code = (
        "import os; from pathlib import Path; from infra.embedded import stack; "
        f"stack.up(Path({str(folder)!r}), components=('postgres',), owner_pid=os.getpid()); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=PATIENCE_S)
    eventually(lambda: marked(folder) == [], "the supervisor and all its children end")
    assert not stack.is_running(folder)


def test_the_command_ends_with_1_and_names_what_can_not_be_had(folder: Path) -> None:
    command = [sys.executable, "-m", "streams", "up", "--no-workers", "--folder", str(folder), "--json"]
    env = {**os.environ, "XDG_CACHE_HOME": "/dev/null/none"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "set XDG_CACHE_HOME to a writable folder" in done.stderr
    assert marked(folder) == []
