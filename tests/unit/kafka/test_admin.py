"""What an error of Kafka becomes in the condition of a stream: a reason, and a message that says what helps."""

from __future__ import annotations

import confluent_kafka as ck
import pytest

from controller.kafka.admin import explain


@pytest.mark.parametrize(
    ("code", "group", "reason", "word"),
    [
        (ck.KafkaError.COORDINATOR_NOT_AVAILABLE, "g", "CoordinatorUnavailable", "group g"),
        (ck.KafkaError.COORDINATOR_LOAD_IN_PROGRESS, "g", "CoordinatorUnavailable", "__consumer_offsets"),
        (ck.KafkaError._TIMED_OUT, "g", "CoordinatorUnavailable", "Timed out"),
        (ck.KafkaError._TIMED_OUT, "", "BrokerUnreachable", "Timed out"),
        (ck.KafkaError._TRANSPORT, "g", "BrokerUnreachable", "spec.kafka"),
        (ck.KafkaError.GROUP_AUTHORIZATION_FAILED, "g", "NotAuthorized", "Group authorization failed"),
        (ck.KafkaError.INVALID_SESSION_TIMEOUT, "g", "GroupRefused", "Invalid session timeout"),
        (ck.KafkaError.INCONSISTENT_GROUP_PROTOCOL, "g", "GroupRefused", "Inconsistent group protocol"),
        (ck.KafkaError.GROUP_MAX_SIZE_REACHED, "g", "GroupRefused", "size"),
        (ck.KafkaError.INVALID_GROUP_ID, "g", "GroupRefused", "Invalid group.id"),
        (ck.KafkaError.UNKNOWN, "g", "BrokerRefused", "see the brokers' logs"),
    ],
)
def test_every_error_has_a_reason_and_its_words(code: int, group: str, reason: str, word: str) -> None:
    error = explain(ck.KafkaError(code), "events", group)
    assert error.reason == reason
    assert word.lower() in str(error).lower()


@pytest.mark.parametrize(
    "attempt",
    ["", " (after 302ms in state AUTH_REQ)", " (after 2ms in state AUTH_REQ, 7 identical error(s) suppressed)"],
)
def test_a_condition_does_not_change_with_each_attempt_to_connect(attempt: str) -> None:
    error = explain(ck.KafkaError(ck.KafkaError._AUTHENTICATION, f"b:9092: wrong password{attempt}"), "events")
    assert (error.reason, str(error)) == ("NotAuthenticated", "b:9092: wrong password: see spec.kafka and its Secret")


def test_an_address_of_something_else_is_told_of_as_that() -> None:
    """By librdkafka's words one would raise a limit; the size is HTTP, as a number."""
    words = "Receive failed: Invalid response size 1213486160 (0..100000000): increase receive.message.max.bytes"
    error = explain(ck.KafkaError(ck.KafkaError._TRANSPORT, f"b:80/bootstrap: {words}"), "events")
    assert error.reason == "BrokerUnreachable"
    assert str(error).startswith(
        "b:80/bootstrap: Receive failed: what answers there does not speak Kafka: see spec.kafka"
    )
