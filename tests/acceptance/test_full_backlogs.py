"""Backlogs as full as they may be, in number: neither process stops for them, and no Lease lapses."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

import httpx
import psutil
import pytest

from controller.api import names
from controller.api.offset_queue import OffsetQueue
from controller.api.user_backlog import MAX_OFFSETS
from tests.conftest import StartReplica
from tests.support.background import repeating
from tests.support.eventually import Stopwatch, eventually
from tests.support.kube import Kube
from tests.support.pipeline import Pipeline
from tests.support.replicas import Replica

#: Of the process's loop, in seconds; a Lease lapses after some ten.
LONGEST_STOP = 1.0
#: Where each user's backlog begins.
FIRST = 100_000


@pytest.mark.parametrize("users", [100, pytest.param(1000, marks=pytest.mark.long)])
def test_full_backlogs_stop_neither_process(
    pipeline: Pipeline, kube: Kube, start_bridge: StartReplica, start_controller: StartReplica, users: int
) -> None:
    """The bridge adopts them; the controller reads them for the sake of each finished update of their users."""
    everybody = [f"user{number}" for number in range(users)]
    pipeline.apply(suspend={"ingest": True}, retention={"succeededSeconds": 60})
    bridge = start_bridge()
    topic_id = str(eventually(lambda: pipeline.ingested.entry().get("topicId"), 20))
    bridge.kill()
    ended = fill(pipeline, topic_id, everybody)
    with stops(controller := start_controller(wait=False)) as of_controller, stops(bridge) as of_bridge:
        bridge.start(wait=False)
        acquired = eventually(lambda: pipeline.processing.lease() and pipeline.processing.acquired(), 30)
        eventually(lambda: adopted(bridge) == users, 120, every=0.5)
        eventually(lambda: not ended & set(pipeline.processing.phases()), 120, every=0.5)
    memory = [psutil.Process(each.pid).memory_info().rss >> 20 for each in (bridge, controller)]
    print(
        f"{users} backlogs of {MAX_OFFSETS} offsets: the bridge's loop stood still for {max(of_bridge):.2f} s at"
        f" most, the controller's for {max(of_controller):.2f} s; {memory[0]} and {memory[1]} MiB"
    )
    assert pipeline.processing.acquired() == acquired
    assert max(of_bridge) < LONGEST_STOP
    assert max(of_controller) < LONGEST_STOP


def fill(pipeline: Pipeline, topic_id: str, users: list[str]) -> set[str]:
    """A full backlog for each, and an update that is finished and may be collected, as none lists it; their names."""
    entry = {"topic": pipeline.ingested.topic, "topicId": topic_id, "partition": 0}
    code = OffsetQueue(range(FIRST, FIRST + 3 * MAX_OFFSETS, 3)).encode()

    def make(numbered: tuple[int, str]) -> str:
        offset, user = numbered
        name = pipeline.processing.record(user, offset, datetime.now(UTC), topic_id=topic_id)
        pipeline.ingested.finish({"metadata": {"name": name}})
        waiting = {**entry, "offsets": code, "count": MAX_OFFSETS}
        spec = {"stream": pipeline.ingested.name, "user": user, "partitions": [waiting]}
        metadata = {"name": names.backlog_name(pipeline.ingested.name, user)}
        pipeline.ingested.kube.create(pipeline.ingested.namespace, "userbacklogs", {"metadata": metadata, "spec": spec})
        return name

    with ThreadPoolExecutor(8) as pool:
        ended = set(pool.map(make, enumerate(users)))
    status = {"partitions": [{**entry, "position": FIRST, "committed": FIRST}]}
    pipeline.ingested.kube.patch(
        pipeline.ingested.namespace, "updatestreams", pipeline.ingested.name, {"status": status}, status=True
    )
    return ended


def adopted(bridge: Replica) -> int:
    """Backlogs that it works off, by its count."""
    try:
        lines = bridge.metrics().splitlines()
    except OSError:
        return 0  # it is not up yet
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith("enrichment_bridge_backlog_users{")))


@contextmanager
def stops(replica: Replica) -> Iterator[list[float]]:
    """For how long its loop stood still, as its answers show: /healthz is answered by nothing else."""
    seen: list[float] = []
    client = httpx.Client(trust_env=False, timeout=60)

    def look() -> None:
        watch = Stopwatch()
        try:
            client.get(f"{replica.command.url}/healthz")
        except httpx.TransportError:
            return  # it is not up yet
        seen.append(watch.seconds)

    with client, repeating(look, 0.02):
        yield seen
