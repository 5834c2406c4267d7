"""From settings to every client: who it connects as, and whom it trusts. Nothing else makes a client's settings."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Mapping
from typing import Any

import faust
from faust.auth import OAuthCredentials

from schemas.codec import Codec
from schemas.errors import ConfigurationError
from schemas.registry import Registry
from streams.credentials import SaslSettings, TlsSettings, secret
from streams.settings import KafkaSettings, RegistrySettings, Settings
from streams.tokens import EndpointTokens, FileTokens, TokenProvider, basic_auth, read_token

LOGIN_TIMEOUT_S = 5.0
# librdkafka's names, which aiokafka can't be given, and the setting that reaches both.
_OURS = {
    "security.protocol": "kafka.tls and kafka.sasl",
    "enable.ssl.certificate.verification": "kafka.tls.ca_file",
    "sasl.password": "kafka.sasl.password_env",
    "ssl.ca.location": "kafka.tls.ca_file",
}
_FAMILIES = {"security.": "kafka.tls", "sasl.": "kafka.sasl", "ssl.": "kafka.tls", "enable.ssl.": "kafka.tls"}


def for_stages(settings: Settings, stages: Iterable[str]) -> Settings:
    """The settings of a worker of these stages, with their own credentials where there are such.

    Raises ``ConfigurationError`` for stages with different credentials in one process, which has one producer, and
    for options that would not reach a worker's clients.
    """
    kafka, names = settings.kafka, tuple(stages)
    _check_options(kafka)
    own = {name: kafka.principals.get(name) for name in names}
    first = own[names[0]]
    others = [name for name, principal in own.items() if principal != first]
    if others:
        raise ConfigurationError(
            f"kafka.principals: {', '.join(own)} have different credentials; run each in a worker of its own"
        )
    if first is None:
        return settings
    changed = {name: value for name in ("tls", "sasl") if (value := getattr(first, name)) is not None}
    return settings.model_copy(update={"kafka": kafka.model_copy(update=changed)})


def protocol(kafka: KafkaSettings) -> str:
    """Kafka's name of how a client talks to the broker."""
    encrypted = kafka.tls is not None and kafka.tls.enabled
    if kafka.sasl is not None:
        return "SASL_SSL" if encrypted else "SASL_PLAINTEXT"
    return "SSL" if encrypted else "PLAINTEXT"


def secured(kafka: KafkaSettings) -> bool:
    """Whether a client says who it is, so that it may be refused."""
    return kafka.sasl is not None or (kafka.tls is not None and kafka.tls.certificate_file is not None)


def librdkafka(kafka: KafkaSettings, own: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a confluent-kafka client with ``own`` ones; ``kafka.options`` go before all of them.

    Raises ``ConfigurationError`` for a secret that can't be read.
    """
    config: dict[str, Any] = {"bootstrap.servers": kafka.bootstrap}
    if protocol(kafka) != "PLAINTEXT":
        config["security.protocol"] = protocol(kafka)
    if kafka.tls is not None and kafka.tls.enabled:
        config |= _librdkafka_tls(kafka.tls)
    if kafka.sasl is not None:
        config |= _librdkafka_sasl(kafka.sasl)
    return {**config, **own, **kafka.options}


def aiokafka(kafka: KafkaSettings) -> dict[str, Any]:
    """The settings of an aiokafka client. Raises ``ConfigurationError`` for a secret or file that can't be read."""
    return {"bootstrap_servers": kafka.bootstrap, **aiokafka_security(kafka)}


def faust_broker(kafka: KafkaSettings) -> dict[str, Any]:
    """The settings ``broker`` and ``broker_credentials`` of a Faust app.

    Faust takes the protocol from the kind of credentials and whether they have an SSL context.
    """
    context = ssl_context(kafka.tls, at="kafka.tls")
    credentials: Any = None
    if kafka.sasl is None:
        credentials = faust.SSLCredentials(context) if context is not None else None
    elif kafka.sasl.mechanism == "OAUTHBEARER":
        credentials = OAuthCredentials(oauth_cb=tokens(kafka.sasl), ssl_context=context)
    else:
        credentials = faust.SASLCredentials(
            username=kafka.sasl.username,
            password=secret(kafka.sasl, "password", at="kafka.sasl"),
            ssl_context=context,
            mechanism=kafka.sasl.mechanism,
        )
    return {"broker": [f"kafka://{server}" for server in servers(kafka)], "broker_credentials": credentials}


def servers(kafka: KafkaSettings) -> list[str]:
    """The addresses to start from."""
    return [server.strip() for server in kafka.bootstrap.split(",")]


def tokens(sasl: SaslSettings) -> TokenProvider:
    """Where an aiokafka client gets its tokens."""
    if sasl.token_file is not None:
        return FileTokens(sasl.token_file)
    assert sasl.token_url is not None and sasl.client_id is not None
    trusted = TlsSettings(ca_file=sasl.token_ca_file) if sasl.token_ca_file else None
    return EndpointTokens(
        sasl.token_url,
        client_id=sasl.client_id,
        client_secret=lambda: secret(sasl, "client_secret", at="kafka.sasl"),
        scope=sasl.scope,
        context=ssl_context(trusted, at="kafka.sasl.token_ca_file"),
        timeout_s=sasl.token_timeout_s,
    )


def ssl_context(tls: TlsSettings | None, *, at: str) -> ssl.SSLContext | None:
    """The context of a client; None without TLS. Blocks on small files; raises ``ConfigurationError``."""
    if tls is None or not tls.enabled:
        return None
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"{at}.ca_file: {tls.ca_file} can't be used ({openssl_reason(error)})") from None
    context.check_hostname = tls.check_hostname
    if tls.certificate_file is not None:
        # Without one OpenSSL would ask for it on the terminal.
        password = secret(tls, "key_password", at=at) if tls.has_key_password else ""
        try:
            context.load_cert_chain(tls.certificate_file, tls.key_file, password)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"{at}.certificate_file, key_file or key_password: can't be used ({openssl_reason(error)})"
            ) from None
    return context


def registry(settings: RegistrySettings) -> Registry:
    """A client of the registry."""
    return Registry(settings.url, options=registry_options(settings))


async def codec(settings: RegistrySettings) -> Codec:
    """A codec by the registry. Raises as ``Codec.connect`` does."""
    return await Codec.connect(settings.url, options=registry_options(settings))


def registry_options(settings: RegistrySettings) -> dict[str, str]:
    """The registry client's options. Raises ``ConfigurationError`` for a secret that can't be read."""
    options: dict[str, str] = {}
    if settings.username is not None:
        password = secret(settings, "password", at="registry")
        options["basic.auth.user.info"] = f"{settings.username}:{password}"
    tls = settings.tls
    if tls is not None and tls.enabled:
        files = {"ca": tls.ca_file, "certificate": tls.certificate_file, "key": tls.key_file}
        options |= {f"ssl.{name}.location": str(path) for name, path in files.items() if path is not None}
        if tls.has_key_password:
            options["ssl.key.password"] = secret(tls, "key_password", at="registry.tls")
    return {**options, **settings.options}


def registry_http(settings: RegistrySettings) -> dict[str, Any]:
    """How aiohttp asks the registry: ``headers`` and ``ssl`` of a request."""
    given = registry_options(settings)
    asked: dict[str, Any] = {}
    if user := given.get("basic.auth.user.info"):
        asked["headers"] = {"Authorization": basic_auth(user)}
    if any(name.startswith("ssl.") for name in given):
        tls = settings.tls or TlsSettings(
            ca_file=given.get("ssl.ca.location"),  # type: ignore[arg-type]
            certificate_file=given.get("ssl.certificate.location"),  # type: ignore[arg-type]
            key_file=given.get("ssl.key.location"),  # type: ignore[arg-type]
        )
        asked["ssl"] = ssl_context(tls, at="registry.tls")
    return asked


def aiokafka_security(kafka: KafkaSettings) -> dict[str, Any]:
    """How an aiokafka connection encrypts and logs in."""
    given: dict[str, Any] = {"security_protocol": protocol(kafka)}
    if (context := ssl_context(kafka.tls, at="kafka.tls")) is not None:
        given["ssl_context"] = context
    sasl = kafka.sasl
    if sasl is None:
        return given
    given["sasl_mechanism"] = sasl.mechanism
    if sasl.mechanism == "OAUTHBEARER":
        return {**given, "sasl_oauth_token_provider": tokens(sasl)}
    password = secret(sasl, "password", at="kafka.sasl")
    return {**given, "sasl_plain_username": sasl.username, "sasl_plain_password": password}


def _librdkafka_tls(tls: TlsSettings) -> dict[str, Any]:
    files = {"ca": tls.ca_file, "certificate": tls.certificate_file, "key": tls.key_file}
    if tls.certificate_file is not None and tls.key_file is None:
        files["key"] = tls.certificate_file
    config: dict[str, Any] = {f"ssl.{name}.location": str(path) for name, path in files.items() if path is not None}
    config["ssl.endpoint.identification.algorithm"] = "https" if tls.check_hostname else "none"
    if tls.has_key_password:
        config["ssl.key.password"] = secret(tls, "key_password", at="kafka.tls")
    return config


def _librdkafka_sasl(sasl: SaslSettings) -> dict[str, Any]:
    config: dict[str, Any] = {"sasl.mechanism": sasl.mechanism}
    if sasl.mechanism != "OAUTHBEARER":
        return {**config, "sasl.username": sasl.username, "sasl.password": secret(sasl, "password", at="kafka.sasl")}
    if sasl.token_file is not None:
        path = sasl.token_file

        def read(_config: str) -> tuple[str, float]:
            token = read_token(path, now=time.time())
            return token.value, token.ends_at

        return {**config, "oauth_cb": read}
    config |= {
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": sasl.token_url,
        "sasl.oauthbearer.client.id": sasl.client_id,
        "sasl.oauthbearer.client.secret": secret(sasl, "client_secret", at="kafka.sasl"),
    }
    if sasl.scope:
        config["sasl.oauthbearer.scope"] = sasl.scope
    if sasl.token_ca_file:
        config["https.ca.location"] = str(sasl.token_ca_file)
    return config


def _check_options(kafka: KafkaSettings) -> None:
    """Refuse what would reach the commands' clients and not the workers'."""
    found = {
        name: _OURS.get(name) or next(setting for start, setting in _FAMILIES.items() if name.startswith(start))
        for name in kafka.options
        if name.startswith(tuple(_FAMILIES))
    }
    if found:
        told = "; ".join(f"{name} (set {setting})" for name, setting in found.items())
        raise ConfigurationError(f"kafka.options: workers can't apply {told}")


def openssl_reason(error: Exception) -> str:
    """What OpenSSL or the system says, which quotes no secret."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return error.reason or type(error).__name__
    return getattr(error, "strerror", None) or type(error).__name__
