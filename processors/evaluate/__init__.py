"""Scores a sample of answers, and joins users' feedback to its answer."""

from __future__ import annotations

from processors.evaluate.policy import EvaluatePolicy
from processors.evaluate.processor import Evaluate, EvaluateObserver
from processors.evaluate.sampling import SamplingPolicy
from processors.evaluate.store import EvaluationStore, FakeEvaluationStore
from processors.evaluate.store_pg import PostgresEvaluations

__all__ = [
    "Evaluate",
    "EvaluateObserver",
    "EvaluatePolicy",
    "EvaluationStore",
    "FakeEvaluationStore",
    "PostgresEvaluations",
    "SamplingPolicy",
]
