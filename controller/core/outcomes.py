"""What a downstream's answer means: the closed set of values that `downstream` returns and `reconcile.record` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Done:
    """The step succeeded; `result` holds what later steps need (`{"userId": "u-1"}`), empty where it owes nothing."""

    result: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Busy:
    """The downstream asks for patience. No failure: the attempts are not counted up."""

    message: str
    #: Seconds the downstream asked for, within 1 and 300; None where it did not say.
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """A failure that may pass: connection error, time-out, 5xx, an answer without what it owes."""

    message: str


@dataclass(frozen=True, slots=True)
class Misconfigured:
    """An answer that blames the stream (401, 404, a redirect, …): retried with backoff, reported on the stream."""

    message: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The downstream's final no to this one update."""

    message: str


@dataclass(frozen=True, slots=True)
class NotCalled:
    """No outcome: nothing could be sent, for a reason that is the stream's (its Secret, a certificate, a url)."""

    message: str


Outcome: TypeAlias = Done | Busy | Retry | Misconfigured | Rejected
