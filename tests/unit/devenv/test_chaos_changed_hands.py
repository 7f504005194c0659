"""The checker of the chaos runs knows what a crash forgets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.chaos.history import Disturbance
from tests.support.histories import SECOND, START, good_history
from tests.support.records import TOPIC_ID
from tests.unit.devenv.test_chaos_verdict import ORDER, broken


def test_an_update_of_which_nothing_was_recorded_may_be_passed_by_one_of_another_source_when_it_changes_hands() -> None:
    history = good_history()
    calls = [replace(call, source=f"{TOPIC_ID}/1") if call.sequence == 3 else call for call in history.calls]
    first = next(call for call in calls if call.sequence == 3)
    unanswered: dict[str, Any] = {"status": None, "answer": {}, "applied": False, "gone": True}
    cut = replace(first, number=0, time_ns=START, end=1, end_time_ns=START + 1, **unanswered)
    history = replace(history, calls=(cut, *calls))
    assert ORDER in broken(history)
    killed = Disturbance("kill", "controller", START, START + SECOND)
    assert broken(replace(history, disturbances=(killed,))) == {}
    assert ORDER in broken(replace(history, disturbances=(replace(killed, target="bridge"),)))
    long_before = replace(killed, start_ns=START - 60 * SECOND, end_ns=START - 59 * SECOND)
    assert ORDER in broken(replace(history, disturbances=(long_before,)))
