"""What a person asks of one update: `enrichment.dev/request`, a verb and, to ask again, ':' and a token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controller.api import names, timestamps

#: Verbs that have an update called again, and those that end it.
AGAIN = ("retry", "restart")
END = ("skip", "cancel")
VERBS = (*AGAIN, *END)
#: Characters of a request that are read: the status can hold no more as handled.
MAX_REQUEST = 64


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """A request that could not be done, as it was given, and why, for people."""

    request: str
    message: str
    time: datetime

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> RefusedRequest:
        return cls(body["request"], body["message"], timestamps.from_text(body["time"]))

    def for_status(self) -> dict[str, Any]:
        return {"request": self.request, "message": self.message, "time": timestamps.to_text(self.time)}


def read(annotations: Mapping[str, str]) -> str | None:
    """The request; None where there is no annotation. An empty one is a request too, for nothing that there is."""
    request = annotations.get(names.REQUEST_ANNOTATION)
    return None if request is None else request[:MAX_REQUEST]


def verb(request: str) -> str:
    """What comes before the token; it may be none of VERBS."""
    return request.partition(":")[0]
