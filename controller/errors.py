"""Errors where there is no outcome to record; expected results are values (`outcomes`, `events.Rejection`).

ControllerError
├── ConfigError                 what the process was started with cannot work; the message names the cure
└── ApiError                    the API server did not do what it was asked
    ├── NotFound                404 with that reason: there is no such object
    ├── AlreadyExists           409 with that reason, on a create
    ├── Conflict                any other 409: the object has changed since it was read
    ├── Invalid                 400, 413, 422, too large for etcd: not taken as it is, by a schema, a policy, a webhook
    ├── Forbidden               403: no right, a quota, a policy, or a namespace that goes
    ├── Expired                 410: a watch or a list must start anew
    └── Unavailable             429, 5xx, no connection, no answer: it may have been done, and may be asked again
"""

from __future__ import annotations


class ControllerError(Exception):
    """Base of all errors of this package."""


class ConfigError(ControllerError):
    """What the process was started with cannot work."""


class ApiError(ControllerError):
    """The API server did not do what it was asked."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        #: Seconds that the server asked to wait; None where it did not say.
        self.retry_after = retry_after


class NotFound(ApiError):
    """404."""


class AlreadyExists(ApiError):
    """A create met an object of the same name."""


class Conflict(ApiError):
    """The object has changed since it was read."""


class Invalid(ApiError):
    """It is not taken as it is. What it is refused by (a schema, a policy, a webhook) may be gone the next time."""


class Forbidden(ApiError):
    """No right to do that, or a quota is used up, or a policy refuses it."""


class Expired(ApiError):
    """A watch or a list must start anew."""


class Unavailable(ApiError):
    """It may have been done, and may be asked again."""
