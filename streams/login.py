"""Why a broker does not let a client in: what the clients themselves do not tell, with the setting that mends it."""

from __future__ import annotations

import asyncio
import ssl
from concurrent.futures import ThreadPoolExecutor

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest
from confluent_kafka import KafkaException

from schemas.errors import ConfigurationError, DependencyDownError
from streams.security import aiokafka_security, openssl_reason, protocol, servers
from streams.settings import KafkaSettings
from streams.tokens import TokenUnavailableError

TIMEOUT_S = 5.0
CLOSING_S = 1.0


async def refusal(kafka: KafkaSettings) -> ConfigurationError | None:
    """Why the broker does not let this client in, where that is for an operator to mend.

    None where one of the servers lets it in, or none can be reached. Logs in once more, and blocks on it for seconds
    at most.
    """
    first: ConfigurationError | None = None
    for server in servers(kafka):
        try:
            await _log_in(kafka, server)
            return None
        except ConfigurationError as error:
            first = first or error
        except ssl.SSLError as error:
            told = f"kafka.tls: {server} can't be trusted or takes no TLS ({openssl_reason(error)})"
            first = first or ConfigurationError(told)
        except (AuthenticationFailedError, SaslAuthenticationFailed, UnsupportedSaslMechanismError) as error:
            first = first or ConfigurationError(_refused(kafka, server, error))
        except TokenUnavailableError as error:
            first = first or (error.__cause__ if isinstance(error.__cause__, ConfigurationError) else None)
        except KafkaConnectionError:
            first = first or ConfigurationError(_closed(kafka, server))
        except (KafkaError, OSError, ValueError):
            continue
    return first


def check_login(kafka: KafkaSettings) -> None:
    """Raise ``ConfigurationError`` at once for a client that the broker would refuse.

    librdkafka goes on trying until a command's patience is over, and then says nothing of the reason. Blocks for a
    login, tens of milliseconds, whether there is an event loop or not; asks nothing where there is nothing to refuse.
    """
    if protocol(kafka) == "PLAINTEXT":
        return
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: asyncio.run(refusal(kafka))).result()
    if found is not None:
        raise found


def down(kafka: KafkaSettings, error: KafkaException) -> ConfigurationError | DependencyDownError:
    """What a failed call of a confluent-kafka client means. Blocks on logging in once more; not for an event loop."""
    found = asyncio.run(refusal(kafka))
    return found or DependencyDownError("kafka", str(error.args[0].str() if error.args else error))


async def _log_in(kafka: KafkaSettings, server: str) -> None:
    host, _, port = server.rpartition(":")
    connection = AIOKafkaConnection(
        host, int(port), request_timeout_ms=int(TIMEOUT_S * 1000), **aiokafka_security(kafka)
    )
    try:
        await connection.connect()
        # A refused token shows no sooner than here: aiokafka takes the refusal for an empty reply.
        if not (await connection.send(MetadataRequest([]))).brokers:
            raise KafkaConnectionError(server)
    finally:
        closed = connection.close()
        # Without a transport nothing would ever end that future.
        if connection._protocol is not None:
            await asyncio.wait([closed], timeout=CLOSING_S)


def _refused(kafka: KafkaSettings, server: str, error: Exception) -> str:
    sasl = kafka.sasl
    if sasl is None:
        return f"kafka: {server} asks for a login; set kafka.sasl"
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"kafka.sasl.mechanism: {server} does not take {sasl.mechanism}"
    if sasl.mechanism == "OAUTHBEARER":
        what = "token_file" if sasl.token_file else "client_id, client_secret and scope"
        return f"kafka.sasl: {server} refused the token; check kafka.sasl.{what}"
    return (
        f"kafka.sasl: {server} refused the user {sasl.username} by {sasl.mechanism}; "
        "check kafka.sasl.username, its password and mechanism"
    )


def _closed(kafka: KafkaSettings, server: str) -> str:
    if kafka.sasl is not None and kafka.sasl.mechanism == "OAUTHBEARER":
        return _refused(kafka, server, AuthenticationFailedError())
    missing = "" if kafka.tls is None or kafka.tls.certificate_file else ", and kafka.tls.certificate_file if it asks"
    return (
        f"kafka: {server} takes a connection and ends it without a word; this client speaks {protocol(kafka)}: "
        f"set kafka.tls and kafka.sasl as the listener wants{missing}"
    )
