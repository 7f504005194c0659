"""Errors, for what has no result. Expected results are values: `outcomes.Outcome`, `records.Rejection`.

ControllerError
├── ConfigError                 the process cannot run with these settings; the message says what to change
└── ApiError                    the API server did not do what a request asked
    ├── NotFound                404 with that reason: there is no such object
    ├── AlreadyExists           409 with that reason, for a create
    ├── Conflict                any other 409: the object has changed since it was read
    ├── Invalid                 400, 413, 422, too large for etcd: a schema, a policy or a webhook refuses the object
    ├── Forbidden               403: a missing right, a used-up quota, a policy, a terminating namespace
    ├── Expired                 410: the watch or the list has to start anew
    └── Unavailable             429, 5xx, no connection, no answer: it may have been done; the request may be repeated
"""

from __future__ import annotations


class ControllerError(Exception):
    """Base of all errors of this package."""


class ConfigError(ControllerError):
    """The process cannot run with these settings."""


class ApiError(ControllerError):
    """The API server did not do what a request asked.

    `status` is the HTTP status, 0 without an answer; `reason` is that of the API server's Status object.
    """

    def __init__(self, message: str, *, status: int = 0, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        #: Seconds after which the server wants the request again; None where it did not say.
        self.retry_after = retry_after


class NotFound(ApiError):
    """There is no such object."""


class AlreadyExists(ApiError):
    """An object of that name exists already."""


class Conflict(ApiError):
    """The object has changed since it was read."""


class Invalid(ApiError):
    """The object is refused as it is. The schema, policy or webhook that refuses it may be gone the next time."""


class Forbidden(ApiError):
    """A right is missing, a quota is used up, or a policy refuses the request."""


class Expired(ApiError):
    """The watch or the list has to start anew."""


class Unavailable(ApiError):
    """The request may have been done or not, and may be repeated."""
