"""Credentials in the settings: TLS and SASL, and where a secret comes from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from schemas.errors import ConfigurationError

SOURCES = ("", "_env", "_file")


class Section(BaseModel):
    """A part of the settings: frozen, and an unknown name in it is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def one_secret(section: Section, name: str, *, needed: bool = False) -> None:
    """Check that a secret has one source: ``<name>``, ``<name>_env`` or ``<name>_file``. Raises ``ValueError``."""
    given = [name + source for source in SOURCES if getattr(section, name + source, None) is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)}: set one of them")
    if needed and not given:
        raise ValueError(f"set {name}_env (a variable's name) or {name}_file")


def secret(section: Section, name: str, *, at: str) -> str:
    """A secret's value; a file is read anew each time, without the newline at its end.

    ``at`` is the section's place in the settings. Raises ``ConfigurationError`` that names the setting and never the
    value.
    """
    value = getattr(section, name, None)
    if value is not None:
        return str(value.get_secret_value())
    variable, file = getattr(section, f"{name}_env", None), getattr(section, f"{name}_file", None)
    if variable is not None:
        found = os.environ.get(variable, "")
        if not found:
            raise ConfigurationError(f"{at}.{name}_env names {variable}, which is not set; set it to the {name}")
        return found
    if file is None:
        raise ConfigurationError(f"{at}.{name} is not set; set {at}.{name}_env or {at}.{name}_file")
    return read_secret(file, at=f"{at}.{name}_file")


def read_secret(path: Path, *, at: str) -> str:
    """What a secret's file holds. Raises ``ConfigurationError`` that names the setting ``at``."""
    try:
        found = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{at}: {path} can't be read ({type(error).__name__})") from None
    if not found:
        raise ConfigurationError(f"{at}: {path} is empty")
    return found


def with_password(values: Any) -> Any:
    """Postgres' values with the password of a variable or a file in the DSN. Raises ``ValueError``."""
    if not isinstance(values, dict) or "dsn" not in values:
        return values
    variable, file = values.get("password_env"), values.get("password_file")
    given = values["dsn"]
    dsn = given.get_secret_value() if isinstance(given, SecretStr) else str(given)
    try:
        conninfo_to_dict(dsn)
    except psycopg.Error:
        # Never quoted: the part that is wrong may be the password.
        raise ValueError(
            "dsn does not parse; percent-encode what is special in its password, or use password_env or password_file"
        ) from None
    if variable is None and file is None:
        return values
    if variable is not None and file is not None:
        raise ValueError("password_env and password_file: set one of them")
    try:
        password = (
            os.environ.get(variable, "") if variable else read_secret(Path(str(file)), at="postgres.password_file")
        )
    except ConfigurationError as error:
        raise ValueError(str(error)) from None
    if not password:
        raise ValueError(f"password_env names {variable}, which is not set")
    return {**values, "dsn": SecretStr(make_conninfo(dsn, password=password))}


class TlsSettings(Section):
    """TLS: whom to trust, and the certificate to show where the server asks for one. Files are PEM."""

    enabled: bool = True
    # The system's certificates where it is left out.
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    key_password: SecretStr | None = None
    key_password_env: str | None = None
    key_password_file: Path | None = None
    # Off: any name is taken, as long as the certificate is signed by whom is trusted.
    check_hostname: bool = True

    @model_validator(mode="after")
    def _cross_check(self) -> TlsSettings:
        one_secret(self, "key_password")
        if self.key_file is not None and self.certificate_file is None:
            raise ValueError("key_file needs certificate_file")
        return self

    @property
    def has_key_password(self) -> bool:
        """Whether the key is encrypted."""
        return any(getattr(self, f"key_password{source}") is not None for source in SOURCES)


class SaslSettings(Section):
    """Who a client is to the broker.

    PLAIN and SCRAM take a user and a password. OAUTHBEARER takes a token from ``token_url`` (OpenID Connect, client
    credentials), or from ``token_file``, which is read again before the token in it ends.
    """

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "SCRAM-SHA-512"
    username: str | None = None
    password: SecretStr | None = None
    password_env: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None
    token_url: str | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None
    client_secret_env: str | None = None
    client_secret_file: Path | None = None
    scope: str | None = None
    # Whom to trust for ``token_url``; the system's certificates where it is left out.
    token_ca_file: Path | None = None
    token_timeout_s: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _cross_check(self) -> SaslSettings:
        if self.mechanism != "OAUTHBEARER":
            if not self.username:
                raise ValueError(f"username is needed for {self.mechanism}")
            one_secret(self, "password", needed=True)
        elif (self.token_file is None) == (self.token_url is None):
            raise ValueError("OAUTHBEARER needs token_url or token_file")
        elif self.token_url is not None:
            if not self.client_id:
                raise ValueError("token_url needs client_id")
            one_secret(self, "client_secret", needed=True)
        return self


class PrincipalSettings(Section):
    """Credentials in place of those that the whole of ``kafka`` has; what is left out stays as it is there."""

    tls: TlsSettings | None = None
    sasl: SaslSettings | None = None
