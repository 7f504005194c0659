"""What the lanes of one stream share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from controller.api.update_stream import Retention, UpdateStream
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Reason, Status
from controller.clients.cluster import Cluster
from controller.clients.downstream import Downstream
from controller.clients.stream_status import StreamStatus
from controller.core.outcomes import NotCalled, Outcome
from controller.core.sharding import Shard
from controller.core.step_health import StepHealth
from controller.core.steps import STEPS
from controller.reconciler import metrics
from controller.reconciler.announcing import Announcer
from controller.reconciler.labelling import Labels
from controller.reconciler.lease import Lease
from controller.reconciler.longcalls import LongCalls
from controller.reconciler.sharing import Sharing
from controller.reconciler.step_secrets import CallCredentials, Credentials

#: Writes of a stream that record a delay, at a time, and the seconds that one waits for its turn at most. Those after
#: which a next call comes go past them: where a hundred calls time out together, others wait behind few writes.
DELAY_WRITES = 4
DELAY_WRITE_PATIENCE = 0.5


class CallSlots:
    """A step's `concurrency`: the one place in which calls of users wait for each other, first come, first served.

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


@dataclass(frozen=True, slots=True)
class Shared:
    """What the shards of one stream that this process works on have in common."""

    cluster: Cluster
    downstream: Downstream
    identity: str
    sharing: Sharing
    #: What to say where no bridge lives; empty where one does.
    no_bridge: Callable[[], str]
    announcer: Announcer
    credentials: Credentials
    status: StreamStatus
    labels: Labels
    siblings: list[Lease] = field(default_factory=list)


@dataclass(slots=True)
class StreamContext:
    """The stream as it stands now, or one of its shards, and the means to act on it."""

    shared: Shared
    shard: Shard
    lease: Lease
    stream: UpdateStream
    #: Called with each update that has been finished and written.
    on_finished: Callable[[UserUpdate], None]
    #: Placeholders for objects that are not understood, and that an outcome in hand is to be written to, by name.
    in_doubt: dict[str, UserUpdate] = field(default_factory=dict)
    #: Updates whose status the API server refuses to write, and what it says, by name; each until it is written.
    refusals: dict[str, tuple[UserUpdate, str]] = field(default_factory=dict)
    health: StepHealth = field(default_factory=StepHealth)
    long_calls: LongCalls = field(init=False)
    #: When (monotonic) a step was given another url or Secret.
    moved: dict[str, float] = field(default_factory=dict)
    slots: dict[str, CallSlots] = field(default_factory=lambda: {step.name: CallSlots() for step in STEPS})
    #: Writes under way for the sake of one finished step of several: see `unwritten`.
    early_writes: int = 0
    _delay_writes: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(DELAY_WRITES))

    def __post_init__(self) -> None:
        self.long_calls = LongCalls(self.shared.cluster, self.lease)

    def reconfigure(self, stream: UpdateStream) -> None:
        if self.lease.held and self.shard.index == 0:  # once, not once a shard
            self.announcer.stream_changed(stream, self.stream)
        for step, endpoint in stream.steps.items():
            if endpoint.target != self.stream.steps[step].target:
                self.health.changed(step)
                self.moved[step] = time.monotonic()
        self.stream = stream
        for step, slots in self.slots.items():
            limit = stream.steps[step].concurrency
            slots.set_limit(limit and max(1, self.shard.share(limit)))

    @asynccontextmanager
    async def delay_write(self) -> AsyncIterator[None]:
        """The turn of a write that records a delay."""
        ours = False
        with suppress(TimeoutError):
            async with asyncio.timeout(DELAY_WRITE_PATIENCE):
                ours = await self._delay_writes.acquire()
        try:
            yield
        finally:
            if ours:
                self._delay_writes.release()

    @property
    def cluster(self) -> Cluster:
        return self.shared.cluster

    @property
    def downstream(self) -> Downstream:
        return self.shared.downstream

    @property
    def announcer(self) -> Announcer:
        return self.shared.announcer

    @property
    def retention(self) -> Retention:
        """What of the stream's finished updates is kept here."""
        whole = self.stream.retention
        return replace(whole, max_finished=self.shard.share(whole.max_finished))

    def now(self) -> datetime:
        return datetime.now(UTC)

    @property
    def stream_labels(self) -> tuple[str, str]:
        """The stream in metrics: namespace and stream."""
        return self.stream.namespace, self.stream.name

    async def step_credentials(self, step: str) -> CallCredentials | NotCalled:
        """What the step's Secret gives; NotCalled where that is missing or of no use. Raises errors.ApiError."""
        if (secret := self.stream.steps[step].secret_name) is None:
            return CallCredentials()
        found = await self.shared.credentials.read(secret)
        if found is None:
            return NotCalled(f"there is no Secret {secret} for {step}, or no right to read it")
        return NotCalled(f"{step} cannot be called: {found.message}") if isinstance(found, NotCalled) else found

    def mended(self, status: Status, called: float) -> Collection[Reason]:
        """What need not be waited for any more at the step in hand, the last call having begun at `called` (monotonic).

        Another url or Secret ends the delays of what failed with the one before, other entries of the Secret those of
        what was refused. To be told busy is no failure: that delay stays. Forgotten by a crash, which leaves the delay.
        """
        if status.step is None or status.next_attempt_time is None:
            return ()
        if called < self.moved.get(status.step, float("-inf")):
            return (Reason.STEP_MISCONFIGURED, Reason.BACKING_OFF)
        secret = self.stream.steps[status.step].secret_name
        return (Reason.STEP_MISCONFIGURED,) if called < self.shared.credentials.changed_at(secret) else ()

    def count_call(self, step: str, outcome: Outcome, before: UserUpdate, started: datetime, ended: datetime) -> None:
        """`before` is the update as it was called."""
        self.health.answered(step, before.spec.user, outcome, time.monotonic())
        metrics.CALLS.labels(*self.stream_labels, step, type(outcome).__name__.lower()).inc()
        metrics.CALL_SECONDS.labels(*self.stream_labels, step).observe((ended - started).total_seconds())
        if (due := before.status.next_attempt_time) and started >= due:  # else its delay was ended
            metrics.LATENESS.labels(*self.stream_labels).observe((started - due).total_seconds())
