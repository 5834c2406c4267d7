"""The index stage: documents to searchable passages."""

from processors.index.policy import IndexPolicy
from processors.index.stage import STAGE, VERSION, Index, IndexOutcome

__all__ = ["STAGE", "VERSION", "Index", "IndexOutcome", "IndexPolicy"]
