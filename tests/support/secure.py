"""A broker that asks who one is: SASL over TLS beside the plain listener that only tests use, and ACLs."""

from __future__ import annotations

import base64
import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from infra.embedded import stack as embedded
from infra.embedded.errors import PortTakenError
from infra.embedded.ports import LOOPBACK, free_port
from infra.embedded.state import Layout, write_json
from tests.support.certificates import Authority

TIMEOUT_S = 30
ROOT, PLAIN_PASSWORD = "root", "plain-secret"
_KAFKA = "org.apache.kafka"
_SECURITY = f"{_KAFKA}.common.security"


class SecureBroker:
    """A broker of its own. On the plain listener everybody is a super user; the other one takes no anonymous client."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hrs-"))
        self.authority = Authority(self.folder)
        try:
            for _ in range(embedded.PORT_TRIES - 1):
                with suppress(PortTakenError):
                    self._start()
                    return
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        ports: list[int] = []
        for _ in range(4):
            ports.append(free_port(taken=ports))
        plain, controller, sasl, tls = ports
        self.plain, self.sasl_ssl, self.tls = (f"{LOOPBACK}:{port}" for port in (plain, sasl, tls))
        layout = Layout(self.folder)
        write_json(layout.desired, {"ports": {"kafka": plain, "kafka-controller": controller}})
        listeners = f"PLAINTEXT://{self.plain},SASL_SSL://{self.sasl_ssl},SSL://{self.tls}"
        server = self.authority.sign("broker", address=LOOPBACK)
        state = embedded.up(
            self.folder,
            components=("kafka",),
            owner_pid=os.getpid(),
            kafka_properties={
                "listeners": f"{listeners},CONTROLLER://{LOOPBACK}:{controller}",
                "advertised.listeners": listeners,
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(server.both),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self.authority.file),
                "listener.name.ssl.ssl.client.auth": "required",
                "sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512,PLAIN,OAUTHBEARER",
                **{
                    f"listener.name.sasl_ssl.{name}.sasl.jaas.config": f"{_SECURITY}.{module} required{options};"
                    for name, module, options in (
                        ("scram-sha-256", "scram.ScramLoginModule", ""),
                        ("scram-sha-512", "scram.ScramLoginModule", ""),
                        ("plain", "plain.PlainLoginModule", f' user_{ROOT}="{PLAIN_PASSWORD}"'),
                        (
                            "oauthbearer",
                            "oauthbearer.OAuthBearerLoginModule",
                            ' unsecuredLoginStringClaim_sub="broker"',
                        ),
                    )
                },
                "authorizer.class.name": f"{_KAFKA}.metadata.authorizer.StandardAuthorizer",
                # ``root``, however it logs in, is for tests of logging in.
                "super.users": "User:ANONYMOUS;User:root;User:CN=root",
            },
        )
        assert state.endpoints["kafka_bootstrap"] == self.plain
        self.admin = AdminClient({"bootstrap.servers": self.plain, "log_level": 0})

    def users(self, *names: str, mechanism: str = "SCRAM-SHA-512") -> None:
        """Make SCRAM users whose passwords are ``<name>-secret``; returns when they can log in."""
        kind = ScramMechanism.SCRAM_SHA_512 if mechanism.endswith("512") else ScramMechanism.SCRAM_SHA_256
        made = [
            UserScramCredentialUpsertion(name, ScramCredentialInfo(kind, 4096), password_of(name).encode())
            for name in names
        ]
        for future in self.admin.alter_user_scram_credentials(made).values():
            future.result(TIMEOUT_S)

    def sasl(self, name: str, **changes: Any) -> dict[str, Any]:
        """The section ``kafka`` of settings for a SCRAM user."""
        login = {"mechanism": "SCRAM-SHA-512", "username": name, "password": password_of(name), **changes}
        return {"bootstrap": self.sasl_ssl, "tls": {"ca_file": str(self.authority.file)}, "sasl": login}

    def close(self) -> None:
        """Stop the broker and remove its folder."""
        with suppress(Exception):
            embedded.down(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)


def password_of(name: str) -> str:
    """The password of a test's user."""
    return f"{name}-secret"


def unsecured_token(subject: str = ROOT, *, life_s: float = 300.0) -> str:
    """A token that the broker takes at its word (its own validator for tests)."""
    now = time.time()
    parts = ({"alg": "none"}, {"sub": subject, "iat": now - 5, "exp": now + life_s})
    coded = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    return ".".join(coded) + "."
