"""The work on one stream: a worker for each of its shards, and what they have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from controller.api import names
from controller.api.update_stream import UpdateStream
from controller.clients.cluster import Body
from controller.clients.stream_status import StreamStatus
from controller.core.sharding import shards
from controller.reconciler.context import StreamContext
from controller.reconciler.label_writer import LabelWriter
from controller.reconciler.process_context import ProcessContext
from controller.reconciler.shard_worker import ShardWorker
from controller.reconciler.step_secrets import StepSecrets
from controller.reconciler.update_events import UpdateEvents


class StreamWorker:
    """Works on one stream; for another `spec.shards` the manager makes a new one."""

    def __init__(self, process: ProcessContext, stream: UpdateStream, on_gone: Callable[[], None]) -> None:
        """`on_gone` is called when the stream is found to be deleted."""
        cluster, recorder = process.cluster, process.recorder
        self._status = StreamStatus(cluster, recorder, stream.namespace, stream.name, stream.uid)
        shared = StreamContext(
            process=process,
            events=UpdateEvents(recorder),
            secrets=StepSecrets(cluster, stream.namespace),
            status=self._status,
            labels=LabelWriter(cluster),
        )
        # Each replica begins with another shard, so that they acquire different ones.
        first = names.bucket(process.identity)
        order = sorted(shards(stream.shards), key=lambda shard: (shard.index - first) % shard.count)
        self._workers = {shard.index: ShardWorker(shared, stream, shard, on_gone) for shard in order}

    @property
    def workers(self) -> Collection[ShardWorker]:
        """The workers of the shards."""
        return self._workers.values()

    @property
    def ready(self) -> bool:
        """Whether each shard is worked on, here or by another controller, or it is reported why it is not."""
        return all(worker.ready for worker in self._workers.values())

    def start(self, after: asyncio.Task[None] | None) -> None:
        """Begin, at once or when `after` is done."""
        for worker in self._workers.values():
            worker.start(after)

    async def stop(self) -> None:
        """Let calls in flight end, within a second; write their outcomes; release the Leases."""
        await asyncio.gather(*(worker.stop() for worker in self._workers.values()))

    def reconfigure(self, stream: UpdateStream) -> None:
        """Act by a changed spec, at once."""
        for worker in self._workers.values():
            worker.reconfigure(stream)

    def observe_stream(self, body: Body) -> None:
        """Take in the stream as the watch shows it: others write its status, too."""
        self._status.observe(body)

    def relist(self) -> None:
        """List again: a watch that begins anew does not show what was deleted meanwhile."""
        for worker in self._workers.values():
            worker.relist()

    def relist_all(self) -> None:
        """List finished updates again, too."""
        for worker in self._workers.values():
            worker.relist()
            worker.relist_finished()

    def observe(self, kind: str | None, body: Body) -> None:
        """Pass an event of the watch to the worker of its user's shard."""
        count = len(self._workers)
        self._workers[names.bucket(body["spec"]["user"]) % count if count > 1 else 0].observe(kind, body)
