"""UpdateStreams: what is not said has the contract's value, what is said arrives."""

from __future__ import annotations

from typing import Any

import pytest

from controller.api.update_stream import KafkaSpec, Limits, Retention, RetrySpec, StepSpec, Suspend, UpdateStream
from tests.support.builders import make_stream

METADATA = {"namespace": "shop", "name": "user-updates", "uid": "0f8fad5b", "generation": 3}
URLS = {step: {"url": f"http://127.0.0.1:8080/{step}"} for step in ("profile", "permissions", "resources")}
KAFKA = {"bootstrapServers": "127.0.0.1:9092", "topic": "events"}


def read(**spec: Any) -> UpdateStream:
    return UpdateStream.from_body({"metadata": METADATA, "spec": {"kafka": KAFKA, "steps": URLS} | spec})


def test_what_a_stream_need_not_say() -> None:
    step = StepSpec(
        url="http://127.0.0.1:8080/profile",
        timeout_seconds=30,
        busy_delay_seconds=5,
        concurrency=None,
        retry=RetrySpec(initial_seconds=1, max_seconds=60, factor=2, max_attempts=0),
        secret_name=None,
    )
    stream = read()
    assert (stream.namespace, stream.name, stream.uid, stream.generation) == ("shop", "user-updates", "0f8fad5b", 3)
    assert stream.kafka == KafkaSpec("127.0.0.1:9092", "events", "shop.user-updates", {}, None)
    assert stream.steps.keys() == URLS.keys()
    assert stream.steps["profile"] == step
    assert stream.checkpoints == "EveryStep"
    assert (stream.on_rejected, stream.on_exhausted) == ("Continue", "Hold")
    assert stream.limits == Limits(max_objects=1000, max_per_user=5)
    assert stream.retention == Retention(succeeded_seconds=3600, failed_seconds=7 * 86400, max_finished=5000)
    assert stream.suspend == Suspend(ingest=False, processing=False, users=frozenset())


@pytest.mark.parametrize(
    "spec",
    [
        {"checkpoints": "Grouped"},
        {"onRejected": "Ask"},
        {"onExhausted": "Ask"},
        {"steps": URLS | {"address": {"url": "http://127.0.0.1:8080/address"}}},
        {"steps": {"profile": URLS["profile"]}},
    ],
)
def test_what_a_newer_version_may_say_is_not_guessed_at(spec: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"none of|are not"):
        read(**spec)


def test_what_a_stream_says_arrives() -> None:
    retry = {"initialSeconds": 0.5, "maxSeconds": 30, "factor": 1.5, "maxAttempts": 7}
    profile = {
        "url": "https://downstream/p",
        "timeoutSeconds": 2.5,
        "busyDelaySeconds": 0.25,
        "concurrency": 4,
        "retry": retry,
        "secretRef": {"name": "profile-token"},
    }
    stream = read(
        kafka={
            **KAFKA,
            "groupId": "another",
            "config": {"auto.offset.reset": "earliest"},
            "secretRef": {"name": "kafka-credentials"},
        },
        steps={**URLS, "profile": profile},
        checkpoints="Coalesced",
        onRejected="Hold",
        onExhausted="Continue",
        limits={"maxObjects": 10, "maxPerUser": 2},
        retention={"succeededSeconds": 1.5, "failedSeconds": 2, "maxFinished": 3},
        suspend={"ingest": True, "processing": True, "users": ["ana", "ben", "ana"]},
    )
    assert stream.kafka == KafkaSpec(
        "127.0.0.1:9092", "events", "another", {"auto.offset.reset": "earliest"}, "kafka-credentials"
    )
    assert stream.steps["profile"] == StepSpec(
        "https://downstream/p", 2.5, 0.25, 4, RetrySpec(0.5, 30, 1.5, 7), "profile-token"
    )
    assert stream.steps["resources"] == StepSpec("http://127.0.0.1:8080/resources")
    assert stream.checkpoints == "Coalesced"
    assert (stream.on_rejected, stream.on_exhausted) == ("Hold", "Continue")
    assert stream.limits == Limits(10, 2)
    assert stream.retention == Retention(1.5, 2, 3)
    assert stream.suspend == Suspend(ingest=True, processing=True, users=frozenset({"ana", "ben"}))


@pytest.mark.parametrize("section", ["limits", "retention", "suspend"])
@pytest.mark.parametrize("value", [None, {}])
def test_an_empty_section_is_as_good_as_none(section: str, value: Any) -> None:
    assert read(**{section: value}) == read()


@pytest.mark.parametrize(
    ("section", "want"),
    [
        ({"limits": {"maxPerUser": 1}}, {"limits": Limits(1000, 1)}),
        ({"retention": {"succeededSeconds": 0}}, {"retention": Retention(0, 604800, 5000)}),
        ({"suspend": {"users": ["ana"]}}, {"suspend": Suspend(users=frozenset({"ana"}))}),
        ({"suspend": {"users": None}}, {"suspend": Suspend()}),
    ],
)
def test_a_section_said_in_part_keeps_the_other_values(section: dict[str, Any], want: dict[str, Any]) -> None:
    stream = read(**section)
    assert {name: getattr(stream, name) for name in want} == want


@pytest.mark.parametrize("retry", [None, {}, {"maxAttempts": 0}])
def test_a_zero_is_a_value_and_an_empty_retry_is_none(retry: Any) -> None:
    stream = read(steps={**URLS, "profile": {"url": "http://x/", "retry": retry}})
    assert stream.steps["profile"].retry == RetrySpec()


@pytest.mark.parametrize("missing", ["kafka", "steps"])
def test_a_stream_without_what_the_crd_asks_for_is_refused(missing: str) -> None:
    spec = {"kafka": KAFKA, "steps": URLS}
    del spec[missing]
    with pytest.raises(KeyError, match=missing):
        UpdateStream.from_body({"metadata": METADATA, "spec": spec})


def test_the_builders_stream_is_one_that_could_be_read() -> None:
    built, bare = make_stream(namespace="shop"), read()
    assert (built.steps, built.kafka, built.limits) == (bare.steps, bare.kafka, bare.limits)
    assert (built.retention, built.suspend, built.checkpoints) == (bare.retention, bare.suspend, bare.checkpoints)
    assert (built.on_rejected, built.on_exhausted) == (bare.on_rejected, bare.on_exhausted)
