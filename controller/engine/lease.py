"""One controller works on a stream at a time: a coordination.k8s.io Lease, held by renewals.

resourceVersion fences writes, the Lease fences calls: the holder checks a monotonic deadline right before each of
them, and at the deadline it closes the connections of its calls in flight. The arithmetic is client-go's
(leaderelection: lease duration > renew deadline > retry period), counted from when a renewal was *sent*.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import Any

from controller import crashpoints, errors, times
from controller.cluster import LEASES, Body, Cluster
from controller.logs import fields

logger = logging.getLogger(__name__)

#: Seconds for which a Lease that is not renewed keeps others off.
DURATION = 12
#: Seconds after the sending of the last good renewal at which the holder stops by itself.
DEADLINE = 10.0
RENEW_PERIOD = 2.0
RENEW_TIMEOUT = 4.0
#: Seconds between looks of one who stands by: what a take-over after a graceful stop costs.
POLL_PERIOD = 0.5


class Lease:
    """Acquires, renews and reports one Lease. `tenure` is raised whenever somebody else may have held it before."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, identity: str) -> None:
        self.tenure = 0
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._body: Body | None = None
        #: `acquireTime` of our tenure: tells our own Lease from that of an earlier process of the same identity.
        self._acquired = ""
        self._deadline = 0.0
        self._held = asyncio.Event()
        self._lapsed = asyncio.Event()
        self._lapse: asyncio.TimerHandle | None = None
        #: The version of a foreign Lease, and when (monotonic) it was seen first.
        self._foreign = ("", 0.0)
        #: Until when (monotonic) somebody else may hold it, though the object is gone.
        self._foreign_until = 0.0

    @property
    def held(self) -> bool:
        """True while nobody else may hold it, by this process's monotonic clock."""
        return time.monotonic() < self._deadline

    @property
    def foreign(self) -> bool:
        """It has been seen in another's hands."""
        return bool(self._foreign[0])

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
        while True:
            try:
                async with asyncio.timeout(RENEW_TIMEOUT + 1):
                    await self._acquire_or_renew()
            except errors.NotFound:
                self._body = None
                self._lapse_now()  # deleted: whoever makes it again holds it
            except (errors.ApiError, TimeoutError) as error:
                self._body = None
                if self.held:
                    logger.warning("Lease not renewed", extra=fields(lease=self._path, cause=str(error)))
            await asyncio.sleep(RENEW_PERIOD if self.held else POLL_PERIOD)

    async def release(self) -> None:
        """Let a successor in at once. Best effort: without it the Lease runs out."""
        held, self._deadline = self.held, 0.0
        if self._lapse:
            self._lapse.cancel()
        if not held:
            return
        try:
            # Read anew: a renewal that was cut off may have been done.
            body = await self._cluster.get(LEASES, self._namespace, self._name, timeout=RENEW_TIMEOUT)
            spec = body.get("spec", {})
            if self._ours(spec) and spec.get("acquireTime") == self._acquired:
                await self._put(body, {"holderIdentity": "", "leaseDurationSeconds": 1})
        except errors.ApiError as error:
            logger.warning("Lease not released", extra=fields(lease=self._path, cause=str(error)))

    @property
    def _path(self) -> str:
        return f"{self._namespace}/{self._name}"

    async def _acquire_or_renew(self) -> None:
        sent = time.monotonic()
        if self._body is None:
            self._body = await self._read_or_create()
        if self._body is None:
            return
        spec = self._body.get("spec", {})
        if not self._ours(spec) and not self._free(self._body):
            self._body = None
            return
        continued = self._ours(spec) and spec.get("acquireTime") == self._acquired
        now = times.to_text(datetime.now(UTC))
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
        self._hold(sent, acquired, continued)

    def _hold(self, sent: float, acquired: str, continued: bool) -> None:
        if not continued:
            self.tenure += 1
            self._acquired = acquired
            self._lapsed.set()  # for those who wait for the end of the tenure before
            crashpoints.reach("controller.leased")
            logger.info("Lease acquired", extra=fields(lease=self._path, identity=self._identity))
        self._deadline = sent + DEADLINE
        if self._lapse:
            self._lapse.cancel()
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
        logger.warning("Lease lapsed: calls in flight are cut", extra=fields(lease=self._path))
        self._lapsed.set()

    def _ours(self, spec: dict[str, Any]) -> bool:
        return spec.get("holderIdentity") == self._identity

    def _free(self, body: Body) -> bool:
        """Nobody's, or not renewed for its duration since we first saw this version: no clock of others counts."""
        spec, version = body.get("spec", {}), body["metadata"]["resourceVersion"]
        if not spec.get("holderIdentity"):
            return True
        if self._foreign[0] != version:
            self._foreign = (version, time.monotonic())
        self._foreign_until = time.monotonic() + DURATION
        duration: int = spec.get("leaseDurationSeconds", DURATION)
        return time.monotonic() - self._foreign[1] > duration

    async def _read_or_create(self) -> Body | None:
        """None while one that somebody else held has been deleted under them: they may not know yet."""
        try:
            return await self._cluster.get(LEASES, self._namespace, self._name, timeout=RENEW_TIMEOUT)
        except errors.NotFound:
            if time.monotonic() < self._foreign_until:
                return None
            manifest = {"metadata": {"name": self._name}, "spec": {}}
            return await self._cluster.create(LEASES, self._namespace, manifest, timeout=RENEW_TIMEOUT)

    async def _put(self, body: Body, spec: dict[str, Any]) -> Body:
        """With the version that was read: of two who reach for it, one gets a Conflict."""
        changed = {**body, "spec": {**body.get("spec", {}), **spec}}
        return await self._cluster.replace(LEASES, self._namespace, self._name, changed, timeout=RENEW_TIMEOUT)
