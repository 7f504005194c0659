"""The admin clients of a process: one for all streams that reach Kafka in the same way."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient

from controller.kafka.config import REQUEST_SECONDS, KafkaError, made


class Admin:
    """One client of librdkafka: its threads, some four, last until `close`.

    Where a request gets no answer, the next one is asked by a client made anew. librdkafka asks about topics at the
    broker that it takes for the controller, and looks for another one only when it needs metadata for something else:
    with that broker dead nothing would be answered for as long as it is.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Raises KafkaError(ConfigRefused)."""
        self._trouble = _Trouble()
        self._config = {**config, "error_cb": self._trouble.note}
        # A client ends with the last reference to it: none but this one and those of requests under way may be kept.
        self._client: AdminClient | None = made(AdminClient, self._config)

    async def ask(
        self, request: Callable[[AdminClient], Mapping[Any, Future[Any]]], topic: str, group: str = ""
    ) -> dict[Any, Any]:
        """The answers by what was asked for, without what is refused or not answered.

        Raises KafkaError, with the reasons of that topic, where nothing is answered. `group`, where given, is that
        whose coordinator is asked.
        """
        found = await self._answers(request)
        refused = [each.args[0] for each in found.values() if isinstance(each, ck.KafkaException)]
        if refused and len(refused) == len(found):
            cause = refused[0]
            if cause.code() == ck.KafkaError._TIMED_OUT:
                cause = self._trouble.last or cause
            raise explained(cause, topic, group)
        self._trouble.last = None
        return {key: each for key, each in found.items() if not isinstance(each, ck.KafkaException)}

    def close(self) -> None:
        """End its threads when what is under way is over."""
        self._client = None

    async def _answers(self, request: Callable[[AdminClient], Mapping[Any, Future[Any]]]) -> dict[Any, Any]:
        """What was answered, or the KafkaException."""
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
            self._client = made(AdminClient, self._config)
        return found


class Admins:
    """Admin clients, each shared by all who reach Kafka by the same configuration."""

    def __init__(self) -> None:
        #: By configuration: the client, and how many use it.
        self._shared: dict[tuple[tuple[str, Any], ...], tuple[Admin, int]] = {}

    def acquire(self, config: Mapping[str, Any]) -> Admin:
        """The client for that configuration, until `release`. Raises KafkaError(ConfigRefused)."""
        own = {key: value for key, value in config.items() if not key.startswith(("fetch.", "isolation."))}
        key = tuple(sorted(own.items()))
        admin, users = self._shared.get(key) or (Admin(own), 0)
        self._shared[key] = admin, users + 1
        return admin

    def release(self, old: Admin) -> None:
        """It is closed when nobody uses it any more."""
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


class _Trouble:
    """Why there is no connection: a request that waits for one is told nothing but that its time is over."""

    def __init__(self) -> None:
        self.last: ck.KafkaError | None = None

    def note(self, error: ck.KafkaError) -> None:
        """Refused credentials tell more than a connection that broke off, and that more than that none is left."""
        if error.code() in REASONS or (self.last is None and error.code() != ck.KafkaError._ALL_BROKERS_DOWN):
            self.last = error


#: What librdkafka adds of a single attempt: a condition would change with each.
_ATTEMPT = re.compile(r" \(after \d+ms in state .*", re.DOTALL)
#: What librdkafka says of an answer in another protocol, with a property that nobody may set.
_NOT_KAFKA = re.compile(r"Invalid response size .*increase receive\.message\.max\.bytes")
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
#: What librdkafka or a broker says of such a partition.
_LEADERLESS = (
    ck.KafkaError._NOENT,
    ck.KafkaError.LEADER_NOT_AVAILABLE,
    ck.KafkaError.NOT_LEADER_FOR_PARTITION,
)


#: What a coordinator, or the lack of one, says while it can do nothing for its groups; librdkafka waits without a word.
_NO_COORDINATOR = (
    ck.KafkaError.COORDINATOR_NOT_AVAILABLE,
    ck.KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    ck.KafkaError.NOT_COORDINATOR,
    ck.KafkaError._WAIT_COORD,
    ck.KafkaError._TIMED_OUT,
)


def words(error: ck.KafkaError) -> str:
    """What is said, without what differs from one attempt to the next."""
    return _ATTEMPT.sub("", error.str())


def explained(error: ck.KafkaError, topic: str, group: str = "") -> KafkaError:
    """The reason and the cure, for the stream's condition. `group`: where its coordinator was asked."""
    said = _NOT_KAFKA.sub("what answers there does not speak Kafka", words(error))
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
    """A code below that of UNKNOWN, -1, is librdkafka's own, of a connection; any other is a broker's answer."""
    if code in _LEADERLESS:
        return LEADERLESS
    return "BrokerUnreachable" if code < ck.KafkaError.UNKNOWN else "BrokerRefused"
