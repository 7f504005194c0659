"""The three steps, in order: what each asks of its downstream and how the answer is read.

Pure: between `reconcile`, which says which step runs, and `downstream`, which carries request and answer.
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

#: A downstream's Retry-After is kept within these seconds: no hot loop, and nobody is parked for days.
MIN_RETRY_AFTER = 1.0
MAX_RETRY_AFTER = 300.0
#: Characters of an id that a downstream gives.
MAX_ID_LENGTH = 1024

_BUSY = frozenset({429, 503})
_REJECTED = frozenset({400, 409, 410, 413, 414, 415, 422, 451})
_PASSING = frozenset({408, 425})
#: Characters of a refusal's body that its message repeats.
MAX_SAID = 200
_BOM = b"\xef\xbb\xbf"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Step:
    """One call of the sequence; its name is also the field of the spec that it applies."""

    name: str
    #: Ids that earlier steps gave and this one passes on.
    needs: tuple[str, ...] = ()
    #: The id that a success must answer with; None: any 2xx will do.
    owes: str | None = None

    def request_body(self, spec: UpdateSpec, results: Mapping[str, str]) -> dict[str, str]:
        """The JSON body. `results` are those of the earlier steps; KeyError where one of them is missing."""
        subject = {key: results[key] for key in self.needs} or {"user": spec.user}
        return {**subject, self.name: getattr(spec, self.name)}

    def read_answer(self, status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Outcome:
        """What an answer means. Raises nothing, whatever the downstream sent.

        `headers` finds names in any case or has them in lower case; `now` is aware.
        """
        asked = headers.get("retry-after")
        if status in _BUSY or (status == 403 and asked is not None):  # some tell rate limits by a 403
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
        if self.owes is None:
            return Done({})
        given = fields.get(self.owes)
        if isinstance(given, str) and 1 <= len(given) <= MAX_ID_LENGTH:
            return Done({self.owes: given})
        return Retry(f"{status} from {self.name}, but {self._fault(answer)}")

    def _fault(self, answer: Any) -> str:
        if answer is None:
            return "the answer is not JSON"
        if not isinstance(answer, dict):
            return "the answer is no JSON object"
        if self.owes not in answer:
            return f"without {self.owes}"
        return f"{self.owes} is no text of 1 to {MAX_ID_LENGTH:,} characters"


PROFILE = Step("profile", owes="userId")
PERMISSIONS = Step("permissions", needs=("userId",), owes="roleId")
RESOURCES = Step("resources", needs=("userId", "roleId"))
#: In the order in which they run.
STEPS = (PROFILE, PERMISSIONS, RESOURCES)
STEPS_BY_NAME = {step.name: step for step in STEPS}


def retry_after(text: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, brought within 1 and 300; None where it says nothing sensible.

    Seconds (also with a fraction, as some servers send them) or an HTTP date; a date that has passed means: now.
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
    """What a downstream says of its refusal, in one line and cut short; empty where it says nothing."""
    text = _CONTROL.sub(" ", body.removeprefix(_BOM)[: 4 * MAX_SAID].decode(errors="replace")).strip()
    return f": {text[:MAX_SAID]}" if text else ""


def _json(body: bytes) -> Any:
    """None where it is not JSON. RFC 8259 lets a reader ignore a byte order mark."""
    try:
        return orjson.loads(body.removeprefix(_BOM))
    except orjson.JSONDecodeError:
        return None
