"""A person's request for one update, in the annotation `enrichment.dev/request`: a verb, and `:token` to ask again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controller.api import names, timestamps

#: Verbs by which an update is called again, and verbs that end it.
AGAIN = ("retry", "restart")
END = ("skip", "cancel")
VERBS = (*AGAIN, *END)
#: Characters of a request that are read: `status.handledRequest` holds no more.
MAX_REQUEST = 64


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """A request that could not be done, and why: `status.refusedRequest`."""

    request: str
    message: str
    time: datetime

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> RefusedRequest:
        return cls(body["request"], body["message"], timestamps.from_text(body["time"]))

    def for_status(self) -> dict[str, Any]:
        return {"request": self.request, "message": self.message, "time": timestamps.to_text(self.time)}


def read(annotations: Mapping[str, str]) -> str | None:
    """The request; None without the annotation. An empty annotation is a request too, with an unknown verb."""
    request = annotations.get(names.REQUEST_ANNOTATION)
    return None if request is None else request[:MAX_REQUEST]


def verb(request: str) -> str:
    """The part before the token. It need not be one of VERBS."""
    return request.partition(":")[0]
