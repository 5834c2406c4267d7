"""The stage that keeps the books: cost events in, rows of the ledger out, one for each attempt."""

from processors.account.processor import Account

__all__ = ["Account"]
