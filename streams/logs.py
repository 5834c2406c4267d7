"""Structured logs: one JSON object a line on stderr.

Prompt and answer texts are among the fields only where ``worker.log_content`` is switched on.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from streams.settings import WorkerSettings

# Chatty at info, and of no use to an operator there.
QUIET = (
    "aiokafka",
    "faust",
    "mode",
    "streams.transport",
    "streams.app",
    "httpx",
    "httpx2",
    "httpcore",
    "openai",
    "asyncio",
)


def configure_logs(worker: WorkerSettings) -> None:
    """Set up structlog and the standard library's loggers once for the process."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    level = logging.getLevelNamesMapping()[worker.log_level.upper()]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
