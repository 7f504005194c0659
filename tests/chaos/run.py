"""One run: workload and faults at their times, then quiet until everything has come to rest; gives the history."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import orjson

from controller import errors
from controller.clients.cluster import REJECTED, STREAMS, UPDATES, Cluster, Resource
from devenv.errors import DevenvError
from devenv.journal import STEPS, Call, read_calls
from tests.chaos import refusals, topic, workload
from tests.chaos.history import Disturbance, History, SuspensionSeen
from tests.chaos.misbehaviour import step_spec
from tests.chaos.observer import Observer, phase
from tests.chaos.records import update_name
from tests.chaos.schedule import COMMITS, Fault, Kind
from tests.chaos.stage import Stage
from tests.chaos.workload import BLOCKED_USER, NAME_CONFLICT, HandMade, Suspension, Workload

T = TypeVar("T")

NAMESPACES = Resource("", "v1", "namespaces")
_FINISHED = frozenset({"Succeeded", "Failed"})
_POLL_SECONDS = 0.25
_RETRY_SECONDS = 0.2
#: Seconds without any progress after the last fault, after which a run counts as stuck.
STUCK_SECONDS = 60.0
#: The user of the objects that take the names of records to come.
_SQUATTER = "squatter"


@dataclass(slots=True)
class Run:
    """A workload and a schedule on a stage that is set."""

    stage: Stage
    cluster: Cluster
    workload: Workload
    faults: list[Fault]
    tell: Callable[[str], None]
    name: str = field(default_factory=lambda: f"chaos-{secrets.token_hex(3)}")
    topic_id: str = ""
    suspended: set[str] = field(default_factory=set)
    patching: asyncio.Lock = field(default_factory=asyncio.Lock)
    growing: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: By what is refused: an end is put off while the API server is away.
    refusing: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    #: Set when nothing more is to be produced.
    stop: threading.Event = field(default_factory=threading.Event)
    suspensions: list[SuspensionSeen] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    released_ns: int | None = None
    unsettled: str = ""
    started: float = 0.0

    async def play(self) -> History:
        """All of it. Raises DevenvError or ApiError where the run itself cannot go on."""
        await self.prepare()
        observer = Observer(self.cluster, self.name, self.name)
        watchers = [asyncio.create_task(observer.watch()), asyncio.create_task(observer.sample())]
        self.started = time.monotonic()
        try:
            await self._act()
            await self.stage.calm()
            self.tell("all faults are over; waiting until everything has come to rest")
            await self._settle(observer)
            self.stage.check_alive()
            self.failures += [f"nothing went by way of the proxy {link}" for link in self.stage.unused]
            return await self._gather(observer)
        finally:
            self.stop.set()
            for task in watchers:
                task.cancel()
            await asyncio.wait(watchers)

    async def prepare(self) -> None:
        """Topic, namespace, downstream rules, the objects that are in the way, and the stream last."""
        servers = self.stage.environment.bootstrap_servers
        # The last one of several is the further broker's.
        count, further = self.workload.partitions, bool(self.stage.brokers) and self.workload.partitions > 1
        nodes = [1] * (count - further) + [2] * further
        self.topic_id = await asyncio.to_thread(topic.create, servers, self.name, count, nodes)
        await self._put_rules(blocked=True)
        await self._insist(lambda: self.cluster.create(NAMESPACES, "", {"metadata": {"name": self.name}}))
        for record in self.workload.records:
            if record.reason == NAME_CONFLICT:
                taken = update_name(self.name, self.topic_id, record.partition, record.offset)
                await self._apply(HandMade(0.0, taken, _SQUATTER, record.offset))
        await self._insist(lambda: self.cluster.create(STREAMS, self.name, self._stream()))

    async def clear(self) -> None:
        """Remove what bridges and controllers would go on working with, if the API server is there."""
        with contextlib.suppress(errors.ApiError):
            await self.cluster.delete(STREAMS, self.name, self.name)

    def _stream(self) -> dict[str, Any]:
        url = self.stage.environment.linked_downstream
        kafka = {"bootstrapServers": self.stage.environment.linked_kafka, "topic": self.name, "groupId": self.name}
        return {
            "apiVersion": "enrichment.dev/v1alpha1",
            "kind": "UpdateStream",
            "metadata": {"name": self.name},
            "spec": {
                "kafka": kafka,
                "steps": {step: step_spec(f"{url}/{step}") for step in STEPS},
                **self.workload.spec,
            },
        }

    async def _act(self) -> None:
        """Records, hand-made updates, suspensions and faults, each at its time; returns when all are through."""
        servers = self.stage.environment.bootstrap_servers
        producing = asyncio.to_thread(topic.produce, servers, self.name, self.workload.records, self.started, self.stop)
        acts: list[Coroutine[Any, Any, Any]] = [producing]
        acts += [self._at(each.at, self._apply, each) for each in self.workload.hand_made]
        acts += [self._at(each.at, self._suspend, each) for each in self.workload.suspensions]
        acts += [self._at(each.at, self._disturb, each) for each in self.faults]
        for failed in await asyncio.gather(*acts, return_exceptions=True):
            if isinstance(failed, DevenvError):
                self.failures.append(str(failed))
            elif isinstance(failed, BaseException):
                raise failed

    async def _at(self, at: float, act: Callable[[T], Awaitable[None]], what: T) -> None:
        await asyncio.sleep(self.started + at - time.monotonic())
        await act(what)

    async def _disturb(self, fault: Fault) -> None:
        self.tell(str(fault))
        if fault.kind is not Kind.REFUSE:
            await self._do(fault)
            return
        async with self.refusing[fault.target]:
            await self._do(fault)

    async def _do(self, fault: Fault) -> None:
        start = time.time_ns()
        match fault.kind:
            case Kind.REFUSE if fault.target == COMMITS:
                servers = self.stage.environment.bootstrap_servers
                async with refusals.commits_refused(servers):
                    await asyncio.sleep(fault.seconds)
            case Kind.REFUSE:
                port = self.stage.environment.ports.get(f"webhook-{fault.target}")
                async with refusals.refused(self.cluster, self.name, fault.target, fault.by, port):
                    await asyncio.sleep(fault.seconds)
            case Kind.GROW:
                await self._grow()
            case _:
                await self.stage.disturb(fault)
                return
        self.stage.disturbances.append(Disturbance(fault.kind, fault.target, start, time.time_ns()))

    async def _grow(self) -> None:
        """Another partition, and records of users who have none elsewhere."""
        servers = self.stage.environment.bootstrap_servers
        async with self.growing:
            partition = await asyncio.to_thread(topic.grow, servers, self.name)
            added = workload.grown(partition, time.monotonic() - self.started)
            self.workload = replace(self.workload, records=(*self.workload.records, *added))
        await asyncio.to_thread(topic.produce, servers, self.name, added, self.started, self.stop)

    async def _apply(self, each: HandMade) -> None:
        spec = {"stream": self.name, "user": each.user, "sequence": each.sequence}
        fields = {"profile": each.name, "permissions": "all", "resources": "all"}
        manifest = {
            "apiVersion": "enrichment.dev/v1alpha1",
            "kind": "UserUpdate",
            "metadata": {"name": each.name},
            "spec": {**spec, **fields},
        }
        await self._insist(lambda: self.cluster.create(UPDATES, self.name, manifest, timeout=5.0))

    async def _suspend(self, each: Suspension) -> None:
        self.suspended.add(each.user)
        await self._insist(self._patch_suspended)
        start = time.time_ns()
        await asyncio.sleep(each.seconds)
        self.suspensions.append(SuspensionSeen(each.user, start, time.time_ns()))
        self.suspended.discard(each.user)
        await self._insist(self._patch_suspended)

    async def _patch_suspended(self) -> None:
        """With the version that was read: a patch that is cut off now must not be taken later, after newer ones."""
        async with self.patching:
            stream = await self.cluster.get(STREAMS, self.name, self.name)
            version = {"resourceVersion": stream["metadata"]["resourceVersion"]}
            patch = {"metadata": version, "spec": {"suspend": {"users": sorted(self.suspended)}}}
            await self.cluster.patch(STREAMS, self.name, self.name, patch)

    async def _settle(self, observer: Observer) -> None:
        """First all but the blocked user, then that one too, and positions at the ends."""
        good = [record.user for record in self.workload.records if record.reason is None]
        others = sum(user != BLOCKED_USER for user in good) + len(self.workload.hand_made)
        if not await self._rest(observer, lambda: self._done(observer, others=True) >= others, "updates of the others"):
            return
        self.released_ns = time.time_ns()
        self.tell(f"all but {BLOCKED_USER} are done after {time.monotonic() - self.started:.0f} s")
        await self._put_rules(blocked=False)
        total = len(good) + len(self.workload.hand_made)
        if await self._rest(observer, lambda: self._done(observer, others=False) >= total, "updates"):
            ends = Counter(record.partition for record in self.workload.records)
            await self._rest(observer, lambda: observer.positions == dict(ends), "positions")

    def _done(self, observer: Observer, *, others: bool) -> int:
        """Finished updates: as many are enough as there are records, be they the right ones or not."""
        return sum(
            phase(body) in _FINISHED and body["spec"]["user"] not in (_SQUATTER, *([BLOCKED_USER] if others else []))
            for body in list(observer.updates.values())
        )

    async def _rest(self, observer: Observer, done: Callable[[], bool], what: str) -> bool:
        progress, since = observer.progress, time.monotonic()
        while not done():
            if observer.progress != progress:
                progress, since = observer.progress, time.monotonic()
            if time.monotonic() - since > STUCK_SECONDS:
                finished, there, _ = progress
                self.unsettled = f"{what}: {finished} of {there} UserUpdates finished, positions {observer.positions}"
                self.unsettled += f"; nothing moved for {STUCK_SECONDS:g} s"
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True

    async def _gather(self, observer: Observer) -> History:
        servers = self.stage.environment.bootstrap_servers
        ends = Counter(record.partition for record in self.workload.records)
        records = await asyncio.to_thread(topic.read, servers, self.name, ends)
        updates = await self._insist(lambda: self.cluster.list(UPDATES, self.name))
        rejected = await self._insist(lambda: self.cluster.list(REJECTED, self.name))
        return History(
            workload=self.workload,
            stream=await self._insist(lambda: self.cluster.get(STREAMS, self.name, self.name)),
            topic_id=self.topic_id,
            records=tuple(records),
            updates=tuple(body for body in updates.items if body["spec"]["user"] != _SQUATTER),
            rejected=tuple(rejected.items),
            calls=tuple(call for call in self._calls() if call.user != _SQUATTER),
            sightings=tuple(observer.sightings),
            samples=tuple(observer.samples),
            disturbances=tuple(self.stage.disturbances),
            suspensions=tuple(self.suspensions),
            bridges=len(self.stage.replicas["bridge"]),
            released_ns=self.released_ns,
            unsettled=self.unsettled,
            exits=tuple(self.stage.exits),
            failures=tuple(self.failures),
        )

    def _calls(self) -> list[Call]:
        return read_journal(self.stage.environment.layout.data / "downstream" / "journal.jsonl", self.name)

    async def _put_rules(self, *, blocked: bool) -> None:
        document = orjson.dumps(self.workload.rules_document(blocked=blocked))
        url = f"{self.stage.environment.downstream_url}/control/rules"
        request = urllib.request.Request(url, document, method="PUT")
        await asyncio.to_thread(_send, request)

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Until the API server answers. What exists already was made by an attempt whose answer was lost."""
        while True:
            try:
                return await call()
            except errors.AlreadyExists as done:
                return done  # type: ignore[return-value]
            except (errors.Unavailable, errors.Conflict, errors.Expired):
                await asyncio.sleep(_RETRY_SECONDS)


def read_journal(path: Path, stream: str) -> list[Call]:
    """The calls of one stream; a last line that is being written is left out."""
    lines = path.read_bytes().split(b"\n")[:-1]
    records = (orjson.loads(line) for line in lines)
    return read_calls(record for record in records if record.get("stream", stream) == stream)


def _send(request: urllib.request.Request) -> None:
    deadline = time.monotonic() + STUCK_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            opener.open(request, timeout=5).close()
            return
        except urllib.error.HTTPError as refused:
            with refused:
                raise DevenvError(f"the downstream refuses the rules: {refused.read().decode()}") from refused
        except OSError as away:
            if time.monotonic() > deadline:
                raise DevenvError(f"the downstream does not take the rules: {away}") from away
            time.sleep(_RETRY_SECONDS)
