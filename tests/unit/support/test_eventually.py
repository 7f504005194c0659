"""Waiting: what a look may raise, and which seconds count."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import eventually as module
from tests.support.eventually import BUSY, Stopwatch, eventually


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, float]]:
    """Seconds of the clock, and those for which some process has waited."""
    now = {"clock": 100.0, "waited": 50.0}
    monkeypatch.setattr(time, "monotonic", lambda: now["clock"])
    monkeypatch.setattr(module, "_waited", lambda: now["waited"])
    yield now


def test_each_second_counts_where_nobody_waits_for_a_processor(clock: dict[str, float]) -> None:
    watch = Stopwatch()
    clock["clock"] += 3
    assert watch.seconds == 3


def test_seconds_in_which_processes_wait_do_not_count(clock: dict[str, float]) -> None:
    watch = Stopwatch()
    clock["clock"] += 3
    clock["waited"] += 1
    assert watch.seconds == 2


def test_on_a_machine_that_is_always_busy_time_goes_on_slowly(clock: dict[str, float]) -> None:
    watch = Stopwatch()
    clock["clock"] += 60
    clock["waited"] += 60
    assert watch.seconds == pytest.approx(60 / BUSY)


def test_a_system_that_does_not_tell_counts_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PRESSURE", (Path("/nowhere"),))
    assert module._waited() == pytest.approx(time.monotonic() / 2, rel=0.01)


NOTHING: dict[str, str] = {}


@pytest.mark.parametrize(
    "unfinished",
    [
        lambda: NOTHING["status"],
        lambda: [][0],
        lambda: json.loads('{"half'),
        lambda: open("/nowhere/log"),
        lambda: False,
    ],
    ids=["no key", "no item", "half a line", "no file", "not true"],
)
def test_a_look_at_what_is_not_there_yet_is_repeated(unfinished: Callable[[], object]) -> None:
    looks: Iterator[Callable[[], object]] = iter([unfinished, lambda: "there"])
    assert eventually(lambda: next(looks)(), every=0) == "there"


def test_the_last_failure_is_told(clock: dict[str, float]) -> None:
    def look() -> None:
        clock["clock"] += 4
        raise KeyError("status")

    with pytest.raises(AssertionError, match="not within 5 s: KeyError: 'status'"):
        eventually(look, within=5, every=0)
