"""Each class of answers once by name, then any answer at all: a downstream cannot make the reading raise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api import names
from controller.api.user_update import UpdateSpec
from controller.core import steps
from controller.core.outcomes import Busy, Done, Misconfigured, Outcome, Rejected, Retry
from controller.core.steps import PERMISSIONS, PROFILE, RESOURCES, STEPS, Step

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
SPEC = UpdateSpec("user-updates", "userid1", 42, profile="dev", permissions="all", resources="some")


def read(step: Step, status: int, answer: Any = b"", **headers: str) -> Outcome:
    body = answer if isinstance(answer, bytes) else orjson.dumps(answer)
    return step.read_answer(status, {name.replace("_", "-"): text for name, text in headers.items()}, body, NOW)


def test_steps_run_in_this_order() -> None:
    assert tuple(step.name for step in STEPS) == names.STEPS == ("profile", "permissions", "resources")


def test_request_bodies_carry_the_ids_that_were_answered() -> None:
    results = {"userId": "u-1", "roleId": "r-1"}
    assert PROFILE.request_body(SPEC, {}) == {"user": "userid1", "profile": "dev"}
    assert PERMISSIONS.request_body(SPEC, {"userId": "u-1"}) == {"userId": "u-1", "permissions": "all"}
    assert RESOURCES.request_body(SPEC, results) == {"userId": "u-1", "roleId": "r-1", "resources": "some"}


def test_a_missing_result_is_not_sent_as_nothing() -> None:
    with pytest.raises(KeyError, match="roleId"):
        RESOURCES.request_body(SPEC, {"userId": "u-1"})


@pytest.mark.parametrize(
    ("step", "answer", "want"),
    [
        (PROFILE, {"userId": "u-1", "more": 1}, Done({"userId": "u-1"})),
        (PROFILE, {"userId": "é" * 1024}, Done({"userId": "é" * 1024})),
        (PERMISSIONS, {"roleId": "r-1", "userId": "other"}, Done({"roleId": "r-1"})),
        (RESOURCES, {"anything": True}, Done({})),
        (RESOURCES, b"", Done({})),
        (RESOURCES, b"thank you", Done({})),
    ],
)
@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_success(step: Step, answer: Any, want: Outcome, status: int) -> None:
    assert read(step, status, answer) == want


@pytest.mark.parametrize(
    ("answer", "want_message"),
    [
        (b"", "200 from profile, but the answer is not JSON"),
        (b"\xff{", "200 from profile, but the answer is not JSON"),
        (["u-1"], "200 from profile, but the answer is no JSON object"),
        ({"roleId": "r-1"}, "200 from profile, but without userId"),
        ({"userId": 7}, "200 from profile, but userId is no text of 1 to 1,024 characters"),
        ({"userId": None}, "200 from profile, but userId is no text of 1 to 1,024 characters"),
        ({"userId": ""}, "200 from profile, but userId is no text of 1 to 1,024 characters"),
        ({"userId": "u" * 1025}, "200 from profile, but userId is no text of 1 to 1,024 characters"),
    ],
)
def test_a_success_without_what_it_owes_is_retried(answer: Any, want_message: str) -> None:
    assert read(PROFILE, 200, answer) == Retry(want_message)


@pytest.mark.parametrize("step", STEPS)
def test_busy_in_each_of_its_ways(step: Step) -> None:
    assert read(step, 429, retry_after="7") == Busy(f"429 from {step.name}", 7.0)
    assert read(step, 403, retry_after="7") == Busy(f"403 from {step.name}", 7.0)
    assert read(step, 503) == Busy(f"503 from {step.name}", None)
    for status in (200, 202):
        busy = read(step, status, {"status": "NOT_READY", "userId": "u", "roleId": "r"}, retry_after="2")
        assert busy == Busy(f"NOT_READY from {step.name}", 2.0)


@pytest.mark.parametrize("status", [400, 409, 410, 413, 414, 415, 422, 451])
def test_final_answers(status: int) -> None:
    assert read(PROFILE, status) == Rejected(f"{status} from profile")
    assert read(PROFILE, status, b"no\r\n such\x00user ") == Rejected(f"{status} from profile: no  such user")


@pytest.mark.parametrize("status", [100, 101, 0, 408, 425, 500, 501, 502, 504, 507, 599, 600, 999])
def test_answers_that_may_pass(status: int) -> None:
    assert read(PROFILE, status) == Retry(f"{status} from profile")


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 308, 401, 402, 403, 404, 405, 406, 407, 418, 423, 431])
def test_answers_that_blame_the_stream(status: int) -> None:
    outcome = read(PROFILE, status)
    assert isinstance(outcome, Misconfigured)
    assert outcome.message.startswith(f"{status} from profile: ")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 1.0),
        ("1.5", 1.5),
        ("300", 300.0),
        ("301", 300.0),
        ("9" * 5000, 300.0),
        (format_datetime(NOW + timedelta(seconds=30), usegmt=True), 30.0),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 1.0),
        (format_datetime(NOW + timedelta(days=1), usegmt=True), 300.0),
        ("Monday, 23-Nov-26 12:00:20 GMT", 20.0),
        ("Mon, 23 Nov 2026 13:00:20 +0100", 20.0),
        ("Mon, 23 Nov 2026 12:00:20 -0000", 20.0),
        ("-5", None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e2", None),
        ("5, 5", None),
        ("٣", None),
        ("Mon, 99 Nov 2026 12:00:20 GMT", None),
    ],
)
def test_retry_after(text: str, want: float | None) -> None:
    assert steps.retry_after(text, NOW) == want


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ ([A-Z]{3}|[+-]\d+)"))
def test_any_retry_after_is_within_bounds_or_nothing(text: str) -> None:
    seconds = steps.retry_after(text, NOW)
    assert seconds is None or 1.0 <= seconds <= 300.0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["userId", "roleId", "status"]) | st.text(), inner),
)


@given(
    st.sampled_from(STEPS),
    st.integers(-1, 1000),
    st.binary() | JSON.map(lambda value: orjson.dumps(value)),
    st.none() | st.text(),
)
def test_any_answer_is_an_outcome(step: Step, status: int, body: bytes, retry_after: str | None) -> None:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    outcome = step.read_answer(status, headers, body, NOW)
    assert isinstance(outcome, get_args(Outcome))
    if isinstance(outcome, Done):
        assert 200 <= status < 300
        assert set(outcome.result) == ({step.returns} if step.returns else set())
        assert all(1 <= len(given) <= 1024 for given in outcome.result.values())
