"""Checks of everything a worker needs, each bounded in time, none of which changes anything."""
