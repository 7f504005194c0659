"""The three steps, in order: the request of each to its downstream, and how its answer is read. Pure.

`decisions` says which step runs; `clients.downstream` sends the request and receives the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from controller.api.user_update import UpdateSpec
from controller.core.outcomes import Busy, Done, Misconfigured, Outcome, Rejected, Retry

#: Seconds that a downstream's Retry-After may ask for: less would be a hot loop, more would park a user for days.
MIN_RETRY_AFTER = 1.0
MAX_RETRY_AFTER = 300.0
#: Characters of an id that a downstream may return.
MAX_ID_LENGTH = 1024

_BUSY = frozenset({429, 503})
_REJECTED = frozenset({400, 409, 410, 413, 414, 415, 422, 451})
_PASSING = frozenset({408, 425})
#: Characters of an error's body that the message repeats.
MAX_SAID = 200
_BOM = b"\xef\xbb\xbf"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Step:
    """One call of the sequence. Its name is also the field of the spec that it applies."""

    name: str
    #: Ids that earlier steps returned and this one sends.
    needs: tuple[str, ...] = ()
    #: The id that a success must return; None: any 2xx is a success.
    returns: str | None = None

    def request_body(self, spec: UpdateSpec, results: Mapping[str, str]) -> dict[str, str]:
        """The JSON body. `results` are those of the earlier steps. Raises KeyError where a needed one is missing."""
        subject = {key: results[key] for key in self.needs} or {"user": spec.user}
        return {**subject, self.name: getattr(spec, self.name)}

    def read_answer(self, status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Outcome:
        """The outcome that an answer stands for. Raises nothing, whatever the downstream sent.

        `headers` finds names in any case, or has them in lower case. `now` is aware: a Retry-After may be a date.
        """
        asked = headers.get("retry-after")
        if status in _BUSY or (status == 403 and asked is not None):  # some report a rate limit by a 403
            return Busy(f"{status} from {self.name}", retry_after(asked, now))
        if 200 <= status < 300:
            return self._read_success(status, headers, body, now)
        if status in _REJECTED:
            return Rejected(f"{status} from {self.name}{_said(body)}")
        if 300 <= status < 400:
            return Misconfigured(f"{status} from {self.name}: redirects are not followed, check the step's url")
        if 400 <= status < 500 and status not in _PASSING:
            return Misconfigured(f"{status} from {self.name}: check the step's url and credentials{_said(body)}")
        return Retry(f"{status} from {self.name}{_said(body)}")

    def _read_success(self, status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Outcome:
        answer = _json(body)
        fields = answer if isinstance(answer, dict) else {}
        if fields.get("status") == "NOT_READY":
            return Busy(f"NOT_READY from {self.name}", retry_after(headers.get("retry-after"), now))
        if self.returns is None:
            return Done({})
        given = fields.get(self.returns)
        if isinstance(given, str) and 1 <= len(given) <= MAX_ID_LENGTH:
            return Done({self.returns: given})
        return Retry(f"{status} from {self.name}, but {self._fault(answer)}")

    def _fault(self, answer: Any) -> str:
        if answer is None:
            return "the answer is not JSON"
        if not isinstance(answer, dict):
            return "the answer is no JSON object"
        if self.returns not in answer:
            return f"without {self.returns}"
        return f"{self.returns} is no text of 1 to {MAX_ID_LENGTH:,} characters"


PROFILE = Step("profile", returns="userId")
PERMISSIONS = Step("permissions", needs=("userId",), returns="roleId")
RESOURCES = Step("resources", needs=("userId", "roleId"))
#: In the order in which they run.
STEPS = (PROFILE, PERMISSIONS, RESOURCES)
STEPS_BY_NAME = {step.name: step for step in STEPS}


def retry_after(text: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, at least 1 and at most 300; None where it cannot be read.

    The header may have seconds (also with a fraction, as some servers send them) or an HTTP date. A date in the past
    means 1 second.
    """
    if text is None:
        return None
    text = text.strip()
    if _SECONDS.match(text):
        seconds = float(text)
    else:
        date = _http_date(text)
        if date is None:
            return None
        seconds = (date - now).total_seconds()
    return min(max(seconds, MIN_RETRY_AFTER), MAX_RETRY_AFTER)


def _http_date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
        return date if date.tzinfo else date.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _said(body: bytes) -> str:
    """The beginning of an error's body, in one line, with a colon in front; empty where the body is empty."""
    text = _CONTROL.sub(" ", body.removeprefix(_BOM)[: 4 * MAX_SAID].decode(errors="replace")).strip()
    return f": {text[:MAX_SAID]}" if text else ""


def _json(body: bytes) -> Any:
    """The document; None where the body is not JSON. RFC 8259 allows a reader to ignore a byte order mark."""
    try:
        return orjson.loads(body.removeprefix(_BOM))
    except orjson.JSONDecodeError:
        return None
