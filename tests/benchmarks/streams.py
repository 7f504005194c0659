"""What many streams cost at rest, and whether controllers share them: `python -m tests.benchmarks.streams`.

Real parts, one bridge, several controllers. First all is at rest: CPU, memory, threads and API requests are read. Then
every stream gets a record now and then, and the controllers are restarted one after the other: who holds how many
Leases is looked at each half second, and at the end the downstream's journal.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import orjson
import psutil

from controller.api import names
from devenv import lifecycle
from devenv.environment import Environment
from devenv.journal import STEPS
from tests.benchmarks.meter import Meter, Reading
from tests.chaos import topic as topics
from tests.chaos.run import read_journal
from tests.support.background import repeating
from tests.support.eventually import eventually
from tests.support.kube import Kube
from tests.support.records import GOOD
from tests.support.replicas import Replica

NAMESPACE = "streams"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
#: Seconds between two looks at the Leases.
LOOK_SECONDS = 0.5
MIB = 1 << 20


@dataclass(slots=True)
class Watched:
    """Who held how many Leases, and for how long each had nobody."""

    #: (seconds since the first look, Leases by holder; "" is nobody)
    looks: list[tuple[float, Counter[str]]] = field(default_factory=list)
    #: Since when each Lease has had no holder.
    free: dict[str, float] = field(default_factory=dict)
    longest: float = 0.0

    def look(self, kube: Kube, began: float) -> Counter[str]:
        now = time.monotonic()
        holders = lease_holders(kube)
        for name, holder in holders.items():
            if holder:
                self.free.pop(name, None)
            else:
                self.longest = max(self.longest, now - self.free.setdefault(name, now))
        counts = Counter(holders.values())
        self.looks.append((now - began, counts))
        return counts


class Streams:
    """An environment with so many streams, each with a topic of one partition."""

    def __init__(self, environment: Environment, kube: Kube, count: int) -> None:
        self.environment = environment
        self.kube = kube
        self.names = [f"stream-{number:03d}" for number in range(count)]
        self._turns = itertools.cycle(self.names)
        self._producer = ck.Producer({"bootstrap.servers": environment.bootstrap_servers, "linger.ms": 5})
        self.sent = 0

    def begin(self, *, missing: bool = False) -> None:
        """`missing`: without their topics."""
        self.kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        for name in () if missing else self.names:
            topics.create(self.environment.bootstrap_servers, name, 1)
        for name in self.names:
            steps = {step: {"url": f"{self.environment.downstream_url}/{step}"} for step in STEPS}
            kafka = {"bootstrapServers": self.environment.bootstrap_servers, "topic": name}
            self.kube.create(
                NAMESPACE, "updatestreams", {"metadata": {"name": name}, "spec": {"kafka": kafka, "steps": steps}}
            )

    def ready(self) -> bool:
        found = self.kube.list(NAMESPACE, "updatestreams")
        ready = sum(_condition(item, "Ready") == "True" for item in found)
        assert ready == len(self.names), f"{ready} of {len(self.names)} streams are ready"
        return True

    def waiting(self) -> bool:
        found = self.kube.list(NAMESPACE, "updatestreams")
        waiting = sum(_condition(item, "Consuming", "reason") == "TopicMissing" for item in found)
        assert waiting == len(self.names), f"{waiting} of {len(self.names)} streams say that their topic is missing"
        return True

    def send(self) -> None:
        """A record of the next stream."""
        self._producer.produce(next(self._turns), key=f"user{self.sent % 7}", value=orjson.dumps(GOOD))
        self._producer.poll(0)
        self.sent += 1

    def finished(self) -> bool:
        self._producer.flush(10)
        done = self.kube.call(
            "GET",
            self.kube.path(NAMESPACE, "userupdates"),
            params={"fieldSelector": "status.phase=Succeeded", "limit": "100000"},
            headers={"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"},
        )
        count = len(done["items"] or ())
        assert count == self.sent, f"{count} of {self.sent} updates are done"
        return True

    def repeated(self) -> int:
        """Calls that were made more than once, under the same key."""
        journal = self.environment.layout.data / "downstream" / "journal.jsonl"
        keys = Counter(call.key for name in self.names for call in read_journal(journal, name))
        return keys.total() - len(keys)


def lease_holders(kube: Kube) -> dict[str, str]:
    """Of each stream's Lease."""
    items = kube.call("GET", LEASES, params={"labelSelector": names.STREAM_LABEL})["items"]
    return {item["metadata"]["name"]: item.get("spec", {}).get("holderIdentity") or "" for item in items}


def _condition(stream: Mapping[str, Any], kind: str, field: str = "status") -> str:
    conditions = {entry["type"]: entry for entry in (stream.get("status") or {}).get("conditions", ())}
    return str(conditions.get(kind, {}).get(field))


def at_rest(meter: Meter, seconds: float) -> tuple[Reading, Reading]:
    before, until = meter.before(), time.monotonic() + seconds
    eventually(lambda: time.monotonic() > until, seconds + 5, every=0.5)
    return before, meter.after()


def report_rest(before: Reading, after: Reading, seconds: float, streams: Streams) -> None:
    count = len(streams.names)
    print(f"\n{count} streams at rest for {seconds:.0f} s\n")
    print("| process | CPU, % of one processor | resident at first, at the end, MiB | threads |\n|---|---|---|---|")
    for name in after.cpu:
        percent = (after.cpu[name] - before.cpu[name]) / seconds * 100
        process = streams.environment.processes.find(name)
        threads = psutil.Process(process.pid).num_threads() if process else 0
        memory = f"{before.memory[name] / MIB:.0f}, {after.memory[name] / MIB:.0f}"
        print(f"| {name} | {percent:.1f} | {memory} | {threads} |")
    print("\n| requests | a second | a stream and second |\n|---|---|---|")
    rates = {what: (done - before.requests.get(what, 0)) / seconds for what, done in after.requests.items()}
    for what, rate in sorted(rates.items(), key=lambda entry: -entry[1]):
        if rate >= 0.05:
            print(f"| {what} | {rate:.1f} | {rate / count:.3f} |")
    print(f"| all | {sum(rates.values()):.1f} | {sum(rates.values()) / count:.3f} |")
    print(f"\netcd's log: {(after.wal_bytes - before.wal_bytes) / seconds / 1024:.0f} KiB a second")


def rolling_restart(streams: Streams, controllers: list[Replica], pause: float, settle: float) -> Watched:
    watched, began = Watched(), time.monotonic()

    def look_for(seconds: float) -> None:
        until = time.monotonic() + seconds
        eventually(lambda: (watched.look(streams.kube, began), time.monotonic() > until)[1], seconds + 30, LOOK_SECONDS)

    look_for(2)
    for replica in controllers:
        replica.stop()
        look_for(2)
        replica.start()
        print(f"{time.monotonic() - began:6.1f} s  {replica.name} restarted: {dict(watched.look(streams.kube, began))}")
        look_for(pause)
    look_for(settle)
    return watched


def report_restart(watched: Watched, streams: Streams) -> None:
    last = None
    print("\n| seconds | Leases by holder |\n|---|---|")
    for at, counts in watched.looks:
        if counts != last:
            last = counts
            shares = ", ".join(f"{name or 'nobody'}: {count}" for name, count in sorted(counts.items()))
            print(f"| {at:.1f} | {shares} |")
    print(f"\nlongest without a holder: {watched.longest:.1f} s (seen every {LOOK_SECONDS} s)")
    print(f"records: {streams.sent}, calls repeated: {streams.repeated()}")


@contextmanager
def _environment(directory: Path | None) -> Iterator[Environment]:
    where = directory or Path(tempfile.mkdtemp(prefix="userupdates-streams-"))
    environment = Environment(where)
    try:
        lifecycle.up_infrastructure(environment, tuned=True)
        yield environment
    finally:
        lifecycle.down(environment)
        shutil.rmtree(where, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--controllers", type=int, default=3)
    parser.add_argument("--rest", type=float, default=60, help="seconds at rest")
    parser.add_argument("--every", type=float, default=0.2, help="seconds between records while restarting")
    parser.add_argument("--pause", type=float, default=5, help="seconds between two restarts")
    parser.add_argument("--settle", type=float, default=60, help="seconds after the last one")
    parser.add_argument("--only-rest", action="store_true")
    parser.add_argument("--missing", action="store_true", help="the streams' topics do not exist; only at rest")
    given = parser.parse_args()
    with _environment(None) as environment:
        kube = Kube.connect(environment.kubeconfig)
        with kube.client:
            run(environment, kube, given)


def run(environment: Environment, kube: Kube, given: argparse.Namespace) -> None:
    streams = Streams(environment, kube, given.streams)
    bridge = Replica(environment, environment.replica("bridge", "bridge"))
    controllers = [
        Replica(environment, environment.replica("controller", f"controller-{number}"))
        for number in range(given.controllers)
    ]
    streams.begin(missing=given.missing)
    for replica in (bridge, *controllers):
        replica.start()
    eventually(streams.waiting if given.missing else streams.ready, 180, every=1)
    print(f"ready; Leases: {dict(Counter(lease_holders(kube).values()))}")
    parts = ("etcd", "apiserver", "kafka", *(replica.name for replica in (bridge, *controllers)))
    processes = {name: psutil.Process(_pid(environment, name)) for name in parts}
    meter = Meter(kube, environment.command("etcd").url, processes)
    at_rest(meter, 20)  # what has just begun is not at rest
    before, after = at_rest(meter, given.rest)
    report_rest(before, after, given.rest, streams)
    print(f"Leases: {dict(Counter(lease_holders(kube).values()))}")
    if given.only_rest or given.missing:
        return
    with repeating(streams.send, given.every):
        watched = rolling_restart(streams, controllers, given.pause, given.settle)
    eventually(streams.finished, 60, every=1)
    report_restart(watched, streams)


def _pid(environment: Environment, name: str) -> int:
    process = environment.processes.find(name)
    assert process is not None, f"{name} does not run\n{environment.processes.tail(name)}"
    return int(process.pid)


if __name__ == "__main__":
    main()
