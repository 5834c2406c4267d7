"""Settings become clients' settings in one place, whole, and without telling a secret."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.errors import ConfigurationError
from streams import security
from streams.credentials import PrincipalSettings, SaslSettings, TlsSettings, secret
from streams.doctor.redact import redactor
from streams.settings import KafkaSettings, PostgresSettings, RegistrySettings
from streams.tokens import basic_auth
from tests.support.certificates import Authority
from tests.support.settings import bare_settings

STREAMS = Path(__file__).parents[3] / "streams"
HIDDEN = "s3cret!"
PASSWORD = {"username": "ada", "password": HIDDEN}


def kafka(**changes: Any) -> KafkaSettings:
    return KafkaSettings(**{"bootstrap": "b:9092", **changes})


def test_nothing_else_builds_the_settings_of_a_client() -> None:
    made = re.compile(r"\b(AdminClient|KafkaProducer|Consumer|AIOKafka(?:Producer|Consumer))\(\s*(?!self\b)(.*)")
    around = re.compile(
        r"kafka\.options|registry\.options|\bCodec\.connect\(|(?<!class )\bRegistry\(|SchemaRegistryClient"
    )
    for path in sorted(STREAMS.rglob("*.py")):
        text = path.read_text()
        if path.name in ("security.py", "redact.py"):
            continue
        for found in made.finditer(text):
            assert found[2].startswith(("security.", "**security.")), f"{path.name}: {found[0]}"
        assert (found := around.search(text)) is None, f"{path.name}: {found and found[0]}"
        assert "bootstrap.servers" not in text and "bootstrap_servers" not in text, path.name


def test_without_security_a_client_gets_the_address_and_what_it_asked_for() -> None:
    assert security.librdkafka(kafka(), {"linger.ms": 5}) == {"bootstrap.servers": "b:9092", "linger.ms": 5}
    assert security.aiokafka(kafka()) == {"bootstrap_servers": "b:9092", "security_protocol": "PLAINTEXT"}
    assert security.faust_broker(kafka(bootstrap="a:1, b:2"))["broker"] == ["kafka://a:1", "kafka://b:2"]


def test_options_of_the_library_go_before_all_others() -> None:
    config = security.librdkafka(kafka(options={"linger.ms": "9", "debug": "broker"}), {"linger.ms": 5})
    assert (config["linger.ms"], config["debug"]) == ("9", "broker")


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize(("tls", "protocol"), [(None, "SASL_PLAINTEXT"), ({}, "SASL_SSL")])
def test_a_password_reaches_all_three_clients(mechanism: str, tls: Any, protocol: str) -> None:
    wanted = kafka(tls=tls, sasl={"mechanism": mechanism, **PASSWORD})
    config = security.librdkafka(wanted, {})
    assert [config[name] for name in ("security.protocol", "sasl.mechanism", "sasl.username", "sasl.password")] == [
        protocol,
        mechanism,
        "ada",
        HIDDEN,
    ]
    given = security.aiokafka(wanted)
    assert (given["security_protocol"], given["sasl_mechanism"]) == (protocol, mechanism)
    assert (given["sasl_plain_username"], given["sasl_plain_password"]) == ("ada", HIDDEN)
    credentials = security.faust_broker(wanted)["broker_credentials"]
    assert (credentials.protocol.value, credentials.mechanism.value) == (protocol, mechanism)
    assert (credentials.username, credentials.password) == ("ada", HIDDEN)
    assert HIDDEN not in repr(credentials)


def test_oauth_reaches_all_three_clients() -> None:
    sasl = {"mechanism": "OAUTHBEARER", "token_url": "https://t/token", "client_id": "c", "client_secret": HIDDEN}
    wanted = kafka(tls={}, sasl={**sasl, "scope": "kafka"})
    config = security.librdkafka(wanted, {})
    assert config["sasl.oauthbearer.method"] == "oidc"
    assert config["sasl.oauthbearer.token.endpoint.url"] == "https://t/token"
    assert (config["sasl.oauthbearer.client.secret"], config["sasl.oauthbearer.scope"]) == (HIDDEN, "kafka")
    provider = security.aiokafka(wanted)["sasl_oauth_token_provider"]
    credentials = security.faust_broker(wanted)["broker_credentials"]
    assert type(credentials.oauth_cb) is type(provider)
    assert credentials.protocol.value == "SASL_SSL"


def test_certificates_reach_all_clients_and_the_host_is_checked_unless_told_otherwise(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.sign("ada", password="locked")
    tls = {
        "ca_file": authority.file,
        "certificate_file": pair.certificate,
        "key_file": pair.key,
        "key_password": "locked",
    }
    wanted = kafka(tls=tls)
    config = security.librdkafka(wanted, {})
    assert config["security.protocol"] == "SSL"
    assert config["ssl.ca.location"] == str(authority.file)
    assert (config["ssl.certificate.location"], config["ssl.key.location"]) == (str(pair.certificate), str(pair.key))
    assert (config["ssl.key.password"], config["ssl.endpoint.identification.algorithm"]) == ("locked", "https")
    context = security.aiokafka(wanted)["ssl_context"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert security.faust_broker(wanted)["broker_credentials"].context.check_hostname
    trusting = kafka(tls={**tls, "check_hostname": False})
    assert security.librdkafka(trusting, {})["ssl.endpoint.identification.algorithm"] == "none"
    loose = security.aiokafka(trusting)["ssl_context"]
    assert (loose.verify_mode, loose.check_hostname) == (ssl.CERT_REQUIRED, False)
    with pytest.raises(ConfigurationError, match=r"kafka\.tls\.certificate_file, key_file or key_password"):
        security.aiokafka(kafka(tls={**tls, "key_password": "wrong"}))
    with pytest.raises(ConfigurationError, match=r"kafka\.tls\.ca_file: .*nowhere"):
        security.aiokafka(kafka(tls={"ca_file": tmp_path / "nowhere"}))


def test_the_registry_gets_login_and_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    given = RegistrySettings(url="https://r", username="ada", password=HIDDEN, tls={"ca_file": authority.file})
    assert security.registry_options(given) == {
        "basic.auth.user.info": f"ada:{HIDDEN}",
        "ssl.ca.location": str(authority.file),
    }
    asked = security.registry_http(given)
    assert asked["headers"] == {"Authorization": basic_auth(f"ada:{HIDDEN}")}
    assert isinstance(asked["ssl"], ssl.SSLContext)
    with pytest.raises(ValidationError, match="check_hostname"):
        RegistrySettings(url="https://r", tls={"check_hostname": False})


def test_postgres_takes_the_password_from_a_file_and_keeps_the_rest_of_the_dsn(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{HIDDEN}\n")
    dsn = "postgresql://ada@db:5/name?sslmode=verify-full&sslrootcert=/ca.pem"
    made = PostgresSettings(dsn=dsn, password_file=file).dsn.get_secret_value()
    for part in (f"password={HIDDEN}", "sslmode=verify-full", "sslrootcert=/ca.pem", "user=ada", "host=db"):
        assert part in made
    with pytest.raises(ValidationError, match="NOWHERE, which is not set"):
        PostgresSettings(dsn=dsn, password_env="NOWHERE")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mechanism": "PLAIN"}, "username"),
        ({"username": "a"}, "password_env"),
        ({**PASSWORD, "password_env": "X"}, "set one of them"),
        ({"mechanism": "OAUTHBEARER"}, "token_url or token_file"),
        ({"mechanism": "OAUTHBEARER", "token_url": "http://t"}, "client_id"),
        ({"mechanism": "OAUTHBEARER", "token_url": "http://t", "client_id": "c"}, "client_secret_env"),
        ({"mechanism": "GSSAPI", **PASSWORD}, "PLAIN"),
    ],
)
def test_half_a_login_is_an_error_that_says_what_is_missing(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said) as error:
        SaslSettings(**values)
    assert HIDDEN not in str(error.value.errors(include_input=False))


def test_a_secret_that_is_not_there_is_named_by_its_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    by_name = SaslSettings(username="a", password_env="HR_TEST_PASSWORD")
    with pytest.raises(ConfigurationError, match=r"kafka\.sasl\.password_env names HR_TEST_PASSWORD, which is not set"):
        secret(by_name, "password", at="kafka.sasl")
    monkeypatch.setenv("HR_TEST_PASSWORD", HIDDEN)
    assert secret(by_name, "password", at="kafka.sasl") == HIDDEN
    file = tmp_path / "p"
    by_file = SaslSettings(username="a", password_file=file)
    with pytest.raises(ConfigurationError, match=r"kafka\.sasl\.password_file: .* can't be read"):
        secret(by_file, "password", at="kafka.sasl")
    file.write_text("first\n")
    assert secret(by_file, "password", at="kafka.sasl") == "first"
    file.write_text("second\n")
    assert secret(by_file, "password", at="kafka.sasl") == "second"


def test_a_worker_takes_its_stages_own_credentials() -> None:
    own = PrincipalSettings(sasl=SaslSettings(username="complete", password="x"))
    both = bare_settings(kafka=kafka(sasl=SaslSettings(**PASSWORD), tls=TlsSettings(), principals={"complete": own}))
    taken = security.for_stages(both, ["complete"]).kafka
    assert taken.sasl is not None and taken.sasl.username == "complete"
    assert taken.tls == both.kafka.tls
    assert security.for_stages(both, ["admit", "filter"]) is both
    with pytest.raises(ConfigurationError, match="admit, complete have different credentials"):
        security.for_stages(both, ["admit", "complete"])


@pytest.mark.parametrize("name", ["security.protocol", "sasl.password", "ssl.ca.location", "sasl.jaas.config"])
def test_a_workers_options_that_would_not_reach_its_clients_are_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{re.escape(name)} \(set kafka\.") as error:
        security.for_stages(bare_settings(kafka=kafka(options={name: HIDDEN})), ["admit"])
    assert HIDDEN not in str(error.value)


def test_no_secret_of_a_login_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "p"
    file.write_text("of-a-file")
    login = {"mechanism": "OAUTHBEARER", "token_url": "http://t", "client_id": "c", "client_secret": "of-a-client"}
    given = bare_settings(
        kafka=kafka(
            sasl={"username": "a", "password_file": file},
            tls={"certificate_file": "c.pem", "key_password": "of-a-key"},
            principals={"admit": {"sasl": login}},
        ),
        registry={"url": "http://r", "username": "a", "password": "of-a-registry"},
    )
    words = ("of-a-file", "of-a-key", "of-a-client", "of-a-registry")
    assert redactor(given)(" ".join(words)) == " ".join(["***"] * 4)
    assert not any(word in repr(given) for word in words)
