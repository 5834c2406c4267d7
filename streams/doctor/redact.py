"""Keeping secrets out of what is shown: every secret in the settings, in each form it may come back in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from urllib.parse import quote, unquote, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from schemas.errors import ConfigurationError
from streams.credentials import SOURCES, Section, secret
from streams.settings import Settings

HIDDEN = "***"
# What a client option is called when its value is secret.
_SECRET_NAMES = ("password", "secret", "token", "user.info", "key", "jaas", "credential", "sasl.oauthbearer.config")


def redactor(settings: Settings) -> Callable[[str], str]:
    """A function that hides every secret of these settings in a text."""
    secrets = sorted({form for value in _secrets(settings) for form in _forms(value)}, key=len, reverse=True)

    def redact(text: str) -> str:
        for form in secrets:
            text = text.replace(form, HIDDEN)
        return text

    return redact


def shown_url(url: str) -> str:
    """The address without user, password and query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def shown_dsn(dsn: str) -> str:
    """Host, port and database of a DSN, and nothing else."""
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.Error:
        return "postgres.dsn (which does not parse)"
    return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"


def _secrets(settings: Settings) -> Iterator[str]:
    dsn = settings.postgres.dsn.get_secret_value()
    yield dsn
    yield str(conninfo_to_dict(dsn).get("password") or "")
    for options in (settings.kafka.options, settings.registry.options):
        yield from _of_options(options)
    kafka, registry = settings.kafka, settings.registry
    for section in (kafka, registry, *kafka.principals.values()):
        for part in (section, getattr(section, "sasl", None), getattr(section, "tls", None)):
            yield from _of_section(part)
    for url in (
        settings.registry.url,
        settings.embeddings.base_url,
        *(d.base_url for d in settings.deployments.values()),
    ):
        yield urlsplit(url).password or ""
    if settings.embeddings.api_key is not None:
        yield settings.embeddings.api_key.get_secret_value()
    for deployment in settings.deployments.values():
        for variable in deployment.key_variables:
            yield os.environ.get(variable, "")


def _of_options(options: Mapping[str, str]) -> Iterator[str]:
    for name, value in options.items():
        if any(word in name for word in _SECRET_NAMES):
            yield value
            # Basic auth is written as user, colon, password.
            yield value.partition(":")[2]


def _of_section(section: Section | None) -> Iterator[str]:
    if section is None:
        return
    for name in ("password", "key_password", "client_secret"):
        if any(getattr(section, name + source, None) is not None for source in SOURCES):
            # One that can't be read is nothing that could be shown.
            with suppress(ConfigurationError):
                yield secret(section, name, at="")


def _forms(value: str) -> Iterator[str]:
    return (form for form in (value, quote(value, safe=""), unquote(value)) if form)
