"""Judges whether each guarantee held, by the evidence from Kafka, the API server and the downstream's journal. Pure.

It shares no code with the bridge and the controller that it judges, and is tested with evidence against each guarantee.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from demo import scenario
from demo.evidence import Body, Evidence, StoredRecord, position
from devenv.journal import STEPS, Call, Expectations, Rule, Violation, check


@dataclass(frozen=True, slots=True)
class Verdict:
    """One guarantee, and what broke it."""

    guarantee: str
    #: The observation, where the guarantee held.
    seen: str
    #: A sentence for each breach; none: it held.
    breaches: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.breaches


@dataclass(frozen=True, slots=True)
class Case:
    """The evidence, and what several guarantees are judged by."""

    evidence: Evidence
    #: The records that are events.
    events: tuple[StoredRecord, ...]
    #: Those that can never become an update, with what is wrong.
    bad: tuple[tuple[StoredRecord, scenario.BadRecord], ...]
    violations: tuple[Violation, ...]

    @classmethod
    def of(cls, evidence: Evidence) -> Case:
        known = {(bad.record.key, bad.record.value): bad for bad in scenario.BAD_RECORDS}
        bad = tuple((each, known[each.key, each.value]) for each in evidence.records if (each.key, each.value) in known)
        events = tuple(each for each in evidence.records if (each.key, each.value) not in known)
        sent = [(each.key.decode(), each.offset) for each in events]
        expected = Expectations(
            finished=sent, only=sent, busy_delay=scenario.BUSY_DELAY, crashes=[evidence.crash.killed_ns]
        )
        return cls(evidence, events, bad, tuple(check(evidence.calls, expected)))

    def broken(self, *rules: Rule) -> list[str]:
        return [str(violation) for violation in self.violations if violation.rule in rules]


def judge(evidence: Evidence) -> list[Verdict]:
    """A verdict on each guarantee that the play tests."""
    case = Case.of(evidence)
    return [Verdict(name, seen(case), tuple(breaches(case))) for name, seen, breaches in _GUARANTEES]


def _order(case: Case) -> Iterable[str]:
    return case.broken(Rule.OVERLAP, Rule.SEQUENCE, Rule.STEP_ORDER, Rule.WRONG_ID)


def _order_seen(case: Case) -> str:
    users = len({event.key for event in case.events})
    most = _most_at_once(case.evidence.calls)
    return (
        f"{len(case.events)} updates of {users} users, each user's in the topic's order, one call of a user at a time; "
        f"up to {most} users at once"
    )


def _isolation(case: Case) -> Iterator[str]:
    waiting = _calls_of(case, scenario.BUSY_USER, "profile")
    ready = next((call for call in waiting if call.succeeded), None)
    if ready is None or not any(call.busy for call in waiting):
        yield f"{scenario.BUSY_USER} was not told to wait, or never got on"
        return
    others = [call for call in case.evidence.calls if call.user != scenario.BUSY_USER]
    for call in others:
        if (call.end_time_ns or call.time_ns) > ready.time_ns:
            yield f"{call.update} was still being called when {scenario.BUSY_USER} got on: it had waited, too"


def _isolation_seen(case: Case) -> str:
    others = [event for event in case.events if event.key != scenario.BUSY_USER.encode()]
    last = max((call.end_time_ns or 0 for call in case.evidence.calls if call.user != scenario.BUSY_USER), default=0)
    first = next(iter(_calls_of(case, scenario.BUSY_USER, "profile")), None)
    waited = (last - first.time_ns) / 1e9 if first else 0.0
    return (
        f"{scenario.BUSY_USER} waited for {waited:.1f} s; meanwhile all {len(others)} updates of the others were done"
    )


def _nothing_lost(case: Case) -> Iterator[str]:
    yield from case.broken(Rule.UNFINISHED, Rule.UNEXPECTED, Rule.APPLIED_TWICE)
    sources = [_source(update) for update in case.evidence.updates]
    sources += [_source(rejected) for rejected in case.evidence.rejected]
    for record in case.evidence.records:
        count = sources.count((record.partition, record.offset))
        if count != 1:
            yield f"the record at offset {record.offset} has {count} objects in the API server, not one"
    if len(sources) != len(case.evidence.records):
        yield f"{len(sources)} objects in the API server came of {len(case.evidence.records)} records"
    for update in case.evidence.updates:
        if (phase := update.get("status", {}).get("phase")) != "Succeeded":
            yield f"{update['metadata']['name']} is {phase or 'queued'}, not Succeeded"
    end = 1 + max((record.offset for record in case.evidence.records), default=-1)
    if (reached := position(case.evidence.stream)) != end:
        yield f"the position in the UpdateStream's status is {reached}, and the topic ends at {end}"


def _nothing_lost_seen(case: Case) -> str:
    evidence = case.evidence
    return (
        f"{len(evidence.records)} records in Kafka = {len(evidence.updates)} UserUpdates, all Succeeded, "
        f"+ {len(evidence.rejected)} RejectedEvents; {len(evidence.updates) * len(STEPS)} steps, none done twice"
    )


def _checkpoints(case: Case) -> Iterator[str]:
    yield from case.broken(Rule.REPEATED, Rule.KEY_CHANGED, Rule.KEY_SHARED)
    names = {_source(update)[1]: update["metadata"]["name"] for update in case.evidence.updates}
    crash = case.evidence.crash
    for call in case.evidence.calls:
        name = names.get(call.sequence if call.sequence is not None else -1)
        if call.time_ns > crash.killed_ns and (name, call.step) in crash.recorded:
            yield f"{call.step} of {call.update} was recorded before the controller was killed, and called again"
    if not _repeated(case):
        yield "no call was under way when the controller was killed: the play has not shown a repeat"


def _checkpoints_seen(case: Case) -> str:
    return (
        f"{len(case.evidence.crash.recorded)} steps recorded before the SIGKILL were not called again, "
        f"{len(_repeated(case))} unrecorded ones were, with the same Idempotency-Key"
    )


def _delays(case: Case) -> Iterator[str]:
    yield from case.broken(Rule.TOO_EARLY)
    busy = [call for call in _calls_of(case, scenario.BUSY_USER, "profile") if call.busy]
    if not busy or busy[0].time_ns > case.evidence.crash.killed_ns:
        yield f"{scenario.BUSY_USER} was not told to wait before the controller was killed"
    failures = [call for call in _calls_of(case, scenario.FAILING_USER, "permissions") if not call.succeeded]
    if len(failures) < scenario.FAILURES or all(call.status is None for call in failures):  # one may have been cut off
        yield f"{scenario.FAILING_USER} failed {len(failures)} times, not {scenario.FAILURES}"


def _delays_seen(case: Case) -> str:
    calls = _calls_of(case, scenario.BUSY_USER, "profile")
    waits = [f"{_gap(one, two):.1f} s" for one, two in pairwise(calls) if one.busy]
    return (
        f"{scenario.BUSY_USER}, told busy, was called again after {' and '.join(waits)} (asked: "
        f"{scenario.BUSY_DELAY:g} s), SIGKILL or not; {scenario.FAILING_USER} failed twice and got on"
    )


def _bad_records(case: Case) -> Iterator[str]:
    shown = {(each["spec"]["source"]["offset"], each["spec"]["reason"]): each for each in case.evidence.rejected}
    for record, bad in case.bad:
        rejected = shown.pop((record.offset, bad.reason), None)
        if rejected is None:
            yield f"the record at offset {record.offset} is not shown as {bad.reason}"
        elif rejected["spec"].get("pointer") != bad.pointer:
            yield f"the RejectedEvent of offset {record.offset} points to {rejected['spec'].get('pointer')}"
    for offset, reason in shown:
        yield f"the record at offset {offset} is shown as {reason}, and nothing is wrong with it"
    if len(case.bad) != len(scenario.BAD_RECORDS) or not _behind_bad(case):
        yield "the bad records are not in the topic with others behind them"


def _bad_records_seen(case: Case) -> str:
    shown = ", ".join(f"{bad.reason} at offset {record.offset}" for record, bad in case.bad)
    return f"{shown}; the {_behind_bad(case)} events behind went on"


_GUARANTEES: tuple[tuple[str, Callable[[Case], str], Callable[[Case], Iterable[str]]], ...] = (
    ("order", _order_seen, _order),
    ("no waiting for others", _isolation_seen, _isolation),
    ("nothing lost or twice", _nothing_lost_seen, _nothing_lost),
    ("checkpoints", _checkpoints_seen, _checkpoints),
    ("durable delays", _delays_seen, _delays),
    ("bad records", _bad_records_seen, _bad_records),
)


def _calls_of(case: Case, user: str, step: str) -> list[Call]:
    """The user's calls of that step for the first of their updates."""
    calls = [call for call in case.evidence.calls if call.user == user and call.step == step]
    return [call for call in calls if call.sequence == calls[0].sequence]


def _repeated(case: Case) -> list[tuple[str | None, str]]:
    """(key, step) of the calls during which the controller was killed, or whose answers it had not recorded."""
    killed = case.evidence.crash.killed_ns
    before: set[tuple[str | None, str]] = set()
    repeated = []
    for call in sorted(case.evidence.calls, key=lambda call: call.number):
        key = (call.key, call.step)
        if call.time_ns <= killed and (call.succeeded or call.status is None):
            before.add(key)
        elif call.time_ns > killed and key in before:
            repeated.append(key)
            before.discard(key)
    return repeated


def _behind_bad(case: Case) -> int:
    first = min((record.offset for record, _ in case.bad), default=0)
    return sum(event.offset > first for event in case.events)


def _source(body: Body) -> tuple[int, int]:
    source: dict[str, Any] = body["spec"]["source"]
    return source["partition"], source["offset"]


def _gap(one: Call, two: Call) -> float:
    return (two.time_ns - (one.end_time_ns or one.time_ns)) / 1e9


def _most_at_once(calls: Iterable[Call]) -> int:
    """The largest number of calls that ran at the same time."""
    edges = [(call.time_ns, 1) for call in calls]
    edges += [(call.end_time_ns, -1) for call in calls if call.end_time_ns is not None]
    now = most = 0
    for _, change in sorted(edges):
        now += change
        most = max(most, now)
    return most
