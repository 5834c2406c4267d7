"""Mirrors: a share of a lane's traffic, replayed as it comes with another prompt or model, on a budget for each day.

A mirror is a run of ``streams.replay`` without an end. ``desk`` begins it and tells of it, ``conduct`` leads it,
``line`` runs its stages over what has come since, ``days`` keeps what it may spend.
"""
