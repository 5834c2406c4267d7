"""What the stack knows about processes, ports and its own files."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from infra.embedded import kafka
from infra.embedded.child import ChildSpec, Health, WorkerSpec
from infra.embedded.ports import LOOPBACK, free_port, is_free
from infra.embedded.processes import end, mark, marked
from infra.embedded.state import ChildState, StackState, read_json, tail, write_json
from tests.support.proxy import TcpProxy


def test_only_processes_that_carry_the_folders_mark_are_found_and_ended(tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(20)"]
    with (
        subprocess.Popen(sleep, env={**os.environ, **mark(tmp_path)}, stdout=subprocess.PIPE) as ours,
        subprocess.Popen(sleep, env={**os.environ, **mark(tmp_path / "other")}, stdout=subprocess.PIPE) as other,
    ):
        for process in (ours, other):
            assert process.stdout is not None
            process.stdout.readline()
        assert [process.pid for process in marked(tmp_path)] == [ours.pid]
        assert end(marked(tmp_path)) == 1
        assert not psutil.pid_exists(ours.pid)
        assert other.poll() is None
        other.kill()


def test_a_process_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    code = "import signal,time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(20)"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env={**os.environ, **mark(tmp_path)}, stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        end(marked(tmp_path), grace_s=0.2)
        assert not psutil.pid_exists(stubborn.pid)


def test_a_port_keeps_its_number_while_it_is_free() -> None:
    port = free_port()
    assert is_free(port)
    assert free_port(preferred=port) == port
    assert free_port(preferred=port, taken={port}) != port
    with socket.socket() as holder:
        holder.bind((LOOPBACK, port))
        holder.listen()
        assert not is_free(port)
        assert free_port(preferred=port) != port


def test_child_and_state_survive_their_files(tmp_path: Path) -> None:
    worker = WorkerSpec("w", ("a", "b"), {"K": "v"}, "http://127.0.0.1:4711/readyz", 7.0)
    child = ChildSpec.from_worker(worker)
    assert (child.port, child.health, child.stop_grace_s) == (4711, Health("http", worker.health_url or ""), 7.0)
    write_json(tmp_path / "child.json", child.to_json())
    assert ChildSpec.from_json(read_json(tmp_path / "child.json") or {}) == child
    state = StackState("f", True, 1, 2.0, {"a": 1}, {"b": "2"}, (ChildState("w", "worker", "ready", 3),))
    write_json(tmp_path / "state.json", state.to_json())
    assert StackState.from_json(read_json(tmp_path / "state.json") or {}) == state
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_stack_is_healthy_only_when_it_runs_and_all_of_it_is_ready() -> None:
    ready, starting = ChildState("a", "component", "ready"), ChildState("b", "worker", "starting")
    assert StackState("f", True, components=(ready,)).healthy
    assert not StackState("f", False, components=(ready,)).healthy
    assert not StackState("f", True, components=(ready, starting)).healthy


def test_a_file_that_is_cut_short_or_missing_reads_as_none(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text('{"folder": ')
    assert read_json(tmp_path / "cut.json") is None
    assert read_json(tmp_path / "none.json") is None


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("".join(f"line {index}\n" for index in range(50_000)))
    assert tail(log, 2) == "line 49998\nline 49999"
    assert tail(tmp_path / "none.log") == ""


def test_the_brokers_settings_can_be_extended() -> None:
    values = kafka.properties(Path("/d"), port=1, controller_port=2, extra={"listeners": "SASL_SSL://:9", "a": "b"})
    assert (values["listeners"], values["a"]) == ("SASL_SSL://:9", "b")
    assert values["log.message.timestamp.type"] == "LogAppendTime"


def test_a_proxy_forwards_until_it_is_cut_and_again_when_healed() -> None:
    with socket.create_server((LOOPBACK, 0)) as server, TcpProxy(LOOPBACK, server.getsockname()[1]) as proxy:
        threading.Thread(target=_echo, args=(server,), daemon=True).start()
        address = (LOOPBACK, proxy.port)
        with socket.create_connection(address, timeout=5) as client:
            client.sendall(b"hello")
            assert client.recv(10) == b"hello"
            proxy.cut()
            with pytest.raises(OSError):
                assert client.recv(10) == b""
                raise ConnectionError
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=5)
        proxy.heal()
        with socket.create_connection(address, timeout=5) as client:
            client.sendall(b"again")
            assert client.recv(10) == b"again"


def _echo(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection:
        try:
            while data := connection.recv(100):
                connection.sendall(data)
        except OSError:
            return
