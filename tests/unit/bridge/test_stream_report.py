"""The condition Consuming as a bridge lays it over what is there."""

from __future__ import annotations

from controller.bridge.consuming_condition import Consuming
from controller.bridge.membership import JOINING
from controller.clients.stream_status import NO_BRIDGE, condition


def message(*words: Consuming) -> str:
    status: dict[str, object] = {}
    for each in words:
        status = each.write(status)
    found = condition(status, "Consuming")
    assert found
    return str(found["message"])


def test_what_the_group_waits_for_is_told_as_it_is_now() -> None:
    """The words of the first look stayed, whatever the group's state and members were later."""
    first, later = (Consuming(None, JOINING, f"its members are {name}", 1) for name in ("none", "rdkafka"))
    assert message(first, later) == "its members are rdkafka"


def test_that_no_bridge_lives_is_told_in_the_words_of_whoever_said_so_first() -> None:
    first, later = (Consuming(None, NO_BRIDGE, name, 1) for name in ("a controller", "this bridge"))
    assert message(first, later) == "a controller"
