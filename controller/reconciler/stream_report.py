"""The controller's part of an UpdateStream's status: condition Processing, updates by phase, users who wait.

Where a stream is divided, each shard's worker writes the entry of its shard, and the sums over all entries with it, in
one patch.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from controller import errors
from controller.api.update_stream import UpdateStream
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Phase, Reason
from controller.clients import stream_status
from controller.clients.cluster import Body
from controller.core.sharding import Shard
from controller.core.step_health import STEP_REASONS, StepReport, of_all_shards
from controller.reconciler import metrics
from controller.reconciler.cache import Cache
from controller.reconciler.context import ShardContext
from controller.reconciler.retention import Collector

#: Seconds between reports.
PERIOD = 2.0
#: Seconds until a report that the API server has refused is tried again.
REFUSED_PERIOD = 15.0
MAX_MESSAGE = 1000


@dataclass(frozen=True, slots=True)
class Condition:
    """The condition Processing, without its generation and time."""

    ok: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Summary:
    """A stream, or one of its shards, in numbers."""

    #: Updates by phase, as far as they are known; `waiting` without the held ones.
    counts: dict[str, int]
    #: Users that are held, suspended, or wait for an object that this version does not understand (unreadable).
    users: dict[str, int]
    #: The health of each step.
    steps: tuple[StepReport, ...] = ()
    #: The first object that this version does not understand, and why, for people; empty where there is none.
    unreadable: str = ""
    #: The first update whose status the API server refuses to write, and why; empty where there is none.
    refused_write: str = ""


async def report(context: ShardContext, cache: Cache, collector: Collector, gauges: metrics.ShardGauges) -> None:
    """Write what has changed, for ever, while the Lease is held. Raises NotFound when the stream was deleted.

    The watch shows what others have written over it.
    """
    while True:
        await asyncio.sleep(PERIOD)
        await context.lease.wait_held()
        if not cache.listed:
            continue  # the Lease was just acquired, and nothing is known yet
        own = replace(
            summary(cache, collector.counts, context.in_doubt.values()),
            steps=context.health.reports(cache, time.monotonic()),
            refused_write=_refused_write(context, cache),
        )
        for state in ("queued", "running", "waiting", "held"):
            gauges.set(metrics.UNFINISHED.labels(*context.stream_labels, state), own.counts[state])
        refused, failing = (sum(getattr(step, kind) for step in own.steps) for kind in ("refused", "failing"))
        for state, count in {**own.users, "misconfigured": refused, "failing": failing}.items():
            gauges.set(metrics.USERS.labels(*context.stream_labels, state), count)
        change = partial(_with_report, own, context)
        if not context.shared.status.would_change(change):
            continue
        try:
            await context.shared.status.apply(change)
        except errors.NotFound:
            raise
        except errors.ApiError:  # refused; the log says so
            await asyncio.sleep(REFUSED_PERIOD)


def _refused_write(context: ShardContext, cache: Cache) -> str:
    """The first update whose status the API server refuses to write, for people. Deleted ones are forgotten."""
    refusals = context.refusals
    for name in [name for name, (update, _) in refusals.items() if not cache.has(update)]:
        del refusals[name]
    return min((f"{name} ({message})" for name, (_, message) in refusals.items()), default="")[:1024]


async def report_refused(context: ShardContext) -> None:
    """Report, for ever, a Lease that the API server refuses, and that therefore nobody can acquire.

    The controller that acquires it one day reports that all is well. Raises NotFound when the stream was deleted.
    """
    while True:
        await asyncio.sleep(PERIOD)
        if not (message := context.lease.refused):
            continue
        change = partial(_refused, message[:MAX_MESSAGE], context)
        if context.shared.status.would_change(change):
            await context.shared.status.apply(change)


def _refused(message: str, context: ShardContext, status: Body) -> Body:
    known = stream_status.condition(status, "Processing")
    if not context.lease.refused or (known and known["reason"] == stream_status.LEASE_REFUSED):
        return status
    generation = context.stream.generation
    return stream_status.with_condition(
        status, "Processing", False, stream_status.LEASE_REFUSED, message, generation=generation, now=context.now()
    )


def _with_report(own: Summary, context: ShardContext, status: Body) -> Body:
    """The status with our report; unchanged where another controller may hold the Lease by now, and reports."""
    if not context.lease.held:
        return status
    stream, count = context.stream, context.shard.count
    shards = with_entry(status.get("shards") or (), own, context.shard, context.shared.process.identity)
    whole = total(shards) if shards else own
    if not shards or len(shards) == count:  # else the condition stays: the other shards are about to be worked on
        known = stream_status.condition(status, "Processing")
        condition = processing(stream, whole, known["reason"] if known else "")
        status = stream_status.with_condition(
            status,
            "Processing",
            condition.ok,
            condition.reason,
            condition.message,
            generation=stream.generation,
            now=context.now(),
        )
    if message := context.shared.process.processes.no_bridge:
        status = stream_status.with_unknown(status, "Consuming", stream_status.NO_BRIDGE, message, context.now())
    counts, users = status.get("counts") or {}, status.get("users") or {}
    return {
        **status,
        "counts": {**counts, **whole.counts},
        "users": {**users, **whole.users},
        "shards": shards or None,
    }


def with_entry(entries: Iterable[Body], own: Summary, shard: Shard, holder: str) -> list[Body]:
    """The entries of all shards, with ours as it stands now; none where the stream is not divided."""
    if shard.count == 1:
        return []
    found = {entry["shard"]: entry for entry in entries if entry["shard"] < shard.count}
    users = {**own.users, "refused": sum(step.refused for step in own.steps)}
    before = found.get(shard.index, {})  # what is not known yet stays as it was
    counts = {**before.get("counts", {}), **own.counts}
    entry = {"shard": shard.index, "holder": holder, "counts": counts, "users": users}
    troubles = {"unreadable": own.unreadable, "refusedWrite": own.refused_write}
    found[shard.index] = entry | {key: text for key, text in troubles.items() if text}
    # A step that works is in the entry only where some user of some shard waits at it.
    asked = {step["name"] for other in found.values() for step in other.get("steps") or () if _waits(step)}
    written = {step["name"]: step for step in before.get("steps") or ()}
    known = (step.for_status() if step.complete else written.get(step.name) for step in own.steps)
    steps = [step for step in known if step and (_waits(step) or step["name"] in asked)]
    found[shard.index] |= {"steps": steps} if steps else {}
    return [found[index] for index in sorted(found)]


def total(entries: Iterable[Body]) -> Summary:
    counts: Counter[str] = Counter()
    users: Counter[str] = Counter()
    troubles: defaultdict[str, list[str]] = defaultdict(list)
    steps: list[StepReport] = []
    for entry in (entries := list(entries)):
        counts.update(entry["counts"])
        users.update(entry["users"])
        for trouble in ("unreadable", "refusedWrite"):
            troubles[trouble] += [entry[trouble]] if entry.get(trouble) else []
        steps += map(StepReport.from_body, entry.get("steps") or ())
    users.pop("refused", None)  # the steps have it
    unreadable, refused_write = (min(troubles[trouble], default="") for trouble in ("unreadable", "refusedWrite"))
    return Summary(dict(counts), dict(users), of_all_shards(steps, len(entries)), unreadable, refused_write)


def summary(
    unfinished: Iterable[UserUpdate], finished: Mapping[Phase, int], in_doubt: Iterable[UserUpdate] = ()
) -> Summary:
    """Counts of the stream, or of one of its shards, by its updates.

    `in_doubt` are placeholders for some of them, whose status an outcome could not be written to.
    """
    phases: Counter[str] = Counter()
    users: defaultdict[Reason, set[str]] = defaultdict(set)
    not_understood = list(in_doubt)
    for update in unfinished:
        phases[_state(update)] += 1
        if update.status.reason:
            users[update.status.reason].add(update.spec.user)
        if update.unreadable:
            not_understood.append(update)
    counts = {key: phases[key] for key in ("queued", "running", "waiting", "held")}
    counts |= {phase.lower(): count for phase, count in finished.items()}
    suspended = users[Reason.SUSPENDED] | users[Reason.STREAM_SUSPENDED]
    ways = {
        "held": len(users[Reason.HELD]),
        "suspended": len(suspended),
        "unreadable": len({update.spec.user for update in not_understood}),
    }
    first = min((f"{each.name} ({each.unreadable.cause})" for each in not_understood if each.unreadable), default="")
    return Summary(counts, ways, unreadable=first[:1024])


def _state(update: UserUpdate) -> str:
    if update.status.reason is Reason.HELD:
        return "held"
    return update.status.phase.lower() if update.status.phase else "queued"


def _waits(step: Body) -> bool:
    return bool(step["refused"] + step["failing"])


def processing(stream: UpdateStream, found: Summary, before: str = "") -> Condition:
    """The condition Processing; `before` is its reason until now. It only reports, and stops nothing."""
    if stream.suspend.processing:
        return Condition(False, "Suspended", "spec.suspend.processing is set")
    if found.unreadable:
        users = found.users["unreadable"]
        message = (
            f"{users} users wait for updates that this version does not understand, {found.unreadable} first:"
            " upgrade the controller, or delete them"
        )
        return Condition(False, "UpdateUnreadable", message)
    if found.refused_write:
        message = (
            f"the API server refuses to write what became of updates, {found.refused_write} first: their users wait;"
            " see its policies and the controller's rights"
        )
        return Condition(False, "StatusRefused", message)
    troubled = [step for step in found.steps if step.waiting]
    blamed = {step: reason for step in troubled if (reason := step.blame(standing=before in STEP_REASONS))}
    waiting = "; ".join(str(step) for step in sorted(troubled, key=lambda step: step not in blamed))
    if blamed:
        return Condition(False, next(iter(blamed.values())), waiting)
    applied = "updates are applied as they come"
    return Condition(True, "Processing", f"{applied}; {waiting}" if waiting else applied)
