"""What an update's downstreams have answered and its status does not show yet.

Between `lane`, which brings outcomes, and `checkpoints`, which writes. With EveryStep each outcome is written before
the next call. With Coalesced a finished step's may be written while the next one runs, and what has piled up by then is
merged into one write: a crash repeats at most these steps, with their idempotency keys (docs/decisions/0051).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import reduce

from controller.api.update_stream import UpdateStream
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Status
from controller.core.outcomes import Done, Outcome
from controller.core.steps import STEPS
from controller.reconciler.checkpoints import Record, write_outcome
from controller.reconciler.context import StreamContext

#: Seconds for which a finished step's outcome waits for those of the next ones before it is written for itself.
LINGER_SECONDS = 0.25
#: A call that took longer is checkpointed before the next one, also with Coalesced: the write costs little beside it,
#: and finds what a person has changed meanwhile.
QUICK_SECONDS = 0.5
#: Writes of a stream for the sake of one finished step, at a time: under load most outcomes wait, and are merged.
EARLY_WRITES = 1


class Unwritten:
    """Outcomes of the update in hand, oldest first, and the write of the first of them that may be under way."""

    __slots__ = ("_context", "_records", "_tenure", "_timer", "_writing", "_written")

    def __init__(self, context: StreamContext) -> None:
        self._context = context
        #: The update as the API server has it.
        self._written: UserUpdate | None = None
        self._records: tuple[Record, ...] = ()
        #: The Lease's tenure in which they were answered.
        self._tenure = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def __bool__(self) -> bool:
        return bool(self._records)

    @property
    def update(self) -> UserUpdate | None:
        """The one that outcomes wait for, as the API server has it; None where none waits."""
        return self._written if self._records else None

    @property
    def ahead(self) -> UserUpdate:
        """The update as it stands with all outcomes, at the version that the API server has."""
        assert self._written
        status = _after(self._records, self._written.status)
        return self._written.with_status(status, self._written.resource_version)

    def add(self, update: UserUpdate, record: Record) -> None:
        """Keep an outcome."""
        if not self._records:
            self._tenure = self._context.lease.tenure
            known = self._written
            if known is None or known.uid != update.uid or known.resource_version < update.resource_version:
                self._written = update
        self._records = (*self._records, record)

    async def write(self) -> UserUpdate:
        """Return when everything is written: the update as the API server has it then.

        Raises Gone or Superseded; what was unwritten is dropped with that.
        """
        self._stop_waiting()
        try:
            if writing := self._writing:
                await asyncio.wait([writing])
                writing.result()
            if self._records:
                await self._write()
            assert self._written
            return self._written
        finally:
            self._written, self._writing = None, None
            self._records = ()

    def write_soon(self, on_written: Callable[[UserUpdate], object]) -> None:
        """Begin a write in a while, unless `write` comes first.

        `on_written` gets the update after it, with what is still unwritten laid over it.
        """
        if self._timer is None and self._writing is None:
            self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._begin, on_written)

    def drop(self) -> None:
        """Somebody else works on the stream: nothing of this counts any more."""
        self._stop_waiting()
        if self._writing:
            self._writing.cancel()

    def _stop_waiting(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _begin(self, on_written: Callable[[UserUpdate], object]) -> None:
        self._timer = None
        if self._context.early_writes < EARLY_WRITES:
            self._writing = asyncio.get_running_loop().create_task(self._write_early(on_written))
        else:
            self.write_soon(on_written)

    async def _write_early(self, on_written: Callable[[UserUpdate], object]) -> None:
        self._context.early_writes += 1
        try:
            await self._write()
        finally:
            self._context.early_writes -= 1
        self._writing = None  # one that failed stays, for `write` to raise its error
        on_written(self.ahead)

    async def _write(self) -> None:
        """All there is now, in one write. A Conflict finds either none of it recorded or all: it is one write."""
        assert self._written
        batch = self._records
        self._written = await write_outcome(
            self._context, self._written, lambda status: _after(batch, status), self._tenure
        )
        self._records = self._records[len(batch) :]


def lingers(stream: UpdateStream, step: str, outcome: Outcome, duration: timedelta) -> bool:
    """Whether the next step may be called before this outcome, of a call that took so long, is written."""
    may_wait = stream.checkpoints == "Coalesced" and isinstance(outcome, Done) and step != STEPS[-1].name
    return may_wait and duration.total_seconds() < QUICK_SECONDS


def _after(records: tuple[Record, ...], status: Status) -> Status:
    return reduce(lambda status, record: record(status), records, status)
