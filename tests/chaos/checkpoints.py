"""What the API server was seen to hold, against what the downstream was asked afterwards. Pure.

A sighting comes after the write that it shows, so a call that began after the sighting of its step's record began after
the record: no allowance for slowness is needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from devenv.journal import STEPS, Call
from tests.chaos.history import Sighting

_FINISHED = frozenset({"Succeeded", "Failed", "Skipped", "Cancelled"})


def nanoseconds(text: str) -> int:
    """Wall time of an RFC 3339 text, without the rounding of floats."""
    time = datetime.fromisoformat(text)
    return int(time.replace(microsecond=0).timestamp()) * 1_000_000_000 + time.microsecond * 1000


def name_of_key(key: str | None) -> tuple[str, str]:
    """(update, step) of an idempotency key: `namespace/name[/uid]/step/run`; empty where it is none."""
    parts = (key or "").split("/")
    return (parts[1], parts[-2]) if len(parts) in (4, 5) else ("", "")


def called_again(calls: Iterable[Call], sightings: Iterable[Sighting]) -> Iterator[tuple[str, str]]:
    """(user, sentence) of calls of a step that began after it had been seen recorded."""
    recorded: dict[tuple[str, str], int] = {}
    for seen in sightings:
        steps = STEPS if seen.phase == "Succeeded" else seen.steps
        for step in steps if seen.run == 0 else ():
            recorded.setdefault((seen.name, step), seen.time_ns)
    for call in calls:
        since = recorded.get(name_of_key(call.key))
        if since is not None and call.time_ns > since:
            late = (call.time_ns - since) / 1e9
            message = f"call {call.number} ({call.step} of {call.update}) began {late:.3f} s after the step was seen"
            yield call.user, f"{message} recorded in {name_of_key(call.key)[0]}"


def called_after_completion(calls: Iterable[Call], updates: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(user, sentence) of calls of a step after the one whose answer its record holds, by the final status.

    A record may be on its way while connections are cut, so this counts only where nothing but processes was killed.
    """
    done = {
        (update["metadata"]["name"], step["name"]): nanoseconds(step["completionTime"])
        for update in updates
        for step in (update.get("status") or {}).get("steps", ())
    }
    for call in calls:
        completed = done.get(name_of_key(call.key))
        if completed is not None and call.time_ns > completed:
            message = f"call {call.number} ({call.step} of {call.update}) began after the completionTime of its step"
            yield call.user, message


def called_early(calls: Iterable[Call], sightings: Iterable[Sighting]) -> Iterator[tuple[str, str]]:
    """(user, sentence) of calls that began before the nextAttemptTime that was seen in the status before them."""
    delays: dict[str, list[Sighting]] = defaultdict(list)
    for seen in sightings:
        if seen.next_attempt_ns is not None:
            delays[seen.name].append(seen)
    for call in calls:
        for seen in delays.get(name_of_key(call.key)[0], ()):
            assert seen.next_attempt_ns is not None
            if seen.time_ns < call.time_ns < seen.next_attempt_ns:
                early = (seen.next_attempt_ns - call.time_ns) / 1e9
                message = f"call {call.number} ({call.step} of {call.update}) began {early:.3f} s before its"
                yield call.user, f"{message} nextAttemptTime, seen {(call.time_ns - seen.time_ns) / 1e9:.3f} s before"


def undone(sightings: Iterable[Sighting]) -> Iterator[str]:
    """A finished update that is unfinished again, or a recorded step that is no longer."""
    for earlier, later in _successive(sightings):
        if earlier.phase in _FINISHED and later.phase != earlier.phase:
            yield f"{later.name} was {earlier.phase}, and is {later.phase or 'queued'} again"
        elif later.run == earlier.run and later.steps[: len(earlier.steps)] != earlier.steps:
            before, after = (", ".join(seen.steps) or "nothing" for seen in (earlier, later))
            yield f"{later.name} had recorded {before}, and later {after}"


def forgotten(sightings: Iterable[Sighting]) -> Iterator[str]:
    """Counts of the step in hand that went down."""
    for earlier, later in _successive(sightings):
        if (later.run, later.steps) != (earlier.run, earlier.steps) or later.phase in _FINISHED:
            continue
        for name, before, after in (
            ("attempts", earlier.attempts, later.attempts),
            ("busyCount", earlier.busy_count, later.busy_count),
        ):
            if after < before:
                yield f"{name} of {later.name} went from {before} to {after} at the same step"


def _successive(sightings: Iterable[Sighting]) -> Iterator[tuple[Sighting, Sighting]]:
    """Each sighting of an object with the one before it."""
    last: dict[tuple[str, str], Sighting] = {}
    for seen in sightings:
        if seen.deleted:
            continue
        if (earlier := last.get((seen.name, seen.uid))) is not None:
            yield earlier, seen
        last[seen.name, seen.uid] = seen
