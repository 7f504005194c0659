"""kopf watches UpdateStreams and UserUpdates; its handlers hand each event on at once and decide nothing.

There are only `on.event` handlers: kopf sets no finalizers and no annotations, and writes nothing
(docs/decisions/0002-kopf-for-intake.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import logging
import os
import random
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import Any, Protocol

import kopf

from controller import errors, eventloop
from controller.api.names import GROUP, VERSION
from controller.api.user_update_status import Phase
from controller.clients.cluster import Body, Cluster
from controller.clients.namespaces import Namespaces
from controller.clients.proxies import proxy_for
from controller.logs import fields, retrying

logger = logging.getLogger(__name__)

#: kopf watches updates without a phase, and Waiting ones: each update has two events then instead of five, and a change
#: that a person makes to a waiting update is seen.
WATCHED_PHASES = ",".join(f"status.phase!={phase}" for phase in sorted(set(Phase) - {Phase.WAITING}))
RESTART_SECONDS = 1.0
#: Seconds between requests that only find out whether the API server's certificate is trusted.
PROBE_SECONDS = 10.0
#: For kopf's peering, which is not used. Without it kopf asks for the name of the user, and an image has none.
IDENTITY: Any = "userupdates"
PLURALS = frozenset({"updatestreams", "userupdates"})


class Intake(Protocol):
    """Takes events of the watch; `kind` is None for an object that existed before."""

    def observe_stream(self, kind: str | None, body: Body) -> None: ...

    def observe_update(self, kind: str | None, body: Body) -> None: ...


async def watch(
    cluster: Cluster,
    intake: Intake,
    stop: asyncio.Event,
    on_ready: Callable[[], Awaitable[None]],
    namespaces: Namespaces,
) -> None:
    """Run kopf until `stop`, on a thread and a loop of its own; `on_ready` is called when there is something to watch.

    kopf gets the namespaces that can be read then. It would ask a refused one twice a second for ever, and cannot be
    given another one while it runs. So it is started again when they change.

    When an operator ends, kopf cancels everything else on its loop, and it handles the process's signals. Neither must
    happen to calls in flight, so that kopf has a loop of its own.
    """
    while not stop.is_set():
        try:
            # If the kinds are missing when kopf starts, it never watches them.
            if PLURALS <= await cluster.served(GROUP, VERSION):
                await on_ready()
                # The last namespace may have been refused since. kopf would take no namespaces for the whole cluster.
                if not stop.is_set() and namespaces.readable:
                    await _one_run(cluster, intake, stop, namespaces)
            else:
                logger.warning("The API server does not serve our kinds (yet): kubectl apply -f crds/")
        except errors.ApiError as error:
            retrying(logger, "The API server is not reached", error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RESTART_SECONDS):
                await stop.wait()


async def _one_run(cluster: Cluster, intake: Intake, stop: asyncio.Event, namespaces: Namespaces) -> None:
    """Run kopf until `stop`, or until it has to be started again.

    kopf has to be started again where it gives up, as it does on some answers of an API server in trouble; where other
    namespaces can be read; and where the API server's certificate is trusted again, as kopf keeps the certificate
    authority that it was started with.
    """
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    handover = Handover(loop, intake)
    operator = _Operator(handover, namespaces.readable)
    cluster.trust.regained.clear()
    namespaces.changed.clear()

    def run() -> None:
        try:
            eventloop.run(operator.run())
        except BaseException as error:  # whatever ends it, it is started again
            retrying(logger, "kopf gave up, starting it again", error)
        finally:
            with contextlib.suppress(RuntimeError):  # our loop may be closed by now
                loop.call_soon_threadsafe(over.set)

    # A daemon thread: kopf takes seconds to end, and loses nothing when the process ends before.
    threading.Thread(target=run, name="kopf", daemon=True).start()
    waits: list[asyncio.Task[Any]]
    waits = [loop.create_task(event.wait()) for event in (over, stop, cluster.trust.regained, namespaces.changed)]
    waits.append(loop.create_task(_probe(cluster)))
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if not stop.is_set():
        operator.end()


async def _probe(cluster: Cluster) -> None:
    """Send requests for ever: a controller without streams sends no others, and would not find a new certificate."""
    while True:
        await asyncio.sleep(PROBE_SECONDS)
        with contextlib.suppress(errors.ApiError):
            await cluster.served(GROUP, VERSION)


class _Operator:
    """kopf's operator on a thread of its own, which another thread may end."""

    def __init__(self, handover: Handover, namespaces: Collection[str | None]) -> None:
        """`namespaces` are those to watch; None among them is the whole cluster."""
        self._handover = handover
        self._clusterwide, self._namespaces = None in namespaces, sorted(filter(None, namespaces))
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None
        self._ended = False

    async def run(self) -> None:
        """Run until it gives up or is ended."""
        work = kopf.operator(
            registry=_registry(self._handover),
            settings=_settings(),
            identity=IDENTITY,
            memo=(),  # nothing is kept with an object, and each gets a copy
            standalone=True,
            clusterwide=self._clusterwide,
            namespaces=self._namespaces,
        )
        task = asyncio.ensure_future(work)
        self._running = asyncio.get_running_loop(), task
        if self._ended:  # checked after the line above: `end` does both in the other order
            task.cancel()
        await task

    def end(self) -> None:
        """Cancel it, where it still runs. It takes seconds to end, and another operator may begin meanwhile."""
        self._ended = True
        if self._running:
            loop, task = self._running
            with contextlib.suppress(RuntimeError):  # its loop may be closed by now
                loop.call_soon_threadsafe(task.cancel)


class Handover:
    """Passes events from kopf's loop to ours, in order, many for one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop, intake: Intake) -> None:
        self._loop = loop
        self._intake = intake
        # The context of our loop. That of kopf's handler refers to kopf's object, and tasks and timers that begin here
        # would keep that object in memory for hours.
        self._context = contextvars.copy_context()
        self._events: deque[tuple[bool, str | None, Body]] = deque()

    def put(self, event: Any, *, of_stream: bool) -> None:
        self._events.append((of_stream, event["type"], event["object"]))
        if len(self._events) == 1:  # checked after the append: else the last event might not be taken
            with contextlib.suppress(RuntimeError):  # our loop may be closed by now
                self._loop.call_soon_threadsafe(self._take, context=self._context)

    def _take(self) -> None:
        for _ in range(len(self._events)):
            of_stream, kind, body = self._events.popleft()
            observe = self._intake.observe_stream if of_stream else self._intake.observe_update
            try:
                observe(kind, body)
            except Exception:
                logger.exception("Event not understood", extra=fields(object=body.get("metadata", {}).get("name")))
        if self._events:
            self._loop.call_soon(self._take, context=self._context)


def _registry(handover: Handover) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> Any:
        found = kopf.login_via_client(**kwargs)
        if found is None or found.proxy_url:
            return found
        return dataclasses.replace(found, proxy_url=proxy_for(found.server, os.environ))

    @kopf.on.event(GROUP, VERSION, "updatestreams", registry=registry)
    async def stream_seen(event: Any, **_: Any) -> None:
        handover.put(event, of_stream=True)

    @kopf.on.event(GROUP, VERSION, "userupdates", registry=registry)
    async def update_seen(event: Any, **_: Any) -> None:
        handover.put(event, of_stream=False)

    return registry


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.watching.field_selectors[GROUP, "userupdates"] = WATCHED_PHASES
    settings.watching.chunk_size = 250
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress(prefix=GROUP, v1=False)
    settings.networking.error_backoffs = _Backoffs()
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 30
    # An object with a waiting worker of kopf's takes seven times the memory, and most objects have two events only.
    settings.queueing.idle_timeout = 0.1
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = None  # else it kills the process some time after kopf has given up once
    return settings


class _Backoffs(Collection[float]):
    """Short, jittered and endless: kopf ends the process when its backoffs are used up."""

    def __iter__(self) -> Iterator[float]:
        while True:
            yield random.uniform(0.1, 1.0)

    def __len__(self) -> int:
        return 1

    def __contains__(self, item: object) -> bool:
        return False


class _NoDiffBase(kopf.DiffBaseStorage):
    """Stores nothing: without handlers of changes there is nothing to compare. This halves kopf's CPU time an event."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        pass


class _NoProgress(kopf.AnnotationsProgressStorage):
    """Event handlers have no progress to store."""

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        pass

    def purge(self, **_: Any) -> None:
        pass

    def clear(self, *, essence: Any) -> Any:
        return essence
