"""The conditions of a stream: each process writes its own, and what it does not know of the other; Ready follows."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from controller.clients.stream_status import (
    NO_BRIDGE,
    NO_CONTROLLER,
    StreamStatus,
    condition,
    with_condition,
    with_unknown,
)
from tests.support.builders import at


def well(now: float = 0) -> dict[str, Any]:
    status: dict[str, Any] = with_condition({}, "Consuming", True, "Consuming", "fine", generation=1, now=at(now))
    return with_condition(status, "Processing", True, "Processing", "fine", generation=2, now=at(now))


def told(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {entry["type"]: (entry["status"], entry["reason"]) for entry in status["conditions"]}


def test_who_is_not_heard_of_takes_ready_with_it() -> None:
    found = with_unknown(well(), "Consuming", NO_BRIDGE, "no bridge", at(70))
    assert told(found) == {
        "Consuming": ("Unknown", NO_BRIDGE),
        "Processing": ("True", "Processing"),
        "Ready": ("Unknown", NO_BRIDGE),
    }
    back = with_condition(found, "Consuming", True, "Consuming", "fine", generation=1, now=at(80))
    assert told(back) == told(well())


def test_what_nobody_has_said_yet_stays_unsaid() -> None:
    """A stream that no controller has taken up is Pending, as before; it is not said that there is none."""
    begun = with_condition({}, "Consuming", True, "Consuming", "fine", generation=1, now=at(0))
    assert with_unknown(begun, "Processing", NO_CONTROLLER, "no controller", at(70)) == begun
    assert told(begun)["Ready"] == ("Unknown", "Pending")
    assert with_unknown({}, "Processing", NO_CONTROLLER, "no controller", at(70)) == {}


def test_it_is_said_once() -> None:
    once = with_unknown(well(), "Processing", NO_CONTROLLER, "in these words", at(70))
    assert with_unknown(once, "Processing", NO_CONTROLLER, "in others", at(80)) == once
    assert (condition(once, "Processing") or {})["observedGeneration"] == 2, "of the one who computed it"


STATUSES = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2))


@given(STATUSES, STATUSES)
def test_a_change_is_wanted_where_it_changes_what_was_seen(seen: dict[str, int], wanted: dict[str, int]) -> None:
    status = StreamStatus(cast(Any, None), cast(Any, None), "default", "events", "uid")
    assert status.would_change(lambda _: wanted), "nothing was seen yet"
    status.observe({"metadata": {"uid": "another"}, "status": wanted})
    assert status.would_change(lambda _: wanted), "nor was this one"
    status.observe({"metadata": {"uid": "uid"}, "status": seen})
    assert status.would_change(lambda before: {**before, **wanted}) == (seen | wanted != seen)
