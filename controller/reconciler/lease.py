"""One controller works on a stream, or a shard of it, at a time: a coordination.k8s.io Lease, held by renewals.

resourceVersion fences writes, the Lease fences calls: the holder checks a monotonic deadline right before each of
them, and at the deadline it closes the connections of its calls in flight. The arithmetic is client-go's
(leaderelection: lease duration > renew deadline > retry period), counted from when a renewal was *sent*.

Controllers may differ for a while in how many shards they see. So a Lease counts only once a list, asked for after it
was acquired, shows none alive that divides the stream otherwise (docs/decisions/0005-shards.md).
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import Any

from controller import errors, failpoints
from controller.api import names, timestamps
from controller.clients.cluster import LEASES, Body, Cluster
from controller.core.sharding import Shard
from controller.logs import fields, retrying, sparingly
from controller.reconciler.lease_watch import DURATION, POLL_PERIOD, TIMEOUT
from controller.reconciler.sharing import Sharing

logger = logging.getLogger(__name__)

#: Seconds after the sending of the last good renewal at which the holder stops by itself.
DEADLINE = 10.0
RENEW_PERIOD = 2.0
#: Seconds by which one who holds all but one of a stream's shards lets others go first where that one is free.
SPREAD_SECONDS = 1.5
#: Seconds between looks at one that is free and left to others for a moment: who has waited goes first.
FREE_POLL_PERIOD = 0.05
#: Seconds after which writes that fail are reported.
REFUSED_SECONDS = 5.0
#: Seconds for which one that was given away is left to others.
YIELD_SECONDS = 2.0


class Lease:
    """Acquires, renews and reports one Lease. `tenure` is raised whenever somebody else may have worked there before.

    `siblings`: this process's Leases of the stream, this one among them.
    """

    def __init__(
        self,
        cluster: Cluster,
        sharing: Sharing,
        namespace: str,
        stream: str,
        shard: Shard,
        identity: str,
        siblings: list[Lease],
    ) -> None:
        self.tenure = 0
        #: It, or one that divides the stream otherwise, has been seen in another's hands.
        self.foreign = False
        self._cluster = cluster
        self._sharing = sharing
        self._leases = sharing.leases
        self._namespace = namespace
        self._stream = stream
        self._name = names.lease_name(stream, shard.index, shard.count)
        self._shape = frozenset(names.lease_name(stream, index, shard.count) for index in range(shard.count))
        self._identity = identity
        self._siblings = siblings
        siblings.append(self)
        self._body: Body | None = None
        #: When (monotonic) it was renewed last, and reached for first.
        self._renewed = float("-inf")
        self._wanted = time.monotonic()
        self._reaching = False
        #: Until when (monotonic) it is left to others, who are to have it.
        self._yielded = float("-inf")
        #: Why the last attempt failed, empty if it did not; and since when (monotonic) attempts have failed.
        self._error = ""
        self._failing = 0.0
        #: Whether it was the API server that said so.
        self._answered = False
        #: `acquireTime` of our tenure: tells our own Lease from that of an earlier process of the same identity.
        self._acquired = ""
        #: It was acquired, and its tenure has not begun: that waits until it counts.
        self._new = False
        #: Versions of the stream's other Leases when it counted last: another one tells of another controller's work.
        self._others: dict[str, str] = {}
        self._deadline = 0.0
        self._held = asyncio.Event()
        self._lapsed = asyncio.Event()
        self._lapse: asyncio.TimerHandle | None = None

    @property
    def held(self) -> bool:
        """True while nobody else may hold it, by this process's monotonic clock."""
        return time.monotonic() < self._deadline

    @property
    def taken(self) -> bool:
        """The object is ours, or may be in a moment, whether it counts yet or not."""
        return self._reaching or time.monotonic() < self._renewed + DURATION

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self._namespace, self._name

    @property
    def crowding(self) -> int:
        """How many more of the stream's shards this process holds."""
        return sum(lease.taken for lease in self._siblings if lease is not self)

    async def wait_held(self) -> None:
        while not self.held:
            self._held.clear()
            await self._held.wait()

    async def wait_lapsed(self, tenure: int) -> None:
        """Return when it is held no more, or by another tenure than that one."""
        while self.held and self.tenure == tenure:
            await self._lapsed.wait()

    async def keep(self) -> None:
        """Acquire and renew for ever, whatever the API server answers."""
        self._sharing.join(self)
        await self._leases.synced(self._namespace)
        while True:
            if self.taken or self._may_reach():
                await self._try()
                await asyncio.sleep(RENEW_PERIOD if self.held or self.refused else POLL_PERIOD)
            else:
                await asyncio.sleep(FREE_POLL_PERIOD if self._free else POLL_PERIOD)

    async def _try(self) -> None:
        self._reaching = True
        try:
            async with asyncio.timeout(TIMEOUT + 1):
                await self._acquire_or_renew()
                if self._body and not self.held:
                    await self._make_it_count()
        except errors.NotFound:
            self._body, self._renewed = None, float("-inf")
            self._lapse_now()  # deleted: whoever makes it again holds it
        except (errors.ApiError, TimeoutError) as error:
            self._body = None
            self._failed(error)
        else:
            self._error = ""
        finally:
            self._reaching = False

    def _failed(self, error: Exception) -> None:
        """Log each cause once, held or not: a policy, a quota or a webhook may refuse the Lease for hours."""
        if isinstance(error, errors.Conflict | errors.AlreadyExists) and not self.held:
            self._error = ""  # another one was faster
            return
        answered = isinstance(error, errors.ApiError) and error.status > 0
        if not self._error or answered > self._answered:  # an API server that is away refuses nothing
            self._failing = time.monotonic()
        if (cause := str(error) or "no answer in time") != self._error:
            what = "renewed" if self.held else "acquired"
            retrying(logger, f"Lease not {what}", error, lease=self._path)
        self._error = cause
        self._answered = answered

    @property
    def refused(self) -> str:
        """Why nobody can have it: what the API server has answered for a while. Empty where it gives no answer."""
        refused = self._error and self._answered and not self.held
        if not refused or time.monotonic() - self._failing < REFUSED_SECONDS:
            return ""
        seen = self._leases.seen(self._namespace, self._name)
        if seen and not seen.free and seen.holder != self._identity:
            return ""
        return f"Lease {self._path} cannot be written, and without it nothing is called: {self._error}"

    @property
    def _free(self) -> bool:
        """Nobody holds it, as far as is known."""
        seen = self._leases.seen(self._namespace, self._name)
        return seen is None or seen.free

    def _may_reach(self) -> bool:
        """Whether to read it, and to take it where it is free; who holds many, or more of the stream, waits."""
        now = time.monotonic()
        if now < self._yielded:
            return False
        seen = self._leases.seen(self._namespace, self._name)
        if seen and self._leases.there(self._namespace, self._name):
            if seen.holder == self._identity:
                return True
            if not seen.free:
                self.foreign = True
                return False
            since = seen.free_since
        else:  # it is not there; or it is an earlier version's, without a label
            since = self._wanted
        return now - since >= max(self._sharing.patience, SPREAD_SECONDS * self.crowding / len(self._shape))

    def leave_to_others(self) -> None:
        """Do not reach for it for a moment: it is given away for another one to take."""
        self._yielded = time.monotonic() + YIELD_SECONDS

    async def release(self) -> None:
        """Let a successor in at once. Best effort: without it the Lease runs out."""
        self._sharing.leave(self)
        taken, self._deadline, self._renewed = self.taken, 0.0, float("-inf")
        self._body = None
        if self._lapse:
            self._lapse.cancel()
        if not taken:
            return
        try:
            # Read anew: a renewal that was cut off may have been done.
            body = await self._cluster.get(LEASES, self._namespace, self._name, timeout=TIMEOUT)
            spec = body.get("spec", {})
            if self._ours(spec) and spec.get("acquireTime") == self._acquired:
                await self._put(body, {"holderIdentity": "", "leaseDurationSeconds": 1})
        except errors.ApiError as error:
            retrying(logger, "Lease not released", error, lease=self._path)

    @property
    def _path(self) -> str:
        return names.namespaced_name(self._namespace, self._name)

    async def _acquire_or_renew(self) -> None:
        sent = time.monotonic()
        if self._body is None:
            self._body = await self._read_or_create()
        if self._body is None:
            return
        spec = self._body.get("spec", {})
        if not self._ours(spec) and not self._leases.observe(self._body).free:
            self.foreign, self._body = True, None
            return
        continued = self._ours(spec) and spec.get("acquireTime") == self._acquired
        if continued and sent < self._renewed + RENEW_PERIOD / 2:
            return  # it does not count yet, which is looked at more often
        now = timestamps.to_text(datetime.now(UTC))
        acquired = self._acquired if continued else now
        transitions = spec.get("leaseTransitions", 0) + (not self._ours(spec))
        self._body = await self._put(
            self._body,
            {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": DURATION,
                "acquireTime": acquired,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        )
        self._renewed = sent
        if not continued:
            self._acquired, self._new = acquired, True
            self._lapse_now()
            failpoints.evaluate("controller.leased")
        if self.held:
            self._hold()

    async def _make_it_count(self) -> None:
        """Unless somebody who divides the stream otherwise may be at work: each acquires first, then looks."""
        others = await self._leases.others(self._namespace, self._stream, self._shape)
        alive = sorted(name for name, seen in others.items() if not seen.free and seen.holder != self._identity)
        if alive:
            if not self.foreign:
                logger.info("Waiting for shards of another number", extra=fields(lease=self._path, others=alive))
            self.foreign = True
            return
        versions = {name: seen.version for name, seen in others.items()}
        if self._new or versions != self._others:
            self._new, self._others = False, versions
            self.tenure += 1
            self._lapsed.set()  # for those who wait for the end of the tenure before
            logger.info("Lease acquired", extra=fields(lease=self._path, identity=self._identity))
        self._hold()

    def _hold(self) -> None:
        self._deadline = self._renewed + DEADLINE
        if self._lapse:
            self._lapse.cancel()
        if self.held:
            loop = asyncio.get_running_loop()
            self._lapse = loop.call_later(max(0.0, self._deadline - time.monotonic()), self._notice_lapse)
            self._lapsed.clear()
            self._held.set()

    def _lapse_now(self) -> None:
        if self.held:
            self._deadline = 0.0
            self._notice_lapse()

    def _notice_lapse(self) -> None:
        if self.held:  # the timer came a moment early
            self._lapse = asyncio.get_running_loop().call_later(0.01, self._notice_lapse)
            return
        sparingly(logger, "Lease lapsed: calls in flight are cut", None, lease=self._path)
        self._lapsed.set()

    @property
    def _labels(self) -> dict[str, str]:
        return {names.STREAM_LABEL: self._stream}

    def _ours(self, spec: dict[str, Any]) -> bool:
        return spec.get("holderIdentity") == self._identity

    async def _read_or_create(self) -> Body | None:
        """None while one that somebody else held has been deleted under them: they may not know yet."""
        try:
            return await self._cluster.get(LEASES, self._namespace, self._name, timeout=TIMEOUT)
        except errors.NotFound:
            seen = self._leases.seen(self._namespace, self._name)
            if seen and not seen.free and seen.holder != self._identity:
                return None
            manifest = {"metadata": {"name": self._name, "labels": self._labels}, "spec": {}}
            return await self._cluster.create(LEASES, self._namespace, manifest, timeout=TIMEOUT)

    async def _put(self, body: Body, spec: dict[str, Any]) -> Body:
        """With the version that was read: of two who reach for it, one gets a Conflict."""
        metadata = {**body["metadata"], "labels": {**body["metadata"].get("labels", {}), **self._labels}}
        changed = {**body, "metadata": metadata, "spec": {**body.get("spec", {}), **spec}}
        return await self._cluster.replace(LEASES, self._namespace, self._name, changed, timeout=TIMEOUT)
