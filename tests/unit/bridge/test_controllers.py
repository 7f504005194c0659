"""What the bridge says of Processing where nobody renews the stream's Lease."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.bridge.controllers import Missing, without_controller
from controller.clients.adoption import RESTORED
from controller.clients.stream_status import LEASE_REFUSED, NO_CONTROLLER, UNREADABLE, condition, with_condition
from tests.support.builders import NOW, make_stream

NOBODY = Missing("nobody", whole=True)


def said(reason: str, generation: int) -> dict[str, Any]:
    return with_condition({}, "Processing", False, reason, "why", generation=generation, now=NOW)


def reason(status: dict[str, Any]) -> str:
    found = condition(status, "Processing")
    assert found
    return str(found["reason"])


@pytest.mark.parametrize("why", [LEASE_REFUSED, UNREADABLE, RESTORED])
def test_a_controller_that_says_why_it_has_no_lease_lives(why: str) -> None:
    """They took turns: NoController from here, and what it had said from the controller, for ever."""
    stream = make_stream()
    if why == RESTORED:
        stream = replace(stream, adopted_uid="another")
    told = said(why, stream.generation)
    assert without_controller(stream, NOBODY, told) == told
    assert reason(without_controller(stream, NOBODY, said(why, stream.generation - 1))) == NO_CONTROLLER


def test_what_is_over_excuses_nobody() -> None:
    stream = make_stream()
    assert not stream.restored
    assert reason(without_controller(stream, NOBODY, said(RESTORED, stream.generation))) == NO_CONTROLLER
    assert reason(without_controller(stream, NOBODY, said("Suspended", stream.generation))) == NO_CONTROLLER
    assert without_controller(stream, NOBODY, {}) == {}


def test_what_a_dead_controller_counted_is_no_count() -> None:
    """QUEUED stayed 0, or whatever it was, while records became updates that nobody took up."""
    told = said("Processing", 1) | {"counts": {"queued": 0, "rejected": 3}, "users": {"held": 1, "overflowing": 2}}
    status = without_controller(make_stream(), NOBODY, told)
    assert status["counts"] == {"queued": None, "rejected": 3}, "of a merge patch: it is taken away"
    assert status["users"] == {"held": None, "overflowing": 2}
    left = status | {"counts": {"rejected": 3}, "users": {"overflowing": 2}}
    assert without_controller(make_stream(), NOBODY, left) == left, "nothing is written again"
    divided = without_controller(make_stream(shards=2), Missing("of one", whole=False), told)
    assert divided["counts"] == told["counts"], "the other shards' controllers go on to tell theirs"
    assert without_controller(make_stream(shards=2), NOBODY, told)["counts"]["queued"] is None
