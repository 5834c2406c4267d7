"""Where a call goes: which deployment and key, when, and what is tried when it fails. One pool for each worker."""

from processors.routing.pool import Ask, Pool, Seat, Unavailable

__all__ = ["Ask", "Pool", "Seat", "Unavailable"]
