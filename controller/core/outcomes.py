"""The outcomes of a call: a closed set of values that `downstream` returns and `decisions.record` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Done:
    """The step succeeded. `result` holds what later steps need, such as `{"userId": "u-1"}`; it may be empty."""

    result: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Busy:
    """The downstream is busy and wants the call later. That is no failure, and no attempt is counted."""

    message: str
    #: Seconds that the downstream asked for, from 1 to 300; None where it did not say.
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """A failure that may pass: a connection error, a time-out, a 5xx, a success without the id that it must return."""

    message: str


@dataclass(frozen=True, slots=True)
class Misconfigured:
    """An answer that blames the stream (401, 404, a redirect, …): retried with backoff, and reported on the stream."""

    message: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The downstream refuses this update for good."""

    message: str


@dataclass(frozen=True, slots=True)
class NotCalled:
    """Not an outcome: nothing could be sent, because of the stream's Secret, certificate or url."""

    message: str


Outcome: TypeAlias = Done | Busy | Retry | Misconfigured | Rejected
