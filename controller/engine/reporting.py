"""What the working controller tells on its UpdateStream: condition Processing, counts by phase, users in the way."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping

from controller import errors, streamstatus
from controller.cluster import Body
from controller.engine.collection import Collection
from controller.engine.context import StreamContext
from controller.engine.registry import Registry
from controller.logs import fields
from controller.streams import UpdateStream
from controller.updates import Phase, Reason, UserUpdate

logger = logging.getLogger(__name__)

#: Seconds between reports, where something has changed.
PERIOD = 2.0

_SUSPENDED = frozenset({Reason.SUSPENDED, Reason.STREAM_SUSPENDED})


async def report(context: StreamContext, registry: Registry, collection: Collection) -> None:
    """Write what has changed, for ever, while the Lease is held."""
    while True:
        await asyncio.sleep(PERIOD)
        await context.lease.wait_held()
        own = summary(context.stream, registry, collection.counts)

        def change(status: Body, own: Body = own) -> Body | None:
            return merged(status, own, context)

        try:
            await streamstatus.change(context.cluster, context.stream.namespace, context.stream.name, change)
        except errors.ApiError as error:
            logger.warning("Status of the stream not written", extra=fields(cause=str(error)))


def merged(status: Body, own: Body, context: StreamContext) -> Body | None:
    """Ours laid over what is there; None where it says so already."""
    conditions = streamstatus.with_condition(status.get("conditions", []), own["condition"], context.now())
    patch = {"conditions": conditions, "counts": own["counts"], "users": own["users"]}
    same = all(_within(part, status.get(key)) for key, part in patch.items())
    return None if same else patch


def summary(stream: UpdateStream, unfinished: Iterable[UserUpdate], finished: Mapping[Phase, int]) -> Body:
    """Counts and condition of the stream, from what is known of its updates."""
    phases: Counter[str] = Counter()
    reasons: dict[Reason, set[str]] = {}
    for update in unfinished:
        phases[_bucket(update)] += 1
        if update.status.reason:
            reasons.setdefault(update.status.reason, set()).add(update.spec.user)
    suspended = {user for reason in _SUSPENDED for user in reasons.get(reason, ())}
    counts = {key: phases[key] for key in ("queued", "running", "waiting", "held")}
    return {
        "condition": _processing(stream, reasons),
        "counts": counts | {phase.lower(): count for phase, count in finished.items()},
        "users": {"held": len(reasons.get(Reason.HELD, ())), "suspended": len(suspended)},
    }


def _bucket(update: UserUpdate) -> str:
    if update.status.reason is Reason.HELD:
        return "held"
    return update.status.phase.lower() if update.status.phase else "queued"


def _processing(stream: UpdateStream, reasons: Mapping[Reason, set[str]]) -> Body:
    """A report, not a stop: one user's trouble does not keep others waiting."""
    if stream.suspend.processing:
        state = ("False", "Suspended", "spec.suspend.processing is set")
    elif users := reasons.get(Reason.STEP_MISCONFIGURED):
        message = f"a downstream refuses calls of {len(users)} users: check urls and credentials of the steps"
        state = ("False", "StepMisconfigured", message)
    else:
        state = ("True", "Processing", "updates are applied as they come")
    status, reason, message = state
    return {
        "type": "Processing",
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": stream.generation,
    }


def _within(part: object, whole: object) -> bool:
    """Whether a merge patch of `part` would leave `whole` as it is."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(_within(value, whole.get(key)) for key, value in part.items())
    return part == whole
