"""When a step is blamed, and when only users are told of: by shares, by time, and without going to and fro."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Phase, Reason, Status
from controller.core.decisions import record, waiting_for_slot, waiting_to_be_callable
from controller.core.outcomes import Busy, Done, Misconfigured, Outcome, Rejected, Retry
from controller.core.step_health import (
    MIN_REFUSED,
    OBSERVE_SECONDS,
    PROVEN_SECONDS,
    QUIET_SECONDS,
    StepHealth,
    StepReport,
    of_all_shards,
)
from tests.support.builders import NOW, PROFILE_DONE, make_stream, make_update

STREAM = make_stream()
UNAUTHORIZED = Misconfigured("401 from profile: check the step's url and credentials: expired")
REFUSED_CONNECTION = Retry("connection refused by profile")


def after(outcome: Outcome, user: str = "ana", status: Status | None = None) -> UserUpdate:
    return make_update(user=user, status=record(status or Status(), outcome, STREAM, NOW, NOW))


def observed() -> StepHealth:
    """Of a controller that has worked on the stream for a while."""
    health = StepHealth()
    health.reports([], -OBSERVE_SECONDS)
    return health


def profile(health: StepHealth, updates: list[UserUpdate], now: float) -> StepReport:
    return health.reports(updates, now)[0]


def refused(count: int) -> list[UserUpdate]:
    return [after(UNAUTHORIZED, f"user{number}") for number in range(count)]


def serve(health: StepHealth, count: int, now: float) -> None:
    for number in range(count):
        health.answered("profile", f"good{number}", Done({"userId": "u"}), now)


def test_one_user_who_is_refused_among_others_blames_nobody() -> None:
    health = observed()
    serve(health, 1, now=0)
    for now in (1, QUIET_SECONDS + 1, PROVEN_SECONDS - 1):
        report = profile(health, refused(1), now)
        assert report.blame(standing=False) is None
    assert "profile: 1 user waits, and no call was accepted for a minute: 401 from profile" in str(report)


def test_a_single_user_whom_nobody_has_been_served_beside_blames_the_step_after_a_minute() -> None:
    health = StepHealth()
    assert profile(health, refused(1), 0).blame(standing=False) is None
    assert profile(health, refused(1), QUIET_SECONDS - 1).blame(standing=False) is None
    assert profile(health, refused(1), QUIET_SECONDS).blame(standing=False) == "StepMisconfigured"


@pytest.mark.parametrize(("waiting", "served", "blamed"), [(2, 0, 0), (3, 0, 1), (3, 2, 1), (3, 3, 0), (40, 39, 1)])
def test_most_of_at_least_three_blame_the_step_at_once(waiting: int, served: int, blamed: int) -> None:
    health = observed()
    serve(health, served, now=0)
    reason = profile(health, refused(waiting), 1).blame(standing=False)
    assert reason == ("StepMisconfigured" if blamed else None)


def test_calls_that_nobody_answers_blame_the_step_after_a_minute() -> None:
    health = observed()
    serve(health, 5, now=0)
    users = [after(REFUSED_CONNECTION, f"user{number}") for number in range(50)]
    assert profile(health, users, 1).blame(standing=False) is None, "a downstream that restarts is no news"
    assert profile(health, users, QUIET_SECONDS).blame(standing=False) is None
    report = profile(health, users, QUIET_SECONDS + 1)
    assert report.blame(standing=False) == "StepFailing"
    assert str(report) == (
        "profile: 50 users wait, and no call was accepted for a minute: connection refused by profile"
    )


@pytest.mark.parametrize("outcome", [Done({"userId": "u"}), Busy("503 from profile"), Rejected("422 from profile")])
def test_whoever_is_answered_shows_that_the_step_works(outcome: Outcome) -> None:
    health = StepHealth()
    users = [after(REFUSED_CONNECTION, "ana"), after(REFUSED_CONNECTION, "bo")]
    profile(health, users, 0)
    health.answered("profile", "cy", outcome, QUIET_SECONDS - 1)
    assert profile(health, users, QUIET_SECONDS + 1).blame(standing=False) is None
    assert profile(health, users, 3 * QUIET_SECONDS).blame(standing=False) == "StepFailing"


@pytest.mark.parametrize("outcome", [REFUSED_CONNECTION, UNAUTHORIZED])
def test_a_failure_shows_nothing_of_the_kind(outcome: Outcome) -> None:
    health = StepHealth()
    profile(health, [after(outcome), after(outcome, "bo")], 0)
    health.answered("profile", "ana", outcome, QUIET_SECONDS - 1)
    assert profile(health, [after(outcome), after(outcome, "bo")], QUIET_SECONDS).blame(standing=False)


def test_trouble_that_has_passed_does_not_count_when_the_next_one_comes() -> None:
    health = StepHealth()
    profile(health, refused(2), 0)
    profile(health, [], 1)  # skipped
    assert profile(health, refused(2), QUIET_SECONDS + 1).blame(standing=False) is None


def test_another_step_is_judged_anew() -> None:
    health = observed()
    serve(health, 9, now=0)
    health.changed("profile")
    assert profile(health, refused(3), 1).blame(standing=False) is None, "they were refused by the one before"
    assert profile(health, refused(3), 1 + OBSERVE_SECONDS).blame(standing=False) == "StepMisconfigured"


def test_a_successor_looks_who_is_served_before_it_blames_a_step_and_takes_nothing_back_before() -> None:
    health = StepHealth()
    assert profile(health, refused(3), 0).blame(standing=False) is None
    assert profile(health, refused(3), 0).blame(standing=True) == "StepMisconfigured"
    serve(health, 3, now=OBSERVE_SECONDS)
    assert profile(health, refused(3), OBSERVE_SECONDS).blame(standing=False) is None
    serve(observed_late := StepHealth(), 2, now=0)
    profile(observed_late, refused(3), 0)
    assert profile(observed_late, refused(3), OBSERVE_SECONDS).blame(standing=False) == "StepMisconfigured"


def test_what_was_said_is_taken_back_by_what_clearly_shows_otherwise() -> None:
    """Around a share of a half the condition does not go to and fro; a successor knows it from the condition alone."""
    health = StepHealth()
    assert profile(health, refused(2), 0).blame(standing=True) == "StepMisconfigured", "nothing accepted since"
    serve(health, 6, now=1)
    assert profile(health, refused(6), 2).blame(standing=True) == "StepMisconfigured"
    assert profile(health, refused(6), 2).blame(standing=False) is None
    assert profile(health, refused(3), 2).blame(standing=True) is None
    assert profile(health, [], 2).blame(standing=True) is None


def test_who_could_not_be_called_waits_at_the_step_too() -> None:
    missing = waiting_to_be_callable(Status(steps=(PROFILE_DONE,)), "there is no Secret x for permissions", NOW)
    reports = StepHealth().reports([make_update(status=missing)], 0)
    assert [(report.name, report.refused) for report in reports] == [
        ("profile", 0),
        ("permissions", 1),
        ("resources", 0),
    ]
    assert reports[1].cause == "there is no Secret x for permissions"


def test_one_whose_call_is_being_repeated_is_still_in_trouble() -> None:
    waiting = after(UNAUTHORIZED)
    running = replace(waiting.status, phase=Phase.RUNNING, reason=Reason.RUNNING, message="calling profile")
    for status in (running, waiting_for_slot(waiting.status, NOW)):
        report = profile(StepHealth(), [make_update(status=status)], 0)
        assert (report.refused, report.cause) == (1, "")


def test_the_cause_stays_while_most_have_one_that_begins_like_it() -> None:
    """Downstreams put the number of a request into what they say."""

    def cause(health: StepHealth, *bodies: str) -> str:
        updates = [after(Misconfigured(f"{body}"), f"user{index}") for index, body in enumerate(bodies)]
        return profile(health, updates, 0).cause

    health = StepHealth()
    mixed = cause(health, "401 from profile: b", "401 from profile: a", "404 from profile: x")
    assert mixed == "for instance 401 from profile: a"
    assert cause(health, "401 from profile: d", "401 from profile: c") == "401 from profile: a"
    mixed = cause(health, "401 from profile: d", "404 from profile: c", "404 from profile: b")
    assert mixed == "for instance 404 from profile: b"
    assert profile(health, [], 0).cause == ""


def shard(refused: int, served: int, **more: bool) -> StepReport:
    return StepReport("profile", refused=refused, served=served, cause="401" if refused else "", **more)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([shard(1, 0, quiet=True), shard(0, 20, proven=True)], None),
        ([shard(1, 0, quiet=True), shard(0, 0, proven=True)], None),
        ([shard(1, 0, quiet=True), shard(0, 0)], "StepMisconfigured"),
        ([shard(1, 0), shard(1, 0), shard(1, 2)], "StepMisconfigured"),
        ([shard(9, 0), shard(0, 9)], None),
    ],
)
def test_a_step_is_judged_by_what_all_shards_see(parts: list[StepReport], reason: str | None) -> None:
    whole = of_all_shards((StepReport.from_body(part.for_status()) for part in parts), len(parts))[0]
    assert whole.blame(standing=False) == reason


def test_what_shards_have_not_told_yet_may_be_that_they_serve_all_others() -> None:
    assert of_all_shards([shard(3, 0)], 2)[0].blame(standing=False) is None
    assert of_all_shards([shard(3, 0)], 2)[0].blame(standing=True) == "StepMisconfigured"
    assert of_all_shards([shard(3, 0), shard(0, 0)], 2)[0].blame(standing=False) == "StepMisconfigured"


def test_users_are_counted_once_and_forgotten_in_time() -> None:
    health = StepHealth()
    for now in range(100):
        health.answered("profile", "ana", Busy(""), now)
        health.answered("profile", f"user{now}", Busy(""), now)
    assert profile(health, [], 99).served == 1 + QUIET_SECONDS
    assert profile(health, [after(UNAUTHORIZED)], 99).served == QUIET_SECONDS, "who is refused now is not served"
    assert profile(health, [], 99 + QUIET_SECONDS).served == 0
    assert MIN_REFUSED > 1
