"""The demo's verdict holds for a play as it should be, and breaks for evidence that was tampered with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import pytest

from demo import scenario
from demo.evidence import Crash, Evidence, StoredRecord
from demo.verdict import judge
from devenv.journal import STEPS, Call

START = 1_795_000_000_000_000_000
SECOND = 1_000_000_000
SOURCE = "topic/0"


class Performance:
    """The scenario as it should go: a call each tenth of a second, the controller killed half-way."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.recorded: set[tuple[str, str]] = set()
        self.records = [
            StoredRecord(0, offset, record.key, record.value)
            for offset, record in enumerate([*scenario.first_records(), *scenario.burst_records()])
        ]
        bad = {bad.record.value for bad in scenario.BAD_RECORDS}
        self.events = [record for record in self.records if record.value not in bad]
        self.killed = 0

    def evidence(self) -> Evidence:
        late = [event for event in self.events if event.key == scenario.BUSY_USER.encode()]
        self._call(late[0], "profile", status=503, answer={}, applied=False)
        others = [event for event in self.events if event not in late]
        for number, event in enumerate(others):
            if number == len(others) // 2:
                self._die(event)
            self._update(event)
        for event in late:
            self._update(event)
        return Evidence(
            records=tuple(self.records),
            updates=tuple(_update_body(event) for event in self.events),
            rejected=tuple(self._rejected()),
            stream={"status": {"partitions": [{"partition": 0, "position": len(self.records)}]}},
            calls=tuple(self.calls),
            crash=Crash(self.killed, self.killed + SECOND, frozenset(self.recorded)),
        )

    def _update(self, event: StoredRecord) -> None:
        for step in STEPS:
            if step == "permissions" and event.key == scenario.FAILING_USER.encode():
                failed = [call for call in self.calls if call.status == 500]
                for _ in range(scenario.FAILURES - len(failed)):
                    self._call(event, step, status=500, answer={}, applied=False)
            self._call(event, step)
            if not self.killed:
                self.recorded.add((_name(event.offset), step))

    def _die(self, event: StoredRecord) -> None:
        """In the middle of a call, which was done but not answered; its repeat is answered from memory."""
        self._call(event, "profile", status=None, answer=None, gone=True)
        self.killed = self.calls[-1].time_ns + SECOND // 20

    def _call(self, event: StoredRecord, step: str, **changes: Any) -> None:
        user, number = event.key.decode(), 2 * len(self.calls) + 1
        ids = {"userId": f"u-{event.offset}", "roleId": f"r-{event.offset}"}
        begin = START + len(self.calls) * SECOND // 10
        call = Call(
            number=number,
            time_ns=begin,
            step=step,
            stream=scenario.STREAM,
            user=user,
            sequence=event.offset,
            source=SOURCE,
            key=f"{_name(event.offset)}/{step}",
            body={name: ids[name] for name in {"permissions": ["userId"], "resources": list(ids)}.get(step, [])},
            end=number + 1,
            end_time_ns=begin + SECOND // 20,
            status=200,
            answer={name: ids[name] for name in {"profile": ["userId"], "permissions": ["roleId"]}.get(step, [])},
            applied=True,
        )
        self.calls.append(replace(call, **changes))

    def _rejected(self) -> Iterator[dict[str, Any]]:
        for bad in scenario.BAD_RECORDS:
            offset = next(record.offset for record in self.records if record.value == bad.record.value)
            spec = {"reason": bad.reason, "pointer": bad.pointer, "source": {"partition": 0, "offset": offset}}
            yield {"spec": {key: value for key, value in spec.items() if value is not None}}


def _name(offset: int) -> str:
    return f"user-updates-4f1c9a-p00000-{offset:019d}"


def _update_body(event: StoredRecord) -> dict[str, Any]:
    return {
        "metadata": {"name": _name(event.offset)},
        "spec": {"user": event.key.decode(), "source": {"partition": 0, "offset": event.offset}},
        "status": {"phase": "Succeeded"},
    }


@pytest.fixture
def evidence() -> Evidence:
    performance = Performance()
    found = performance.evidence()
    # the call that was cut off was not applied, its repeat was
    cut = next(call for call in found.calls if call.gone)
    return replace(found, calls=tuple(replace(call, applied=False) if call is cut else call for call in found.calls))


def broken(evidence: Evidence) -> set[str]:
    return {verdict.guarantee for verdict in judge(evidence) if not verdict.holds}


def test_a_play_as_it_should_be_breaks_nothing(evidence: Evidence) -> None:
    verdicts = judge(evidence)
    assert [breach for verdict in verdicts for breach in verdict.breaches] == []
    seen = {verdict.guarantee: verdict.seen for verdict in verdicts}
    assert seen["nothing lost or twice"].startswith("84 records in Kafka = 82 UserUpdates, all Succeeded, + 2 ")
    assert "1 unrecorded ones were" in seen["checkpoints"]


Tamper: TypeAlias = Callable[[Evidence], Evidence]


def change_call(choose: Callable[[Call], bool], **changes: Any) -> Tamper:
    """The first call of that kind is another."""

    def tamper(evidence: Evidence) -> Evidence:
        chosen = next(call for call in evidence.calls if choose(call))
        return replace(
            evidence, calls=tuple(replace(call, **changes) if call is chosen else call for call in evidence.calls)
        )

    return tamper


def add_call(choose: Callable[[Call], bool], at_end: bool = True, **changes: Any) -> Tamper:
    """The first call of that kind is made once more: at the end, or right behind it."""

    def tamper(evidence: Evidence) -> Evidence:
        chosen = next(call for call in evidence.calls if choose(call))
        before = evidence.calls[-1] if at_end else chosen
        number = before.number + 2 if at_end else before.number + 1
        again = replace(
            chosen, number=number, time_ns=before.time_ns + SECOND // 15, end=None, end_time_ns=None, **changes
        )
        return replace(evidence, calls=(*evidence.calls, again))

    return tamper


def drop_last_calls(evidence: Evidence) -> Evidence:
    return replace(evidence, calls=evidence.calls[:-1])


def swap_updates_of_a_user(evidence: Evidence) -> Evidence:
    """Two updates of userid3 were applied the wrong way round."""
    own = [event.offset for event in evidence.records if event.key == b"userid3" and b"all" in event.value]
    swapped = {own[0]: own[1], own[1]: own[0]}
    return replace(
        evidence,
        calls=tuple(
            replace(
                call,
                sequence=swapped[call.sequence],
                key=f"{_name(swapped[call.sequence])}/{call.step}",
            )
            if call.sequence in swapped
            else call
            for call in evidence.calls
        ),
    )


def lose_an_update(evidence: Evidence) -> Evidence:
    return replace(evidence, updates=evidence.updates[1:])


def double_an_update(evidence: Evidence) -> Evidence:
    return replace(evidence, updates=(*evidence.updates, evidence.updates[0]))


def leave_one_waiting(evidence: Evidence) -> Evidence:
    waiting = {**evidence.updates[3], "status": {"phase": "Waiting"}}
    return replace(evidence, updates=(*evidence.updates[:3], waiting, *evidence.updates[4:]))


def hold_the_position_back(evidence: Evidence) -> Evidence:
    return replace(evidence, stream={"status": {"partitions": [{"partition": 0, "position": 3}]}})


def hide_a_bad_record(evidence: Evidence) -> Evidence:
    return replace(evidence, rejected=evidence.rejected[1:])


def blame_another_field(evidence: Evidence) -> Evidence:
    second = evidence.rejected[1]
    return replace(evidence, rejected=(evidence.rejected[0], {"spec": {**second["spec"], "pointer": "/profile"}}))


def nobody_failed(evidence: Evidence) -> Evidence:
    return replace(evidence, calls=tuple(call for call in evidence.calls if call.status != 500))


def kill_before_anything(evidence: Evidence) -> Evidence:
    return replace(evidence, crash=replace(evidence.crash, killed_ns=START - 1, recorded=frozenset()))


def everyone_waits(evidence: Evidence) -> Evidence:
    """The last update of another user is done after the busy one got on."""
    last = max(call.number for call in evidence.calls if call.user == "userid9")
    end = evidence.calls[-1].time_ns + SECOND
    return replace(
        evidence, calls=tuple(replace(c, end_time_ns=end) if c.number == last else c for c in evidence.calls)
    )


def recorded(call: Call) -> bool:
    return call.user == "userid1" and call.step == "profile"


@pytest.mark.parametrize(
    ("tamper", "want_broken"),
    [
        pytest.param(swap_updates_of_a_user, {"order"}, id="out of order"),
        pytest.param(change_call(recorded, end=99_999), {"order"}, id="two calls of a user at once"),
        pytest.param(everyone_waits, {"no waiting for others"}, id="others wait for the busy user"),
        pytest.param(drop_last_calls, {"nothing lost or twice"}, id="a step that was never called"),
        pytest.param(lose_an_update, {"nothing lost or twice"}, id="a record without an object"),
        pytest.param(double_an_update, {"nothing lost or twice"}, id="a record with two objects"),
        pytest.param(leave_one_waiting, {"nothing lost or twice"}, id="an update that is not done"),
        pytest.param(hold_the_position_back, {"nothing lost or twice"}, id="a position that lags"),
        pytest.param(add_call(recorded, applied=False), {"checkpoints", "order", "no waiting for others"}, id="again"),
        pytest.param(
            change_call(lambda call: call.gone, key="another"), {"checkpoints"}, id="a repeat with another key"
        ),
        pytest.param(kill_before_anything, {"checkpoints", "durable delays"}, id="a kill that hit nothing"),
        pytest.param(
            add_call(lambda call: call.busy, at_end=False, status=503, applied=False),
            {"durable delays", "order"},
            id="a delay that was cut short",
        ),
        pytest.param(nobody_failed, {"durable delays"}, id="a failure that was not shown"),
        pytest.param(hide_a_bad_record, {"bad records", "nothing lost or twice"}, id="a bad record that is hidden"),
        pytest.param(blame_another_field, {"bad records"}, id="a wrong field blamed"),
    ],
)
def test_tampered_evidence_breaks_its_guarantee(evidence: Evidence, tamper: Tamper, want_broken: set[str]) -> None:
    assert broken(tamper(evidence)) == want_broken
