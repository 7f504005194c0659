"""What the pure core costs an event, in calls of Python functions: a count that does not depend on the machine.

A bound is what is needed today, with a tenth to spare for other versions of Python.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import orjson

from controller.api.offset_queue import OffsetQueue
from controller.api.user_backlog import MAX_OFFSETS, offsets_in_entry
from controller.api.user_update import UserUpdate
from controller.core.decisions import RunStep, decide, record
from controller.core.outcomes import Done
from controller.core.records import UpdateEvent, read_record, user_update_manifest
from controller.core.steps import STEPS
from controller.core.user_queue import UserQueue
from tests.support.builders import at, make_body, make_stream, make_update
from tests.support.records import make_record

STREAM = make_stream()


def calls_of(what: Callable[[], object]) -> int:
    """Calls of functions written in Python."""
    count = 0

    def seen(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    what()  # caches are filled
    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        what()
    finally:
        sys.setprofile(before)
    return count


def test_reading_a_record_and_building_its_object() -> None:
    one = make_record()

    def read() -> None:
        event = read_record(one)
        assert isinstance(event, UpdateEvent)
        user_update_manifest(STREAM, event, None)

    assert calls_of(read) <= 43


def test_an_update_from_its_object_through_three_steps() -> None:
    body = orjson.dumps(make_body(make_update(status=None)))

    def apply() -> None:
        update = UserUpdate.from_body(orjson.loads(body))
        queue = UserQueue()
        queue.push(update)
        for index, step in enumerate(STEPS):
            assert decide(update, queue, STREAM, at(index)) == RunStep(step.name)
            done = Done({step.returns: "id"} if step.returns else {})
            status = record(update.status, done, STREAM, at(index), at(index + 0.5))
            status.for_status()
            update = update.with_status(status, update.resource_version + 1)
            queue.push(update)

    assert calls_of(apply) <= 252


def test_a_backlog_is_read_without_a_call_for_each_offset() -> None:
    """Of a thousand of them each took 45 ms, in which no Lease was renewed and no heartbeat sent."""
    text = OffsetQueue(range(0, 200 * MAX_OFFSETS, 200)).encode()
    assert calls_of(lambda: OffsetQueue.decode(text)) <= 20
    assert calls_of(lambda: offsets_in_entry({"offsets": text}, {200, 201})) <= 20
