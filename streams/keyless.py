"""Which endpoints need no key: those that nobody outside can call."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from streams.route_settings import DeploymentSettings

# Names that are no one's on the internet: of a machine, a cluster, a house or a company.
_INSIDE = (
    ".local",
    ".localhost",
    ".localdomain",
    ".internal",
    ".intranet",
    ".private",
    ".corp",
    ".home",
    ".lan",
    ".home.arpa",
    ".svc",
    ".test",
)


def lacks_key(deployment: DeploymentSettings) -> bool:
    """Whether a key is missing: none is named, the address is public, and nobody said that it takes none.

    ``api_keys_env = []`` says so.
    """
    if deployment.key_variables or "api_keys_env" in deployment.model_fields_set:
        return False
    return _public(urlsplit(deployment.base_url).hostname or "")


def _public(host: str) -> bool:
    try:
        return ip_address(host).is_global
    except ValueError:
        name = host.rstrip(".").lower()
        # A name without a dot is one of this machine's network: a service of a compose file, a pod's neighbour.
        return "." in name and not name.endswith(_INSIDE)
