"""Requests that cannot be done: an unknown verb, a finished update, one never called. Each is refused once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.api.requests import RefusedRequest
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import FINISHED, Phase, Reason, Status
from controller.core.decisions import Decision, Finish, Release, decide, refusal
from tests.support.builders import (
    BUSY_UNTIL_5,
    FINAL,
    NOW,
    RUNNING,
    at,
    held_status,
    make_body,
    make_queue,
    make_stream,
    make_update,
)

NOT_CALLED = Status(phase=Phase.WAITING, step="profile", reason=Reason.SUSPENDED, transition_time=NOW)


def decide_alone(update: UserUpdate) -> Decision:
    return decide(update, make_queue(update), make_stream(), at(1))


@pytest.mark.parametrize("verb", ["retry", "restart"])
@pytest.mark.parametrize(
    "update",
    [
        make_update(sequence=2),
        make_update(sequence=1),
        make_update(sequence=2, after="the-one-before"),
        make_update(sequence=2, suspend=True),
    ],
    ids=["behind the head", "the head", "with a predecessor", "suspended"],
)
def test_retry_and_restart_of_what_was_never_called_are_refused_and_make_nothing_of_it(
    verb: str, update: UserUpdate
) -> None:
    """With a phase it would be the head from then on, before updates that it has to follow; nor is it called twice."""
    queue, asking = make_queue(make_update(sequence=1), update), replace(update, request=verb)
    queue.push(asking)
    decision = decide(asking, queue, make_stream(), at(1))
    why = "the update has not been called yet: its first call comes in its turn"
    assert decision == Release(Status(refused_request=RefusedRequest(verb, why, at(1))))
    told = asking.with_status(decision.status, 101)
    queue.push(told)
    assert (told.status.called, queue.requested) == (False, [])


@pytest.mark.parametrize("request_", ["retyr", "RETRY", "", ":2", "retry 2", "skip;cancel"])
@pytest.mark.parametrize(
    "status",
    [Status(), RUNNING, BUSY_UNTIL_5, held_status(Reason.REJECTED)],
    ids=["queued", "running", "busy", "held"],
)
def test_what_is_no_verb_is_refused_once_and_changes_nothing_else(request_: str, status: Status) -> None:
    asking = make_update(status=status, request=request_)
    decision = decide_alone(asking)
    assert isinstance(decision, Release)
    refused = decision.status.refused_request
    assert refused is not None
    assert (refused.request, refused.time) == (request_, at(1))
    assert "retry, restart, skip, cancel" in refused.message
    assert replace(decision.status, refused_request=None) == status
    told = replace(asking, status=decision.status)
    assert refusal(told, at(2)) is None
    assert UserUpdate.from_body(make_body(told)) == told, "nor after a restart"
    assert refusal(replace(told, request=f"{request_}:again"), at(2)) is not None


@pytest.mark.parametrize("phase", sorted(FINISHED))
@pytest.mark.parametrize("request_", ["retry", "restart:2", "skip", "cancel", "retyr"])
def test_whatever_is_asked_of_a_finished_update_is_refused(phase: Phase, request_: str) -> None:
    asking = make_update(status=replace(FINAL, phase=phase), request=request_)
    refused = refusal(asking, at(1))
    assert refused is not None and refused.refused_request is not None
    assert ("is none of" if request_ == "retyr" else f"is finished ({phase})") in refused.refused_request.message
    assert replace(refused, refused_request=None) == asking.status
    assert refusal(replace(asking, status=refused), at(2)) is None


def test_what_finished_an_update_is_not_asked_of_it_again() -> None:
    finish = decide_alone(make_update(request="skip"))
    assert isinstance(finish, Finish)
    assert refusal(make_update(request="skip", status=finish.status), at(1)) is None


def test_a_refusal_stays_until_something_else_is_done() -> None:
    refused = RefusedRequest("retyr", "none", NOW)
    decision = decide_alone(make_update(status=replace(BUSY_UNTIL_5, refused_request=refused), request="retry"))
    assert isinstance(decision, Release)
    assert decision.status.refused_request is None
    suspended = make_update(sequence=2, status=replace(NOT_CALLED, refused_request=refused))
    queue = make_queue(make_update(sequence=1), suspended)
    assert decide(suspended, queue, make_stream(), NOW) == Release(Status(refused_request=refused))
