"""What the lanes of one stream share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from controller import errors
from controller.cluster import Cluster
from controller.downstream import Downstream
from controller.engine import metrics
from controller.engine.announcing import Announcer
from controller.engine.credentials import CallCredentials, Credentials
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
        self._used = 0
        #: In the order in which they came.
        self._waiting: dict[asyncio.Future[None], None] = {}

    @contextmanager
    def turn(self) -> Iterator[asyncio.Future[None]]:
        """A place in the line: done as soon as a slot is ours, which it is until we leave."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = None
        self._serve()
        try:
            yield turn
        finally:
            if turn in self._waiting:
                del self._waiting[turn]
            else:
                self._used -= 1
            self._serve()

    def set_limit(self, limit: int | None) -> None:
        self._limit = limit
        self._serve()

    def _serve(self) -> None:
        while self._waiting and (self._limit is None or self._used < self._limit):
            turn = next(iter(self._waiting))
            del self._waiting[turn]
            self._used += 1
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
    #: Writes under way for the sake of one finished step of several: see `unwritten`.
    early_writes: int = 0

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

    async def step_credentials(self, step: str) -> CallCredentials | None:
        """What the step's Secret gives; None where that is missing or refused. Raises errors.ApiError."""
        secret = self.stream.steps[step].secret_name
        if secret is None:
            return CallCredentials()
        try:
            return await self.credentials.read(secret)
        except (errors.NotFound, errors.Forbidden):
            return None

    def count_call(self, step: str, outcome: Outcome, before: Status, started: datetime, ended: datetime) -> None:
        metrics.CALLS.labels(self.label, step, type(outcome).__name__.lower()).inc()
        metrics.CALL_SECONDS.labels(self.label, step).observe((ended - started).total_seconds())
        if before.next_attempt_time:
            metrics.LATENESS.labels(self.label).observe((started - before.next_attempt_time).total_seconds())
