"""The state that the workers of one stream share, and the state that the workers of one of its shards share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from controller import errors
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
from controller.reconciler.calls import Calls, CallSlots
from controller.reconciler.label_writer import LabelWriter
from controller.reconciler.lease import Lease
from controller.reconciler.process_context import ProcessContext
from controller.reconciler.step_secrets import CallCredentials, StepSecrets
from controller.reconciler.update_events import UpdateEvents

#: Writes of a shard that record a delay, at a time, and the seconds for which one waits for its turn at most. Other
#: writes do not wait for a turn: where a hundred calls time out together, the writes of users whose next call comes are
#: behind a few delays, not a hundred.
DELAY_WRITES = 4
DELAY_WRITE_PATIENCE = 0.5
#: Seconds between looks at the Secrets of steps whose calls are refused; a Secret is read less often than that.
SECRETS_PERIOD = 3.0


@dataclass(frozen=True, slots=True)
class StreamContext:
    """The state that all shards of one stream share in this process."""

    process: ProcessContext
    events: UpdateEvents
    secrets: StepSecrets
    status: StreamStatus
    labels: LabelWriter
    #: This process's Leases of the stream, held or waited for.
    leases: list[Lease] = field(default_factory=list)


@dataclass(slots=True)
class ShardContext:
    """The state that the workers of one shard share: the stream's spec as it is now, the Lease, limits of writes."""

    shared: StreamContext
    shard: Shard
    lease: Lease
    stream: UpdateStream
    #: Called with each update whose end has been written.
    on_finished: Callable[[UserUpdate], None]
    #: Placeholders for objects that this version does not understand and that an outcome waits for, by name.
    in_doubt: dict[str, UserUpdate] = field(default_factory=dict)
    #: Updates whose status the API server refuses to write, and its answer, by name; each until it is written.
    refusals: dict[str, tuple[UserUpdate, str]] = field(default_factory=dict)
    health: StepHealth = field(default_factory=StepHealth)
    calls: Calls = field(init=False)
    #: When (monotonic) a step was given another url or Secret.
    moved: dict[str, float] = field(default_factory=dict)
    slots: dict[str, CallSlots] = field(default_factory=lambda: {step.name: CallSlots() for step in STEPS})
    #: Writes under way that have the outcome of one finished step only: see `checkpoints.EARLY_WRITES`.
    early_writes: int = 0
    _delay_writes: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(DELAY_WRITES))

    def __post_init__(self) -> None:
        self.calls = Calls(self.cluster, self.lease, self.shared.events)

    def reconfigure(self, stream: UpdateStream) -> None:
        """Act by a changed spec from now on."""
        if self.lease.held and self.shard.index == 0:  # one Event for the stream, not one for each shard
            self.events.stream_changed(stream, self.stream)
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
        """Entered for a write that records a delay: wait for its turn, for a moment at most."""
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
        return self.shared.process.cluster

    @property
    def downstream(self) -> Downstream:
        return self.shared.process.downstream

    @property
    def events(self) -> UpdateEvents:
        return self.shared.events

    @property
    def retention(self) -> Retention:
        """The stream's retention, with this shard's share of `maxFinished`."""
        whole = self.stream.retention
        return replace(whole, max_finished=self.shard.share(whole.max_finished))

    def now(self) -> datetime:
        return datetime.now(UTC)

    @property
    def stream_labels(self) -> tuple[str, str]:
        """The labels `namespace` and `stream` of metrics."""
        return self.stream.namespace, self.stream.name

    async def step_credentials(self, step: str) -> CallCredentials | NotCalled:
        """The contents of the step's Secret; NotCalled where it is missing or unusable. Raises errors.ApiError."""
        if (secret := self.stream.steps[step].secret_name) is None:
            return CallCredentials()
        found = await self.shared.secrets.read(secret)
        if found is None:
            return NotCalled(f"there is no Secret {secret} for {step}, or no right to read it")
        return NotCalled(f"{step} cannot be called: {found.message}") if isinstance(found, NotCalled) else found

    def mended(self, status: Status, called: float) -> Collection[Reason]:
        """Reasons whose delays are over: what they blame was changed since the last call, made at `called` (monotonic).

        Another url or Secret of the step ends delays after failures; other entries of its Secret end delays after
        refusals. A busy answer is no failure: its delay stays. A crash forgets all this, and leaves the delays.
        """
        if status.step is None or status.next_attempt_time is None:
            return ()
        if called < self.moved.get(status.step, float("-inf")):
            return (Reason.STEP_MISCONFIGURED, Reason.BACKING_OFF)
        secret = self.stream.steps[status.step].secret_name
        return (Reason.STEP_MISCONFIGURED,) if called < self.shared.secrets.changed_at(secret) else ()

    async def follow_secrets(self, wake_all: Callable[[], None]) -> None:
        """For ever: read the Secrets of steps whose calls are refused, and call `wake_all` when a Secret has changed.

        The watch of the streams shows a changed url. No watch shows a changed Secret: who may watch Secrets may list
        them all.
        """
        woken = time.monotonic()
        while True:
            await asyncio.sleep(SECRETS_PERIOD)
            await self.lease.wait_held()
            for step, endpoint in self.stream.steps.items():
                if endpoint.secret_name and self.health.refused(step):
                    with suppress(errors.ApiError):
                        await self.shared.secrets.read(endpoint.secret_name)
            names = [endpoint.secret_name for endpoint in self.stream.steps.values()]
            changed = max(map(self.shared.secrets.changed_at, names))
            if changed > woken:
                woken = changed
                wake_all()

    def count_call(self, step: str, outcome: Outcome, before: UserUpdate, started: datetime, ended: datetime) -> None:
        """Count a call in the metrics and in the step's health; `before` is the update as it was called."""
        self.health.answered(step, before.spec.user, outcome, time.monotonic())
        metrics.CALLS.labels(*self.stream_labels, step, type(outcome).__name__.lower()).inc()
        metrics.CALL_SECONDS.labels(*self.stream_labels, step).observe((ended - started).total_seconds())
        if (due := before.status.next_attempt_time) and started >= due:  # else it did not wait for its delay
            metrics.LATENESS.labels(*self.stream_labels).observe((started - due).total_seconds())
