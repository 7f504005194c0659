"""What the lanes of one stream share."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from controller import errors
from controller.cluster import Cluster
from controller.downstream import Downstream
from controller.engine import metrics
from controller.engine.announcing import Announcer
from controller.engine.credentials import Credentials
from controller.engine.lease import Lease
from controller.outcomes import Outcome
from controller.steps import STEPS
from controller.streams import UpdateStream
from controller.updates import Status, UserUpdate


class CallSlots:
    """A step's `concurrency`: the one place in which users wait for each other, first come, first served.

    Unlike asyncio.Semaphore its limit can change while it is in use.
    """

    def __init__(self) -> None:
        #: Most calls at a time; None: no limit.
        self._limit: int | None = None
        #: Slots in use, and those given to one who has waited but not resumed yet.
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def free(self) -> bool:
        """Whether `use` would not wait: a slot is free, and nobody waits for it already."""
        return self._limit is None or (self._taken < self._limit and not self._waiting)

    @asynccontextmanager
    async def use(self) -> AsyncIterator[None]:
        if self.free:
            self._taken += 1
        else:
            await self._wait()
        try:
            yield
        finally:
            self._give_back()

    def set_limit(self, limit: int | None) -> None:
        self._limit = limit
        self._grant()

    async def _wait(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back()
            raise

    def _give_back(self) -> None:
        self._taken -= 1
        self._grant()

    def _grant(self) -> None:
        while self._waiting and (self._limit is None or self._taken < self._limit):
            turn = self._waiting.popleft()
            if not turn.done():
                self._taken += 1
                turn.set_result(None)


@dataclass(slots=True)
class StreamContext:
    """The stream as it stands now, and the means to act on it."""

    cluster: Cluster
    downstream: Downstream
    lease: Lease
    stream: UpdateStream
    announcer: Announcer
    credentials: Credentials
    #: Called with each update that has been finished and written.
    on_finished: Callable[[UserUpdate], None]
    slots: dict[str, CallSlots] = field(default_factory=lambda: {step.name: CallSlots() for step in STEPS})

    def reconfigure(self, stream: UpdateStream) -> None:
        if self.lease.held:
            self.announcer.stream_changed(stream, self.stream)
        self.stream = stream
        for step, slots in self.slots.items():
            slots.set_limit(stream.steps[step].concurrency)

    def now(self) -> datetime:
        return datetime.now(UTC)

    @property
    def label(self) -> str:
        """The stream in logs and metrics."""
        return f"{self.stream.namespace}/{self.stream.name}"

    async def step_headers(self, step: str) -> Mapping[str, str] | None:
        """Headers from the step's Secret; None where that is missing. Raises errors.ApiError."""
        secret = self.stream.steps[step].secret_name
        if secret is None:
            return {}
        try:
            return await self.credentials.headers(secret)
        except errors.NotFound:
            return None

    def count_call(self, step: str, outcome: Outcome, before: Status, started: datetime, ended: datetime) -> None:
        metrics.CALLS.labels(self.label, step, type(outcome).__name__.lower()).inc()
        metrics.CALL_SECONDS.labels(self.label, step).observe((ended - started).total_seconds())
        if before.next_attempt_time:
            metrics.LATENESS.labels(self.label).observe((started - before.next_attempt_time).total_seconds())
