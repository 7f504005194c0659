"""The Lease (coordination.k8s.io) of a stream, or of a shard of it: one controller works on it at a time.

resourceVersion fences writes, the Lease fences calls. The holder checks a monotonic deadline right before each call,
and at the deadline it closes the connections of its calls in flight. The arithmetic is client-go's (leaderelection:
lease duration > renew deadline > retry period), counted from when a renewal was *sent*.

Controllers may see different numbers of shards for a while. So a Lease that was acquired is confirmed first: a list
that was asked for after it was acquired must show no Lease in force that divides the stream otherwise
(docs/decisions/0005-shards.md). Nothing is called before that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import Any

from controller import errors, failpoints
from controller.api import names, timestamps
from controller.api.update_stream import UpdateStream
from controller.clients.cluster import LEASES, Body
from controller.core.sharding import Shard
from controller.logs import fields, retrying, sparingly
from controller.reconciler.lease_watch import DURATION, POLL_PERIOD, TIMEOUT
from controller.reconciler.process_context import ProcessContext

logger = logging.getLogger(__name__)

#: Seconds after the last successful renewal was sent at which the holder stops by itself.
DEADLINE = 10.0
RENEW_PERIOD = 2.0
#: Seconds for which a controller that holds all other shards of a stream leaves a free one to other controllers.
SPREAD_SECONDS = 1.5
#: Seconds between looks at a Lease that is free and left to others for a moment.
FREE_POLL_PERIOD = 0.05
#: Seconds after which writes that fail are reported.
REFUSED_SECONDS = 5.0
#: Seconds for which a Lease that was handed over is left to others.
YIELD_SECONDS = 2.0


class Lease:
    """Acquires, renews and releases one Lease. `tenure` grows whenever another controller may have worked before.

    `siblings`, to which it adds itself, are the Leases of the stream that this process wants.
    """

    def __init__(
        self, process: ProcessContext, stream: UpdateStream, shard: Shard, siblings: list[Lease] | None = None
    ) -> None:
        self.tenure = 0
        #: Another controller has been seen to hold it, or a Lease that divides the stream otherwise.
        self.held_elsewhere = False
        self._cluster = process.cluster
        self._balancer = process.balancer
        self._leases = process.balancer.leases
        self._identity = process.identity
        self._namespace = stream.namespace
        self._stream = stream.name
        self._name = names.lease_name(stream.name, shard.index, shard.count)
        self._shape = frozenset(names.lease_name(stream.name, index, shard.count) for index in range(shard.count))
        self._siblings = siblings if siblings is not None else []
        self._siblings.append(self)
        self._body: Body | None = None
        #: When (monotonic) it was renewed last, and wanted first.
        self._renewed = float("-inf")
        self._wanted = time.monotonic()
        self._acquiring = False
        #: Until when (monotonic) it is left to others, after it was handed over.
        self._yielded = float("-inf")
        #: Why the last attempt failed, empty if it succeeded; and since when (monotonic) attempts have failed.
        self._error = ""
        self._failing = 0.0
        #: Whether the API server has answered that attempt.
        self._answered = False
        #: `acquireTime` of our tenure. An earlier process of the same identity has another one.
        self._acquired = ""
        #: It was acquired, and not confirmed yet: its tenure has not begun.
        self._new = False
        #: Versions of the stream's other Leases when it was confirmed: another version shows that somebody has worked.
        self._others: dict[str, str] = {}
        self._deadline = 0.0
        self._held = asyncio.Event()
        self._lapsed = asyncio.Event()
        self._lapse: asyncio.TimerHandle | None = None

    @property
    def held(self) -> bool:
        """Whether calls may be made: nobody else can hold it, by this process's monotonic clock."""
        return time.monotonic() < self._deadline

    @property
    def taken(self) -> bool:
        """Whether the object names this controller, or may do so in a moment, confirmed or not."""
        return self._acquiring or time.monotonic() < self._renewed + DURATION

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self._namespace, self._name

    @property
    def siblings_taken(self) -> int:
        """How many other shards of the stream this process has."""
        return sum(lease.taken for lease in self._siblings if lease is not self)

    async def wait_held(self) -> None:
        while not self.held:
            self._held.clear()
            await self._held.wait()

    async def wait_lapsed(self, tenure: int) -> None:
        """Return when it is not held any more, or when another tenure has begun."""
        while self.held and self.tenure == tenure:
            await self._lapsed.wait()

    async def keep(self) -> None:
        """Acquire and renew for ever, whatever the API server answers."""
        self._balancer.add(self)
        await self._leases.synced(self._namespace)
        while True:
            if self.taken or self._may_acquire():
                await self._try()
                await asyncio.sleep(RENEW_PERIOD if self.held or self.refused else POLL_PERIOD)
            else:
                await asyncio.sleep(FREE_POLL_PERIOD if self._free else POLL_PERIOD)

    async def _try(self) -> None:
        self._acquiring = True
        try:
            async with asyncio.timeout(TIMEOUT + 1):
                await self._acquire_or_renew()
                if self._body and not self.held:
                    await self._confirm()
        except errors.NotFound:
            self._body, self._renewed = None, float("-inf")
            self._lapse_now()  # deleted: whoever creates it again holds it
        except (errors.ApiError, TimeoutError) as error:
            self._body = None
            self._failed(error)
        else:
            self._error = ""
        finally:
            self._acquiring = False

    def _failed(self, error: Exception) -> None:
        """Log each cause once: a policy, a quota or a webhook may refuse the Lease for hours."""
        if isinstance(error, errors.Conflict | errors.AlreadyExists) and not self.held:
            self._error = ""  # another controller was faster
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
        """Why nobody can acquire it, as the API server has answered for a while. Empty while it does not answer."""
        refused = self._error and self._answered and not self.held
        if not refused or time.monotonic() - self._failing < REFUSED_SECONDS:
            return ""
        seen = self._leases.observed(self._namespace, self._name)
        if seen and not seen.free and seen.holder != self._identity:
            return ""
        return f"Lease {self._path} cannot be written, and without it nothing is called: {self._error}"

    @property
    def _free(self) -> bool:
        """Whether nobody holds it, as far as is known."""
        seen = self._leases.observed(self._namespace, self._name)
        return seen is None or seen.free

    def _may_acquire(self) -> bool:
        """Whether to try to acquire it. A controller that has many Leases, or other shards of the stream, waits."""
        now = time.monotonic()
        if now < self._yielded:
            return False
        seen = self._leases.observed(self._namespace, self._name)
        if seen and self._leases.exists(self._namespace, self._name):
            if seen.holder == self._identity:
                return True
            if not seen.free:
                self.held_elsewhere = True
                return False
            since = seen.free_since
        else:  # it does not exist; or an earlier version made it, without a label
            since = self._wanted
        return now - since >= max(self._balancer.patience, SPREAD_SECONDS * self.siblings_taken / len(self._shape))

    def leave_to_others(self) -> None:
        """Do not try to acquire it for a moment: it was released for another controller."""
        self._yielded = time.monotonic() + YIELD_SECONDS

    async def release(self) -> None:
        """Let a successor acquire it at once. Where that fails, the Lease expires."""
        self._balancer.remove(self)
        taken, self._deadline, self._renewed = self.taken, 0.0, float("-inf")
        self._body = None
        if self._lapse:
            self._lapse.cancel()
        if not taken:
            return
        try:
            # Read first: a renewal that was cut off may have been done.
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
            self.held_elsewhere, self._body = True, None
            return
        continued = self._ours(spec) and spec.get("acquireTime") == self._acquired
        if continued and sent < self._renewed + RENEW_PERIOD / 2:
            return  # it is only to be confirmed, which is tried more often than a renewal
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

    async def _confirm(self) -> None:
        """Begin to hold it, unless a controller that divides the stream otherwise may be at work.

        Each controller acquires its Lease first and looks then, so that one of two always sees the other.
        """
        others = await self._leases.others(self._namespace, self._stream, self._shape)
        alive = sorted(name for name, seen in others.items() if not seen.free and seen.holder != self._identity)
        if alive:
            if not self.held_elsewhere:
                logger.info("Waiting for shards of another number", extra=fields(lease=self._path, others=alive))
            self.held_elsewhere = True
            return
        versions = {name: seen.version for name, seen in others.items()}
        if self._new or versions != self._others:
            self._new, self._others = False, versions
            self.tenure += 1
            self._lapsed.set()  # for those that wait for the end of the tenure before
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
        """The Lease; None where it was deleted while another controller held it, which may not know that yet."""
        try:
            return await self._cluster.get(LEASES, self._namespace, self._name, timeout=TIMEOUT)
        except errors.NotFound:
            seen = self._leases.observed(self._namespace, self._name)
            if seen and not seen.free and seen.holder != self._identity:
                return None
            manifest = {"metadata": {"name": self._name, "labels": self._labels}, "spec": {}}
            return await self._cluster.create(LEASES, self._namespace, manifest, timeout=TIMEOUT)

    async def _put(self, body: Body, spec: dict[str, Any]) -> Body:
        """Write it with the version that was read: of two that acquire it, one gets a Conflict."""
        metadata = {**body["metadata"], "labels": {**body["metadata"].get("labels", {}), **self._labels}}
        changed = {**body, "metadata": metadata, "spec": {**body.get("spec", {}), **spec}}
        return await self._cluster.replace(LEASES, self._namespace, self._name, changed, timeout=TIMEOUT)
