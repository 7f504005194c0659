"""What the working controller tells on its UpdateStream: condition Processing, counts by phase, users in the way."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from controller import errors, streamstatus
from controller.cluster import Body
from controller.engine import metrics
from controller.engine.collection import Collection
from controller.engine.context import StreamContext
from controller.engine.registry import Registry
from controller.logs import fields
from controller.streams import UpdateStream
from controller.updates import Phase, Reason, UserUpdate

logger = logging.getLogger(__name__)

#: Seconds between reports, where something has changed.
PERIOD = 2.0


@dataclass(frozen=True, slots=True)
class Condition:
    ok: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Summary:
    processing: Condition
    #: Updates by phase; `waiting` without the held ones.
    counts: dict[str, int]
    #: Users that are held, suspended.
    users: dict[str, int]


async def report(context: StreamContext, registry: Registry, collection: Collection) -> None:
    """Write what has changed, for ever, while the Lease is held. Raises NotFound when the stream was deleted."""
    stream = context.stream
    status = streamstatus.StreamStatus(context.cluster, stream.namespace, stream.name, stream.uid)
    while True:
        await asyncio.sleep(PERIOD)
        await context.lease.wait_held()
        own = summary(context.stream, registry, collection.counts)
        for state in ("queued", "running", "waiting", "held"):
            metrics.UNFINISHED.labels(context.label, state).set(own.counts[state])
        for state, count in own.users.items():
            metrics.USERS.labels(context.label, state).set(count)
        try:
            await status.apply(partial(_laid_over, own, context))
        except errors.NotFound:
            raise
        except errors.ApiError as error:
            logger.warning("Status of the stream not written", extra=fields(cause=str(error)))


def _laid_over(own: Summary, context: StreamContext, status: Body) -> Body:
    """What is there where somebody else may hold the Lease by now: it is for them to tell."""
    if not context.lease.held:
        return status
    condition, generation, now = own.processing, context.stream.generation, context.now()
    status = streamstatus.with_condition(
        status, "Processing", condition.ok, condition.reason, condition.message, generation=generation, now=now
    )
    counts, users = status.get("counts") or {}, status.get("users") or {}
    return {**status, "counts": {**counts, **own.counts}, "users": {**users, **own.users}}


def summary(stream: UpdateStream, unfinished: Iterable[UserUpdate], finished: Mapping[Phase, int]) -> Summary:
    """Condition and counts of the stream, from what is known of its updates."""
    phases: Counter[str] = Counter()
    users: defaultdict[Reason, set[str]] = defaultdict(set)
    for update in unfinished:
        phases[_bucket(update)] += 1
        if update.status.reason:
            users[update.status.reason].add(update.spec.user)
    counts = {key: phases[key] for key in ("queued", "running", "waiting", "held")}
    counts |= {phase.lower(): count for phase, count in finished.items()}
    suspended = users[Reason.SUSPENDED] | users[Reason.STREAM_SUSPENDED]
    ways = {"held": len(users[Reason.HELD]), "suspended": len(suspended)}
    return Summary(_processing(stream, len(users[Reason.STEP_MISCONFIGURED])), counts, ways)


def _bucket(update: UserUpdate) -> str:
    if update.status.reason is Reason.HELD:
        return "held"
    return update.status.phase.lower() if update.status.phase else "queued"


def _processing(stream: UpdateStream, refused: int) -> Condition:
    """A report, not a stop: one user's trouble does not keep others waiting."""
    if stream.suspend.processing:
        return Condition(False, "Suspended", "spec.suspend.processing is set")
    if refused:
        message = f"a downstream refuses the calls of {refused} users: check urls and credentials of the steps"
        return Condition(False, "StepMisconfigured", message)
    return Condition(True, "Processing", "updates are applied as they come")
