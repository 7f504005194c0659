"""Log lines: a constant message with fields, as text for people or as JSON for collectors.

A caller passes fields as `extra=fields(...)`. Payloads and secrets are never logged.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Hashable
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from controller.errors import Unavailable

Format = Literal["text", "json"]


#: Seconds for which a line that is logged sparingly is not repeated.
QUIET_SECONDS = 60.0
#: Lines that are remembered for that at most.
REMEMBERED = 1000
#: When each line was written last (monotonic), and how often it was left out since.
_written: dict[Hashable, tuple[float, int]] = {}


def configure(level: str, form: Format) -> None:
    """Send all logs to standard error. Libraries log from warnings on: below that they would log every object."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    handler.addFilter(_is_no_attempt_of_kopf)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for library in ("kopf", "aiohttp", "asyncio", "kubernetes"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # At each start it warns that it does not handle signals; we do.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """Fields of a log line: `logger.info("Stream started", extra=fields(stream="a/b"))`."""
    return {"fields": values}


def retrying(logger: logging.Logger, message: str, error: BaseException, /, **values: Any) -> bool:
    """Warn that a request to the API server failed and will be repeated: once a minute for each kind of answer.

    `values` are fields of the line; `stream` or `lease` among them says what it is about. Where the API server did not
    answer at all, there is no warning: `outages` logs that once for all requests. Returns whether there was a warning.
    """
    cause = str(error) or repr(error)
    if isinstance(error, TimeoutError) or (isinstance(error, Unavailable) and error.status == 0):
        logger.debug(message, extra=fields(**values, cause=cause))
        return False
    kind = type(error).__name__, getattr(error, "status", None), getattr(error, "reason", None)
    where = values.get("stream") or values.get("lease")
    return sparingly(logger, message, (where, kind), **values, cause=cause)


def sparingly(logger: logging.Logger, message: str, kind: Hashable, /, **values: Any) -> bool:
    """Warn once a minute for each `kind` of the message. Returns whether there was a warning.

    The field `repeated` has the number of warnings that were left out since the last one.
    """
    now, key = time.monotonic(), (logger.name, message, kind)
    at, repeated = _written.get(key, (float("-inf"), 0))
    if now - at < QUIET_SECONDS:
        _written[key] = at, repeated + 1
        return False
    if len(_written) >= REMEMBERED:
        _written.clear()
    _written[key] = now, 0
    logger.warning(message, extra=fields(**values, **({"repeated": repeated} if repeated else {})))
    return True


def _is_no_attempt_of_kopf(record: logging.LogRecord) -> bool:
    """kopf logs one or two lines, with a number that makes them differ, for each request that fails."""
    return not (record.name.startswith("kopf") and record.getMessage().startswith("Request attempt"))


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
