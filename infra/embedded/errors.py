"""What can go wrong with the embedded stack."""

from __future__ import annotations


class StackError(Exception):
    """A part of the stack could not be prepared, started or stopped; the message names it and says what to do."""


class ArtifactError(StackError):
    """A file of the stack could not be downloaded, or is not what the lock says."""


class ComponentError(StackError):
    """A component did not come up. ``log_tail`` is what it last wrote."""

    def __init__(self, component: str, reason: str, *, log_path: str, log_tail: str) -> None:
        shown = f"\nlast lines of {log_path}:\n{log_tail}" if log_tail else f"\nits log {log_path} is empty"
        super().__init__(f"{component} did not come up: {reason}{shown}")
        self.component = component
        self.reason = reason
        self.log_path = log_path
        self.log_tail = log_tail


class PortTakenError(ComponentError):
    """Another process has a port that was free when it was chosen for the component."""
