"""RFC 3339 timestamps as the API server takes them, to the microsecond."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def from_text(text: str) -> datetime:
    """An aware datetime in UTC. Raises ValueError where the text is no RFC 3339 time, or names no zone."""
    time = datetime.fromisoformat(text.upper())  # the API server lets `t` and `z` pass
    if time.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone")
    try:
        return time if time.tzinfo is UTC else time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text!r} is out of range") from error


def to_text(time: datetime) -> str:
    """`2026-11-23T12:00:07.123456Z`."""
    utc = time if time.tzinfo is UTC else time.astimezone(UTC)
    return f"{utc.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"  # a third of strftime's cost


def whole_milliseconds(time: datetime) -> datetime:
    """The first whole millisecond that is not earlier."""
    return time + timedelta(microseconds=-time.microsecond % 1000)


def to_short_text(time: datetime) -> str:
    """As `to_text`, without microseconds where they are 0: `2026-11-23T12:00:07.123Z`."""
    text = to_text(time)
    return text if time.microsecond % 1000 else f"{text[:-4]}Z"
