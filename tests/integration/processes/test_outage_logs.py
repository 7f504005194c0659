"""The logs of both processes while the API server is away: its start, its end, and nothing of each attempt."""

from __future__ import annotations

import time
from functools import partial

from devenv.environment import Environment
from tests.conftest import StartReplica
from tests.support.eventually import eventually
from tests.support.kube import Kube
from tests.support.pipeline import make_pipeline
from tests.support.replicas import Replica

#: Seconds for which it is away: some ten attempts of each of those who ask it.
AWAY_SECONDS = 6
START, END = "The API server does not answer", "The API server answers again"


def test_an_api_server_that_is_away_is_a_line_at_its_start_and_one_at_its_end(
    kube: Kube,
    environment: Environment,
    namespace: str,
    topic: str,
    start_bridge: StartReplica,
    start_controller: StartReplica,
) -> None:
    replicas = [start_bridge(), start_controller()]
    way = make_pipeline(kube, environment, namespace, topic)
    way.apply()
    count = way.produce(["ana", "bo"], 1)
    way.done(count, within=30)
    before = [replica.log.read_text() for replica in replicas]
    environment.kill("apiserver")
    try:
        began = time.monotonic()
        eventually(lambda: time.monotonic() - began > AWAY_SECONDS, AWAY_SECONDS + 5)
    finally:
        environment.start("apiserver")
    for replica in replicas:
        eventually(partial(says, replica, END), 30)
    count += way.produce(["cy"], 1)
    way.done(count, within=60)
    for replica, known in zip(replicas, before, strict=True):
        found = since(replica, known)
        assert sum(START in line for line in found) == 1, found
        assert sum(END in line for line in found) == 1, found
        others = [line for line in found if START not in line and END not in line]
        assert len(others) <= 4, others  # the Lease lapses and is had again, for one


def says(replica: Replica, text: str) -> bool:
    return text in replica.log.read_text()


def since(replica: Replica, known: str) -> list[str]:
    """The lines that its log has got since."""
    return replica.log.read_text().removeprefix(known).splitlines()
