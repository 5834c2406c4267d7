"""Who runs a command: kept with what it changes."""

from __future__ import annotations

import getpass


def author() -> str:
    """The name of the user; empty where there is none for this user id, as in some containers."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
