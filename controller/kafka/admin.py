"""The admin clients of a process, and what Kafka's errors mean for a stream.

Streams with the same client configuration share one admin client.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import confluent_kafka as ck
from confluent_kafka import admin as ck_admin

from controller.kafka.config import REQUEST_SECONDS, KafkaError, create_client


class AdminClient:
    """One admin client of librdkafka. It has some four threads, until `close`.

    After a request without an answer the client is created anew. librdkafka asks about topics at the broker that it
    takes for the controller, and looks for another one only when it needs metadata for something else. So while that
    broker is down, no request would be answered (docs/decisions/0048-what-kafka-answers.md).
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Raises KafkaError(ConfigRefused)."""
        self._errors = _ConnectionErrors()
        self._config = {**config, "error_cb": self._errors.note}
        # librdkafka ends a client's threads with the last reference to it. This is the only one beside those of
        # requests under way.
        self._client: ck_admin.AdminClient | None = create_client(ck_admin.AdminClient, self._config)

    async def ask(
        self, request: Callable[[ck_admin.AdminClient], Mapping[Any, Future[Any]]], topic: str, group: str = ""
    ) -> dict[Any, Any]:
        """Send a request, and return its answers by key, without those that are errors.

        `request` calls a method of the client and returns its futures. `group` is given where the request goes to the
        coordinator of that group. Raises KafkaError, about that topic or group, where all answers are errors.
        """
        found = await self._answers(request)
        refused = [each.args[0] for each in found.values() if isinstance(each, ck.KafkaException)]
        if refused and len(refused) == len(found):
            cause = refused[0]
            if cause.code() == ck.KafkaError._TIMED_OUT:
                cause = self._errors.last or cause
            raise explain(cause, topic, group)
        self._errors.last = None
        return {key: each for key, each in found.items() if not isinstance(each, ck.KafkaException)}

    def close(self) -> None:
        """End the client's threads when the requests under way have ended."""
        self._client = None

    async def _answers(self, request: Callable[[ck_admin.AdminClient], Mapping[Any, Future[Any]]]) -> dict[Any, Any]:
        """The answers by key; a KafkaException where there is an error in place of one."""
        if (client := self._client) is None:
            raise KafkaError("BrokerUnreachable", "the admin client is closed")
        waiting = {key: asyncio.wrap_future(future) for key, future in request(client).items()}
        try:
            if waiting:
                await asyncio.wait(waiting.values(), timeout=2 * REQUEST_SECONDS)
            client.poll(0)
            found = {key: _result(future) for key, future in waiting.items()}
        finally:
            for future in waiting.values():
                future.cancel()
        if self._client is client and any(map(_timed_out, found.values())):
            self._client = create_client(ck_admin.AdminClient, self._config)
        return found


class AdminClients:
    """Admin clients, each shared by all streams with the same client configuration."""

    def __init__(self) -> None:
        #: By configuration: the client, and how many streams use it.
        self._shared: dict[tuple[tuple[str, Any], ...], tuple[AdminClient, int]] = {}

    def acquire(self, config: Mapping[str, Any]) -> AdminClient:
        """The client for that configuration; `release` returns it. Raises KafkaError(ConfigRefused)."""
        own = {key: value for key, value in config.items() if not key.startswith(("fetch.", "isolation."))}
        key = tuple(sorted(own.items()))
        admin, users = self._shared.get(key) or (AdminClient(own), 0)
        self._shared[key] = admin, users + 1
        return admin

    def release(self, old: AdminClient) -> None:
        """Return a client. It is closed when no stream uses it any more."""
        key = next(key for key, (admin, _) in self._shared.items() if admin is old)
        admin, users = self._shared[key]
        if users > 1:
            self._shared[key] = admin, users - 1
        else:
            del self._shared[key]
            admin.close()


def _result(future: asyncio.Future[Any]) -> Any:
    if not future.done():
        return ck.KafkaException(ck.KafkaError(ck.KafkaError._TIMED_OUT, "no broker answers"))
    return future.exception() or future.result()


def _timed_out(answer: Any) -> bool:
    return isinstance(answer, ck.KafkaException) and answer.args[0].code() == ck.KafkaError._TIMED_OUT


class _ConnectionErrors:
    """Why there is no connection. A request that waits for one ends with a time-out, which does not say why."""

    def __init__(self) -> None:
        self.last: ck.KafkaError | None = None

    def note(self, error: ck.KafkaError) -> None:
        """Keep the most telling one: refused credentials, else a connection that broke off, else that none is left."""
        if error.code() in REASONS or (self.last is None and error.code() != ck.KafkaError._ALL_BROKERS_DOWN):
            self.last = error


#: The end of librdkafka's message is about a single attempt. It is left out, or the condition would change with each.
_ATTEMPT = re.compile(r" \(after \d+ms in state .*", re.DOTALL)
#: librdkafka's message about an answer in another protocol. It names a property that a stream may not set.
_NOT_KAFKA = re.compile(r"Invalid response size .*increase receive\.message\.max\.bytes")
#: The reason of the condition for an error code.
REASONS = {
    ck.KafkaError.UNKNOWN_TOPIC_OR_PART: "TopicMissing",
    ck.KafkaError._UNKNOWN_TOPIC: "TopicMissing",
    ck.KafkaError.TOPIC_AUTHORIZATION_FAILED: "NotAuthorized",
    ck.KafkaError.GROUP_AUTHORIZATION_FAILED: "NotAuthorized",
    ck.KafkaError.CLUSTER_AUTHORIZATION_FAILED: "NotAuthorized",
    ck.KafkaError._AUTHENTICATION: "NotAuthenticated",
    ck.KafkaError._SSL: "NotAuthenticated",
    ck.KafkaError.SASL_AUTHENTICATION_FAILED: "NotAuthenticated",
    ck.KafkaError.UNSUPPORTED_SASL_MECHANISM: "NotAuthenticated",
    ck.KafkaError.INCONSISTENT_GROUP_PROTOCOL: "GroupRefused",
    ck.KafkaError.INVALID_SESSION_TIMEOUT: "GroupRefused",
    ck.KafkaError.GROUP_MAX_SIZE_REACHED: "GroupRefused",
    ck.KafkaError.INVALID_GROUP_ID: "GroupRefused",
}


#: The reason where a partition has no leader for now.
LEADERLESS = "LeaderNotAvailable"
#: The error codes of librdkafka and the brokers for such a partition.
_LEADERLESS = (
    ck.KafkaError._NOENT,
    ck.KafkaError.LEADER_NOT_AVAILABLE,
    ck.KafkaError.NOT_LEADER_FOR_PARTITION,
)


#: The error codes while no coordinator serves a group.
_NO_COORDINATOR = (
    ck.KafkaError.COORDINATOR_NOT_AVAILABLE,
    ck.KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    ck.KafkaError.NOT_COORDINATOR,
    ck.KafkaError._WAIT_COORD,
    ck.KafkaError._TIMED_OUT,
)


def error_text(error: ck.KafkaError) -> str:
    """The error's message, without what differs from one attempt to the next."""
    return _ATTEMPT.sub("", error.str())


def explain(error: ck.KafkaError, topic: str, group: str = "") -> KafkaError:
    """The error for the stream's condition: a reason, and a message that says what helps.

    `group` is given where the request went to the coordinator of that group.
    """
    said = _NOT_KAFKA.sub("what answers there does not speak Kafka", error_text(error))
    if group and error.code() in _NO_COORDINATOR:
        cure = "see the topic __consumer_offsets and the brokers that have it"
        return KafkaError("CoordinatorUnavailable", f"no coordinator serves group {group} ({said}): {cure}")
    reason = REASONS.get(error.code()) or _other_reason(error.code())
    if reason == "TopicMissing":
        return KafkaError(reason, f"topic {topic} does not exist; it is consumed as soon as it is there")
    if reason == "GroupRefused":
        return KafkaError(reason, f"{error.str()}: see who else is in the group, and the brokers' settings for groups")
    if reason == "BrokerRefused":
        return KafkaError(reason, f"{said}: see the brokers' logs")
    return KafkaError(reason, f"{said}: see spec.kafka and its Secret")


def _other_reason(code: int) -> str:
    """Codes below UNKNOWN, -1, are librdkafka's own and concern a connection; the others are answers of a broker."""
    if code in _LEADERLESS:
        return LEADERLESS
    return "BrokerUnreachable" if code < ck.KafkaError.UNKNOWN else "BrokerRefused"
