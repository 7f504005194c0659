"""Log lines: a constant message and fields behind it, as text for people or as JSON for collectors.

Fields come by `extra={"fields": {...}}`; payloads and secrets are never among them.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

Format = Literal["text", "json"]


def configure(level: str, form: Format) -> None:
    """Send all logs to standard error. Libraries speak only of warnings: they would log each object otherwise."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for library in ("kopf", "aiohttp", "asyncio", "kubernetes"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # It warns at each start that signals are not its own: they are ours.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """`logger.info("Stream started", extra=fields(stream="a/b"))`."""
    return {"fields": values}


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        values = "".join(f" {key}={value}" for key, value in getattr(record, "fields", {}).items())
        trace = "\n" + self.formatException(record.exc_info) if record.exc_info else ""
        return f"{time} {record.levelname:<7} {record.getMessage()}{values}{trace}"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(entry, default=str).decode()
