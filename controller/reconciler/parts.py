"""The engines of one stream in this process: one for each shard, and what they share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from controller.api import names
from controller.api.update_stream import UpdateStream
from controller.clients.cluster import Body, Cluster
from controller.clients.downstream import Downstream
from controller.clients.event_recorder import EventRecorder
from controller.clients.stream_status import StreamStatus
from controller.core.sharding import shards
from controller.reconciler.announcing import Announcer
from controller.reconciler.context import Shared
from controller.reconciler.labelling import Labels
from controller.reconciler.shard_worker import Engine
from controller.reconciler.sharing import Sharing
from controller.reconciler.step_secrets import Credentials


class Parts:
    """All work of this process on one stream, as its `spec.shards` was when it began."""

    def __init__(
        self,
        cluster: Cluster,
        downstream: Downstream,
        sharing: Sharing,
        no_bridge: Callable[[], str],
        recorder: EventRecorder,
        stream: UpdateStream,
        identity: str,
        on_gone: Callable[[], None],
    ) -> None:
        """`on_gone` is called when the stream turns out to have been deleted."""
        self._status = StreamStatus(cluster, recorder, stream.namespace, stream.name, stream.uid)
        shared = Shared(
            cluster=cluster,
            downstream=downstream,
            identity=identity,
            sharing=sharing,
            no_bridge=no_bridge,
            announcer=Announcer(recorder),
            credentials=Credentials(cluster, stream.namespace),
            status=self._status,
            labels=Labels(cluster),
        )
        # Each replica begins with another shard, so that several take different ones.
        first = names.bucket(identity)
        order = sorted(shards(stream.shards), key=lambda shard: (shard.index - first) % shard.count)
        self._engines = {shard.index: Engine(shared, stream, shard, on_gone) for shard in order}

    @property
    def engines(self) -> Collection[Engine]:
        """One for each shard."""
        return self._engines.values()

    @property
    def settled(self) -> bool:
        """This controller has begun to work on each shard, or has seen that another one does."""
        return all(engine.settled for engine in self._engines.values())

    def start(self, after: asyncio.Task[None] | None) -> None:
        """Begin, at once or when `after` is done."""
        for engine in self._engines.values():
            engine.start(after)

    async def stop(self) -> None:
        """Let calls in flight end, within a second; record what they gave; give the Leases away."""
        await asyncio.gather(*(engine.stop() for engine in self._engines.values()))

    def reconfigure(self, stream: UpdateStream) -> None:
        """A changed spec acts at once."""
        for engine in self._engines.values():
            engine.reconfigure(stream)

    def observe_stream(self, body: Body) -> None:
        """The stream as the watch shows it, with its status."""
        self._status.observe(body)

    def doubt(self) -> None:
        """The watch began anew, and tells nothing of what was deleted meanwhile: list."""
        for engine in self._engines.values():
            engine.doubt()

    def doubt_all(self) -> None:
        """The same, and of what is finished too."""
        for engine in self._engines.values():
            engine.doubt()
            engine.doubt_finished()

    def observe(self, kind: str | None, body: Body) -> None:
        """What the watch has shown, to the engine of its user's shard."""
        count = len(self._engines)
        self._engines[names.bucket(body["spec"]["user"]) % count if count > 1 else 0].observe(kind, body)
