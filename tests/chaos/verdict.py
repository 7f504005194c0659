"""Whether each guarantee held in a run, by what Kafka, the API server and the downstream's journal show. Pure.

It shares no code with the bridge and the controller that it judges, and is tested with histories that break each rule.
What the contract allows is allowed: a call in flight at a kill is repeated with its key; a frozen controller may let
one call of each user through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from devenv.journal import OVERTAKEN_AFTER, Call, Expectations, Rule, check
from tests.chaos import checkpoints, records
from tests.chaos.history import Disturbance, History
from tests.chaos.misbehaviour import BUSY_DELAY_SECONDS
from tests.chaos.workload import BLOCKED_USER, NAME_CONFLICT

_SECOND = 1_000_000_000
#: Seconds within which an answer is recorded where nothing is in the way.
RECORDED_WITHIN = 2.0
#: Seconds after a disturbance in which its consequences may show: a Lease that lapses, and its next holder.
AFTERMATH = 20.0
#: Seconds within which a changed spec acts.
ACTS_WITHIN = 2.0

#: Parts between an answer and its record.
_RECORDING = (
    "controller",
    "apiserver",
    "authority",
    "etcd",
    "controller-apiserver",
    "apiserver-etcd",
    "checkpoints",
    "leases",
)
#: Parts between an answer and the one who asked.
_ANSWERING = ("downstream", "controller-downstream")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One guarantee, by its number and name, and what broke it."""

    guarantee: str
    #: A sentence for each breach; none: it held.
    breaches: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DisturbedExpectations(Expectations):
    """What a history may look like that faults have disturbed."""

    disturbances: tuple[Disturbance, ...] = ()

    def is_unrecorded(self, call: Call, later: Call) -> bool:
        """Whether the controller may not know, or may not have recorded, how the call ended."""
        if call.end_time_ns is None or call.gone:
            return True
        return any(self._concerns(each, call.end_time_ns) for each in self.disturbances)

    def may_change_hands(self, call: Call, later: Call) -> bool:
        """Whether a controller was killed in between, or may have lost the Lease before it recorded anything."""
        return any(
            _part(each.target) in _RECORDING and each.start_ns <= later.time_ns and call.time_ns <= each.end_ns
            for each in self.disturbances
        )

    def _concerns(self, each: Disturbance, ended: int) -> bool:
        part = _part(each.target)
        if part in _ANSWERING:
            return each.start_ns - _SECOND <= ended <= each.end_ns + _SECOND
        if part not in _RECORDING:
            return False
        if part == "controller" and each.kind == "kill":
            return each.start_ns - RECORDED_WITHIN * _SECOND <= ended <= each.start_ns + _SECOND
        return each.start_ns - RECORDED_WITHIN * _SECOND <= ended <= each.end_ns + AFTERMATH * _SECOND


def judge(history: History) -> list[Verdict]:
    """A verdict on each of the guarantees."""
    found = check(history.calls, _expectations(history))
    broken: dict[Rule, list[str]] = {rule: [] for rule in Rule}
    for violation in found:
        broken[violation.rule].append(str(violation))
    parts: tuple[tuple[str, tuple[Rule, ...], Callable[[History], Iterable[str]]], ...] = (
        ("1 order", (Rule.OVERLAP, Rule.SEQUENCE, Rule.STEP_ORDER, Rule.WRONG_ID), lambda _: ()),
        ("2 nobody waits for others", (), _waiting),
        ("3 nothing lost, nothing doubled", (Rule.UNFINISHED, Rule.UNEXPECTED, Rule.APPLIED_TWICE), records.check),
        ("4 checkpoints", (Rule.REPEATED, Rule.KEY_CHANGED, Rule.KEY_SHARED), _checkpoints),
        ("5 durable delays", (Rule.TOO_EARLY,), _delays),
        ("6 bounded", (), _bounded),
        ("the run itself", (), lambda history: history.failures),
    )
    return [
        Verdict(name, tuple([*(text for rule in rules for text in broken[rule]), *rest(history)]))
        for name, rules, rest in parts
    ]


def _expectations(history: History) -> DisturbedExpectations:
    workload = history.workload
    updates = [(record.user, record.offset) for record in workload.records if record.reason is None]
    updates += [(each.user, each.sequence) for each in workload.hand_made]
    return DisturbedExpectations(
        finished=[each for each in updates if each not in workload.refused],
        only=updates,
        busy_delay=BUSY_DELAY_SECONDS,
        freezes=_freezes(history),
        disturbances=history.disturbances,
    )


def _freezes(history: History) -> list[tuple[int, int]]:
    """When a controller stood still for so long that another may have worked meanwhile."""
    return [
        (each.start_ns, each.end_ns)
        for each in history.disturbances
        if each.kind == "freeze"
        and _part(each.target) == "controller"
        and each.end_ns - each.start_ns >= OVERTAKEN_AFTER * _SECOND
    ]


def _waiting(history: History) -> Iterator[str]:
    """All but the blocked user are done while that one still waits, and everything comes to rest."""
    if history.unsettled:
        yield f"not at rest in time: {history.unsettled}"
    if history.released_ns is None:
        return
    for call in history.calls:
        if call.user != BLOCKED_USER and call.time_ns > history.released_ns:
            yield f"call {call.number} of {call.update} came after {BLOCKED_USER} had been let through"
            return


def _checkpoints(history: History) -> Iterator[str]:
    yield from history.exits
    yield from _beyond_frozen(history, checkpoints.called_again(history.calls, history.sightings))
    if all(each.kind == "kill" and _part(each.target) in ("bridge", "controller") for each in history.disturbances):
        yield from (text for _, text in checkpoints.called_after_completion(history.calls, history.updates))
    yield from checkpoints.undone(history.sightings)


def _delays(history: History) -> Iterator[str]:
    yield from _beyond_frozen(history, checkpoints.called_early(history.calls, history.sightings))
    yield from checkpoints.forgotten(history.sightings)
    yield from _beyond_frozen(history, _suspended(history))


def _suspended(history: History) -> Iterator[tuple[str, str]]:
    for each in history.suspensions:
        troubled = any(
            _part(other.target) in _RECORDING
            and other.start_ns - _SECOND <= each.start_ns + ACTS_WITHIN * _SECOND
            and each.start_ns <= other.end_ns + AFTERMATH * _SECOND
            for other in history.disturbances
        )
        acts = each.start_ns + (AFTERMATH + ACTS_WITHIN if troubled else ACTS_WITHIN) * _SECOND
        for call in history.calls:
            if call.user == each.user and acts < call.time_ns < each.end_ns:
                late = (call.time_ns - each.start_ns) / 1e9
                yield each.user, f"call {call.number} of {call.update} began {late:.1f} s after its user was suspended"


def _beyond_frozen(history: History, breaches: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Without one call of each user for each time that a controller was frozen."""
    allowed = len(_freezes(history))
    seen: dict[str, int] = {}
    for user, message in breaches:
        seen[user] = seen.get(user, 0) + 1
        if seen[user] > allowed:
            yield message


def _bounded(history: History) -> Iterator[str]:
    limit = history.workload.spec["limits"]["maxObjects"]
    # Hand-made ones are nobody's to hold back; of the rest, each further replica may be 5 % over.
    most = limit * (1 + 0.05 * (history.bridges - 1)) + len(history.workload.hand_made)
    most += sum(record.reason == NAME_CONFLICT for record in history.workload.records)
    for sample in history.samples:
        if sample.unfinished > most:
            yield f"{sample.unfinished} UserUpdates were unfinished at once; {most:g} are allowed"
        if sample.backlogs > limit:
            yield f"{sample.backlogs} UserBacklogs were there at once; {limit} are allowed"


def _part(target: str) -> str:
    """bridge-2 → bridge; a link keeps its name."""
    role, _, rest = target.partition("-")
    return role if not rest or rest.isdigit() else target
