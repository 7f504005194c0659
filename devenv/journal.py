"""Judges the guarantees by the downstream's journal: calls in, violations out. Pure.

It shares no code with the controller that it judges, and is tested with histories that break each rule. A call carries
no namespace, so streams of the same name in two namespaces need a journal each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from itertools import pairwise
from typing import Any, TypeAlias

STEPS = ("profile", "permissions", "resources")
#: The id that a step's success answers with.
OWED: Mapping[str, str] = {"profile": "userId", "permissions": "roleId"}
#: Bytes of an answer above which it is no success.
MAX_ANSWER = 65536
#: Seconds for which a controller must be frozen before its Lease can be another's: its 10 s less a renewal's period.
OVERTAKEN_AFTER = 7.0


@dataclass(frozen=True, slots=True)
class Call:
    """One call, from the record of its begin to that of its end."""

    number: int
    time_ns: int
    step: str
    stream: str
    user: str
    sequence: int | None
    source: str | None
    key: str | None
    body: Any
    #: Record number and time at which it was answered or its connection was gone; None while it runs.
    end: int | None = None
    end_time_ns: int | None = None
    #: None where no answer was sent.
    status: int | None = None
    answer: Any = None
    retry_after: str | None = None
    #: It was done by this very call, and not before.
    applied: bool = False
    gone: bool = False

    @property
    def update(self) -> UpdateId:
        return UpdateId(self.stream, self.user, self.source, self.sequence)

    @property
    def busy(self) -> bool:
        if self.status in (429, 503):
            return True
        return self._is_2xx and isinstance(self.answer, dict) and self.answer.get("status") == "NOT_READY"

    @property
    def succeeded(self) -> bool:
        """The answer had all that the step must return. Whether the client received it is not known."""
        if not self._is_2xx or self.busy:
            return False
        size = self.answer.get("bytes", 0) if isinstance(self.answer, dict) else 0
        return self.step not in OWED or (isinstance(self.given_id, str) and size <= MAX_ANSWER)

    @property
    def given_id(self) -> Any:
        return self.answer.get(OWED.get(self.step)) if isinstance(self.answer, dict) else None

    @property
    def _is_2xx(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class UpdateId:
    """An update's identity, as far as the downstream can tell updates apart."""

    stream: str
    user: str
    source: str | None
    sequence: int | None

    def __str__(self) -> str:
        return f"{self.user} #{self.sequence} of {self.stream} ({self.source})"


class Rule(StrEnum):
    """The rules that a history can break."""

    OVERLAP = "Overlap"
    SEQUENCE = "Sequence"
    STEP_ORDER = "StepOrder"
    REPEATED = "Repeated"
    APPLIED_TWICE = "AppliedTwice"
    KEY_CHANGED = "KeyChanged"
    KEY_SHARED = "KeyShared"
    WRONG_ID = "WrongId"
    TOO_EARLY = "TooEarly"
    UNFINISHED = "Unfinished"
    UNEXPECTED = "Unexpected"


@dataclass(frozen=True, slots=True)
class Violation:
    rule: Rule
    #: A sentence for people; calls are named by the numbers of their begin records.
    message: str
    #: The calls that are out of place.
    calls: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.rule}: {self.message}"


def read_calls(records: Iterable[Mapping[str, Any]]) -> list[Call]:
    """The calls of a journal, in the order of their begin. A restart of the downstream ends those that were open."""
    begun: dict[int, Mapping[str, Any]] = {}
    ends: dict[int, tuple[int, int]] = {}
    last: dict[int, Mapping[str, Any]] = {}
    for record in records:
        number, kind = record["n"], record["kind"]
        at = (number, record["time"])
        if kind == "begin":
            begun[number] = record
        elif kind == "start":
            ends.update({call: at for call in begun.keys() - ends.keys()})
        elif record["call"] in begun:
            ends.setdefault(record["call"], at)
            if kind == "end":
                last[record["call"]] = record
    return [_call(begin, ends.get(number), last.get(number, {})) for number, begin in begun.items()]


def _call(begin: Mapping[str, Any], ended: tuple[int, int] | None, end: Mapping[str, Any]) -> Call:
    return Call(
        number=begin["n"],
        time_ns=begin["time"],
        **{name: begin[name] for name in ("step", "stream", "user", "sequence", "source", "key", "body")},
        end=ended[0] if ended else None,
        end_time_ns=ended[1] if ended else None,
        status=end.get("status"),
        answer=end.get("answer"),
        retry_after=end.get("retryAfter"),
        applied=end.get("applied") is not None,
        gone=end.get("gone", ended is not None and not end),
    )


@dataclass(frozen=True, slots=True)
class Expectations:
    """The expectations of a workload on its history."""

    #: (user, sequence) of updates that must have succeeded.
    finished: Collection[tuple[str, int]] = ()
    #: Where given: no other update may have been called at all.
    only: Collection[tuple[str, int]] | None = None
    #: Seconds until the next call after a busy answer without a sensible Retry-After.
    busy_delay: float = 5.0
    #: With Coalesced checkpoints, finished steps of an unfinished update may be repeated after a crash.
    coalesced: bool = False
    #: Updates whose steps a person asked to be done again: further keys, and steps done more than once.
    rerun: Collection[tuple[str, int]] = ()
    #: Wall times in ns at which a controller was killed, or its successor took over: an answer may be unrecorded.
    crashes: Collection[int] = ()
    #: Where it is not known what was recorded: an answer longer before a crash was.
    checkpoint_seconds: float = 2.0
    #: Wall times in ns, by key, at which the success that the API server has recorded of a step was answered.
    recorded: Mapping[str, int] | None = None
    #: Answers may be lost between downstream and controller: a step that succeeded or was busy may come again.
    lossy: bool = False
    #: Wall times in ns from when until when a controller was frozen: each time, one call of each user that was in
    #: flight then, or that was sent as it thawed, may be out of place.
    freezes: Collection[tuple[int, int]] = ()

    def is_unrecorded(self, call: Call, later: Call) -> bool:
        """Whether the controller that made the `later` call may not have known how this one ended."""
        if call.end_time_ns is None or call.gone or self.lossy:
            return True
        if self.recorded is None or not call.succeeded:
            return any(0 <= crash - call.end_time_ns <= self.checkpoint_seconds * 1e9 for crash in self.crashes)
        seen_late = self.recorded.get(call.key or "", later.time_ns) >= later.time_ns
        return seen_late and self.may_change_hands(call, later)

    def may_change_hands(self, call: Call, later: Call) -> bool:
        """Whether the `later` call may come from a controller that knows of the earlier one by its record alone."""
        return self.lossy or any(call.time_ns <= crash <= later.time_ns for crash in self.crashes)

    def is_rerun(self, call: Call) -> bool:
        return (call.user, call.sequence) in self.rerun


def check(calls: Sequence[Call], expected: Expectations | None = None) -> list[Violation]:
    """All violations of a history, in no particular order."""
    want = expected or Expectations()
    users: dict[tuple[str, str], list[Call]] = defaultdict(list)
    for call in sorted(calls, key=lambda call: call.number):
        users[call.stream, call.user].append(call)
    found = list(_check_keys(calls))
    for history in users.values():
        found += _check_order(history, want)
        for update in _by_update(history).values():
            found += [violation for rule in _UPDATE_RULES for violation in rule(update, want)]
    return found + list(_check_expected(calls, want))


def _check_order(history: list[Call], want: Expectations) -> list[Violation]:
    """The rules of order. As many calls are left out as frozen controllers may have let through."""
    found = _order_violations(history, want)
    for frozen in want.freezes:
        suspects = {number for violation in found for number in violation.calls}
        strays = [call for call in history if call.number in suspects and _may_be_stray(call, *frozen)]
        without = [history, *([call for call in history if call is not stray] for stray in strays)]
        history = min(without, key=lambda rest: len(_order_violations(rest, want)))
        found = _order_violations(history, want)
    return found


def _may_be_stray(call: Call, start: int, end: int) -> bool:
    """Whether a controller that was frozen then may have made it, and nobody else."""
    in_flight = call.time_ns < start + OVERTAKEN_AFTER * 1e9 and (call.end_time_ns is None or call.end_time_ns >= start)
    return in_flight or call.time_ns >= end


def _order_violations(history: list[Call], want: Expectations) -> list[Violation]:
    found = [violation for rule in _USER_RULES for violation in rule(history, want)]
    for update in _by_update(history).values():
        found += [*_check_step_order(update, want), *_check_repeats(update, want)]
    return found


def _by_update(history: Iterable[Call]) -> dict[UpdateId, list[Call]]:
    updates: dict[UpdateId, list[Call]] = defaultdict(list)
    for call in history:
        updates[call.update].append(call)
    return updates


def _check_overlap(history: list[Call], want: Expectations) -> Iterator[Violation]:
    open_calls: list[Call] = []
    for call in history:
        open_calls = [other for other in open_calls if other.end is None or other.end > call.number]
        for other in open_calls:
            if other.key != call.key:
                message = f"call {call.number} ({call.step} of {call.update}) began while call {other.number} "
                message += f"({other.step} of {other.update}) was running"
                yield Violation(Rule.OVERLAP, message, (other.number, call.number))
        open_calls.append(call)


def _check_sequence(history: list[Call], want: Expectations) -> Iterator[Violation]:
    """Updates of one source run by rising sequence, and none comes back. People may make theirs in any order."""
    sources: dict[str | None, list[Call]] = defaultdict(list)
    for call in history:
        sources[call.source].append(call)
    for source, calls in sources.items():
        for earlier, later in pairwise(calls):
            if source == "manual" or want.is_rerun(later):
                continue
            if (later.sequence or 0) < (earlier.sequence or 0):
                message = f"call {later.number} ({later.step} of {later.update}) came after #{earlier.sequence}"
                message += f" had begun, in call {earlier.number}"
                yield Violation(Rule.SEQUENCE, message, (earlier.number, later.number))


def _check_return(history: list[Call], want: Expectations) -> Iterator[Violation]:
    """Once another update of the user is called, whatever its source, the one before is over for good."""
    made, left = defaultdict[UpdateId, list[Call]](list), set[UpdateId]()
    for earlier, later in pairwise(history):
        made[earlier.update].append(earlier)
        if earlier.update != later.update:
            left.add(earlier.update)
        if later.update in left and not want.is_rerun(later):
            left.discard(later.update)
            if earlier.source != later.source and _is_unbegun(made[later.update], later, want):
                continue
            message = f"call {later.number} returned to {later.update} after another update of this user had begun"
            yield Violation(Rule.SEQUENCE, message, (earlier.number, later.number))


def _is_unbegun(calls: list[Call], later: Call, want: Expectations) -> bool:
    """Whether a controller ended before anything of it was recorded: one of another source may then come first."""
    unrecorded = all(call.step == STEPS[0] and want.is_unrecorded(call, later) for call in calls)
    return unrecorded and want.may_change_hands(calls[-1], later)


def _check_step_order(calls: list[Call], want: Expectations) -> Iterator[Violation]:
    succeeded: set[str] = set()
    furthest = 0
    for call in calls:
        index = STEPS.index(call.step)
        for step in STEPS[:index]:
            if step not in succeeded:
                message = f"call {call.number} is {call.step} of {call.update}, though {step} has not succeeded"
                yield Violation(Rule.STEP_ORDER, message, (call.number,))
        if index < furthest and not want.coalesced and not want.is_rerun(call):
            message = f"call {call.number} repeats {call.step} of {call.update} after {STEPS[furthest]} was called"
            yield Violation(Rule.STEP_ORDER, message, (call.number,))
        furthest = max(furthest, index)
        if call.succeeded:
            succeeded.add(call.step)


def _check_applied(calls: list[Call], want: Expectations) -> Iterator[Violation]:
    for step in STEPS:
        applied = [call for call in calls if call.step == step and call.applied]
        if len(applied) > 1 and not want.is_rerun(applied[0]):
            numbers = ", ".join(str(call.number) for call in applied)
            yield Violation(Rule.APPLIED_TWICE, f"{step} of {applied[0].update} was done by the calls {numbers}")


def _check_repeats(calls: list[Call], want: Expectations) -> Iterator[Violation]:
    """A step is not called again once its success must be recorded."""
    last: dict[str, Call] = {}
    for call in calls:
        earlier = last.get(call.step)
        last[call.step] = call
        if earlier is None or not earlier.succeeded or want.is_unrecorded(earlier, call) or want.is_rerun(call):
            continue
        message = f"call {call.number} repeats {call.step} of {call.update}, which call {earlier.number} was answered"
        yield Violation(Rule.REPEATED, message, (earlier.number, call.number))


def _check_same_key(calls: list[Call], want: Expectations) -> Iterator[Violation]:
    """Updates made by hand may share a sequence, so their keys cannot be judged by it."""
    if calls[0].source == "manual" or want.is_rerun(calls[0]):
        return
    first: dict[str, Call] = {}
    for call in calls:
        known = first.setdefault(call.step, call)
        if call.key != known.key:
            message = f"{call.step} of {call.update} had the key {known.key} in call {known.number}"
            yield Violation(Rule.KEY_CHANGED, f"{message} and {call.key} in call {call.number}")


def _check_ids(calls: list[Call], want: Expectations) -> Iterator[Violation]:
    given: dict[str, set[Any]] = defaultdict(set)
    for call in calls:
        body = call.body if isinstance(call.body, dict) else {}
        for name in ("userId", "roleId"):
            if name in body and body[name] not in given[name]:
                message = f"call {call.number} ({call.step} of {call.update}) passed on {name} {body[name]!r}"
                yield Violation(Rule.WRONG_ID, f"{message}, which no call of this update was given")
        if call.succeeded and call.step in OWED:
            given[OWED[call.step]].add(call.given_id)


def _check_delays(calls: list[Call], want: Expectations) -> Iterator[Violation]:
    for earlier, later in pairwise(calls):
        if not earlier.busy or want.is_unrecorded(earlier, later) or earlier.end_time_ns is None:
            continue
        due = earlier.end_time_ns + asked_delay(earlier, want.busy_delay) * 1e9
        if later.time_ns < due:
            message = f"call {later.number} ({later.step} of {later.update}) came {(due - later.time_ns) / 1e9:.3f} s"
            yield Violation(Rule.TOO_EARLY, f"{message} before call {earlier.number}, which was busy, asked it to")


def asked_delay(call: Call, default: float) -> float:
    """Seconds that a busy answer asked for: its Retry-After within 1 and 300, else the default."""
    text = (call.retry_after or "").strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return min(max(float(text), 1.0), 300.0)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return default
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    ended = datetime.fromtimestamp((call.end_time_ns or 0) / 1e9, UTC)
    return min(max((date - ended).total_seconds(), 1.0), 300.0)


def _check_keys(calls: Iterable[Call]) -> Iterator[Violation]:
    """A key belongs to one step of one update."""
    owners: dict[str, Call] = {}
    for call in calls:
        if call.key is None:
            yield Violation(Rule.KEY_SHARED, f"call {call.number} ({call.step} of {call.update}) has no key")
            continue
        owner = owners.setdefault(call.key, call)
        if (owner.update, owner.step) != (call.update, call.step):
            message = f"the key {call.key} is that of {owner.step} of {owner.update} in call {owner.number}"
            yield Violation(Rule.KEY_SHARED, f"{message} and of {call.step} of {call.update} in call {call.number}")


def _check_expected(calls: Iterable[Call], want: Expectations) -> Iterator[Violation]:
    finished = {(call.user, call.sequence) for call in calls if call.step == STEPS[-1] and call.succeeded}
    for user, sequence in sorted(set(want.finished) - finished):
        yield Violation(Rule.UNFINISHED, f"{user} #{sequence} has not succeeded")
    if want.only is not None:
        called = {(call.user, call.sequence) for call in calls}
        for user, number in sorted(called - set(want.only), key=str):
            yield Violation(Rule.UNEXPECTED, f"{user} #{number} was called, but there is no such update")


_Check: TypeAlias = Callable[[list[Call], Expectations], Iterator[Violation]]
_USER_RULES: tuple[_Check, ...] = (_check_overlap, _check_sequence, _check_return)
_UPDATE_RULES: tuple[_Check, ...] = (_check_applied, _check_same_key, _check_ids, _check_delays)
