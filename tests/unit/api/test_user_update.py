"""UserUpdates are read as the API server gives them; a status is a merge patch that leaves nothing behind."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from datetime import datetime, timedelta
from typing import Any

import jsonschema  # type: ignore[import-untyped, unused-ignore]
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.requests import RefusedRequest
from controller.api.user_update import Source, UpdateSpec, UserUpdate
from controller.api.user_update_status import FINISHED, Phase, Reason, Status, StepRecord, condition_status
from tests.support.builders import (
    BUSY_UNTIL_5,
    FINAL,
    NOW,
    PERMISSIONS_DONE,
    PROFILE_DONE,
    RESOURCES_DONE,
    RUNNING,
    at,
    held_status,
    make_body,
    make_update,
)
from tests.support.records import TOPIC_ID
from tests.support.schemas import closed, schema

SCHEMA = closed(schema("userupdates"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
SPEC = make_body(make_update())["spec"]


def merge_patched(target: Any, patch: Any) -> Any:
    """RFC 7386 in its own words: null removes, objects merge, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patched(result.get(key), value)
    return result


def stored(status: Status, before: Any = None) -> Any:
    """What the API server holds after the patch, as it gives it back."""
    return merge_patched(before or {}, orjson.loads(orjson.dumps(status.for_status())))


FROM_A_RECORD: dict[str, Any] = {
    "apiVersion": "enrichment.dev/v1alpha1",
    "kind": "UserUpdate",
    "metadata": {
        "namespace": "shop",
        "name": "user-updates-4f1c9a-p00000-0000000000000000042",
        "uid": "0f8fad5b",
        "resourceVersion": "9007199254740993",
        "generation": 1,
        "creationTimestamp": "2026-11-23T12:00:01Z",
        "labels": {
            "enrichment.dev/stream": "user-updates",
            "enrichment.dev/user": "userid1",
            "enrichment.dev/bucket": "1",
        },
        "annotations": {"enrichment.dev/request": "retry:1", "other": "x"},
    },
    "spec": {
        "stream": "user-updates",
        "user": "userid1",
        "sequence": 42,
        "profile": "dev",
        "permissions": "all",
        "resources": "some",
        "suspend": True,
        "source": {
            "topic": "events",
            "topicId": TOPIC_ID,
            "partition": 3,
            "offset": 42,
            "timestamp": "2026-11-23T12:00:00.125Z",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "after": "user-updates-4f1c9a-p00000-0000000000000000017",
        },
    },
    "status": {
        "phase": "Waiting",
        "step": "permissions",
        "attempts": 2,
        "busyCount": 3,
        "nextAttemptTime": "2026-11-23T12:00:07.500000Z",
        "startTime": "2026-11-23T12:00:00Z",
        "run": 1,
        "handledRequest": "restart",
        "refusedRequest": {"request": "retyr", "message": "is no verb", "time": "2026-11-23T12:00:00Z"},
        "steps": [
            {
                "name": "profile",
                "result": {"userId": "u-1"},
                "attempts": 1,
                "startTime": "2026-11-23T12:00:00Z",
                "completionTime": "2026-11-23T12:00:01Z",
            }
        ],
        "conditions": [
            {
                "type": "Succeeded",
                "status": "Unknown",
                "reason": "DownstreamBusy",
                "message": "503 from permissions, again at 12:00:07",
                "lastTransitionTime": "2026-11-23T12:00:00Z",
            }
        ],
    },
}


def test_an_update_of_a_record_is_read_whole() -> None:
    assert UserUpdate.from_body(FROM_A_RECORD) == UserUpdate(
        namespace="shop",
        name="user-updates-4f1c9a-p00000-0000000000000000042",
        uid="0f8fad5b",
        resource_version=9007199254740993,
        creation_time=at(1),
        spec=UpdateSpec(
            stream="user-updates",
            user="userid1",
            sequence=42,
            profile="dev",
            permissions="all",
            resources="some",
            suspend=True,
            source=Source(
                topic="events",
                topic_id=TOPIC_ID,
                partition=3,
                offset=42,
                timestamp=at(0.125),
                traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                after="user-updates-4f1c9a-p00000-0000000000000000017",
            ),
        ),
        status=Status(
            phase=Phase.WAITING,
            step="permissions",
            attempts=2,
            busy_count=3,
            next_attempt_time=at(7.5),
            start_time=NOW,
            run=1,
            steps=(PROFILE_DONE,),
            reason=Reason.DOWNSTREAM_BUSY,
            message="503 from permissions, again at 12:00:07",
            transition_time=NOW,
            handled_request="restart",
            refused_request=RefusedRequest("retyr", "is no verb", NOW),
        ),
        request="retry:1",
    )


def test_a_hand_made_update_needs_no_source_no_suspend_and_no_status() -> None:
    body = make_body(make_update(sequence=7, manual=True))
    del body["spec"]["suspend"]
    update = UserUpdate.from_body(body)
    assert update.spec.source is None
    assert update.spec.suspend is False
    assert update.status == Status()
    assert update.request is None


@pytest.mark.parametrize("status", [None, {}])
@pytest.mark.parametrize("annotations", [None, {}, {"other": "x"}])
def test_what_is_empty_is_as_good_as_absent(status: Any, annotations: Any) -> None:
    body = make_body(make_update())
    body["status"], body["metadata"]["annotations"] = status, annotations
    update = UserUpdate.from_body(body)
    assert (update.status, update.request) == (Status(), None)


@pytest.mark.parametrize("field", ["stream", "user", "sequence", "profile", "permissions", "resources"])
def test_an_incomplete_update_is_refused(field: str) -> None:
    body = make_body(make_update())
    del body["spec"][field]
    with pytest.raises(KeyError, match=field):
        UserUpdate.from_body(body)


@pytest.mark.parametrize(
    "update",
    [
        make_update(),
        make_update(manual=True, suspend=True),
        make_update(after="the-one-before", request="skip:1", status=BUSY_UNTIL_5),
        make_update(status=replace(FINAL, steps=(PROFILE_DONE, PERMISSIONS_DONE, RESOURCES_DONE))),
        make_update(status=held_status(Reason.EXHAUSTED)),
    ],
    ids=["a record's", "by hand", "waiting", "finished", "held"],
)
def test_what_the_builders_make_is_what_the_api_server_would_give(update: UserUpdate) -> None:
    body = make_body(update)
    VALIDATOR.validate({"spec": body["spec"], "status": body.get("status", {})})
    assert UserUpdate.from_body(body) == update


def test_updates_cannot_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        make_update().status.attempts = 1  # type: ignore[misc]


# --- what order and idempotency rest on


def test_a_record_has_its_own_time_and_source_and_a_hand_made_update_that_of_its_creation() -> None:
    record = UserUpdate.from_body(FROM_A_RECORD)
    assert (record.timestamp, record.source_name) == (at(0.125), f"{TOPIC_ID}/3")
    manual = make_update(manual=True, time=at(9))
    assert (manual.timestamp, manual.source_name) == (at(9), "manual")


def test_a_record_that_is_made_again_keeps_its_keys_and_a_hand_made_update_gets_new_ones() -> None:
    record, again = make_update(name="n", uid="1"), make_update(name="n", uid="2")
    assert record.idempotency_key("profile") == again.idempotency_key("profile") == "default/n/profile/0"
    manual, anew = make_update(name="n", uid="1", manual=True), make_update(name="n", uid="2", manual=True)
    assert manual.idempotency_key("profile") == "default/n/1/profile/0"
    assert anew.idempotency_key("profile") == "default/n/2/profile/0"


def test_only_the_run_and_the_step_change_an_updates_key() -> None:
    update = make_update(name="n")
    statuses = [Status(), BUSY_UNTIL_5, RUNNING, replace(RUNNING, attempts=7, handled_request="retry")]
    assert {replace(update, status=status).idempotency_key("profile") for status in statuses} == {"default/n/profile/0"}
    assert update.idempotency_key("resources") == "default/n/resources/0"
    assert replace(update, status=replace(RUNNING, run=1)).idempotency_key("profile") == "default/n/profile/1"


@pytest.mark.parametrize("request_", ["retry:" + "x" * 58, "retry:" + "x" * 500, "ä" * 65])
def test_a_request_is_no_longer_than_the_status_can_hold_as_handled(request_: str) -> None:
    body = make_body(make_update(request=request_))
    limit = SCHEMA["properties"]["status"]["properties"]["handledRequest"]["maxLength"]
    assert UserUpdate.from_body(body).request == request_[:limit]


# --- the status


@pytest.mark.parametrize(
    ("phase", "want"),
    [
        (None, "Unknown"),
        (Phase.RUNNING, "Unknown"),
        (Phase.WAITING, "Unknown"),
        (Phase.SUCCEEDED, "True"),
        (Phase.FAILED, "False"),
        (Phase.SKIPPED, "False"),
        (Phase.CANCELLED, "False"),
    ],
)
def test_the_condition_is_unknown_until_the_end(phase: Phase | None, want: str) -> None:
    assert condition_status(phase) == want
    status = Status(phase=phase, reason=Reason.RUNNING, transition_time=at(3))
    (condition,) = status.for_status()["conditions"]
    assert (condition["type"], condition["status"]) == ("Succeeded", want)
    assert status.finished == (want != "Unknown") == (phase in FINISHED)
    assert status.completion_time == (at(3) if status.finished else None)


def test_the_results_of_all_steps_are_at_hand_for_the_next() -> None:
    assert Status().results == {}
    done = Status(steps=(PROFILE_DONE, PERMISSIONS_DONE, RESOURCES_DONE))
    assert done.results == {"userId": "u-1", "roleId": "r-1"}


def test_what_is_unset_is_null_in_the_patch() -> None:
    assert Status().for_status() == {
        "phase": None,
        "step": None,
        "attempts": 0,
        "misconfiguredCount": None,
        "busyCount": 0,
        "nextAttemptTime": None,
        "startTime": None,
        "run": 0,
        "steps": [],
        "conditions": None,
        "handledRequest": None,
        "refusedRequest": None,
        "held": None,
    }


TIMES = st.integers(0, 10**9).map(lambda microseconds: NOW + timedelta(microseconds=microseconds))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
COUNTS = st.integers(0, 2**31 - 1)


@st.composite
def statuses(draw: st.DrawFn) -> Status:
    """Any status; one with a reason has a transition time."""
    reason: Reason | None = draw(st.none() | st.sampled_from(Reason))
    time: datetime | None = draw(TIMES) if reason else None
    phase: Phase | None = draw(st.none() | st.sampled_from(Phase))
    most = 3 if phase in FINISHED else 2
    records = [
        StepRecord(name, draw(st.dictionaries(st.sampled_from(["userId", "roleId"]), TEXTS)), *draw(CALLS))
        for name in ("profile", "permissions", "resources")[: draw(st.integers(0, most))]
    ]
    return Status(
        phase=phase,
        step=draw(st.none() | st.sampled_from(["profile", "permissions", "resources"])),
        attempts=draw(COUNTS),
        busy_count=draw(COUNTS),
        next_attempt_time=draw(st.none() | TIMES),
        start_time=draw(st.none() | TIMES),
        run=draw(COUNTS),
        steps=tuple(records),
        reason=reason,
        message=draw(TEXTS) if reason else "",
        transition_time=time,
        handled_request=draw(st.none() | TEXTS.filter(bool)),
        held=draw(st.none() | st.sampled_from([Reason.REJECTED, Reason.EXHAUSTED])),
    )


CALLS = st.tuples(COUNTS, TIMES, TIMES)


@given(statuses())
def test_a_status_is_read_back_as_it_was_written_and_keeps_to_the_schema(status: Status) -> None:
    body = stored(status)
    assert Status.from_body(body) == status
    VALIDATOR.validate({"spec": SPEC, "status": body})


@given(statuses(), statuses())
def test_a_patch_leaves_nothing_of_the_status_before_it(before: Status, status: Status) -> None:
    assert stored(status, stored(before)) == stored(status)


def test_the_condition_is_found_among_those_of_a_later_version() -> None:
    body = make_body(make_update(status=FINAL))
    succeeded = body["status"]["conditions"]
    body["status"]["conditions"] = [succeeded[0] | {"type": "Overtaken", "reason": "ByAnother"}, *succeeded]
    assert UserUpdate.from_body(body).status == FINAL
