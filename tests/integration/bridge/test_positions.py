"""The bridge and the list of positions: full, refused, raised by somebody else, of topics that are gone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from controller.bridge.membership import JOINING
from controller.bridge.positions import MAX_ENTRIES
from controller.clients.stream_status import UNREADABLE, with_condition
from tests.conftest import StartReplica
from tests.support.admission import policy
from tests.support.bridge_stream import BridgeStream, good
from tests.support.eventually import eventually


def write(ingested: BridgeStream, entries: list[dict[str, Any]]) -> None:
    status = {"status": {"partitions": entries}}
    ingested.kube.patch(ingested.namespace, "updatestreams", ingested.name, status, status=True)


def test_a_list_full_of_former_topics_takes_a_new_one(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    """A topic that is made again each night fills it; then no position and no condition was written any more."""
    ingested.apply()
    former = [
        {"topic": ingested.topic, "topicId": f"id{number:03}{'A' * 17}", "partition": partition, "position": 10**6}
        for number in range(50)
        for partition in range(100)
    ]
    for count in (2500, 5000):  # the whole of what the schema takes
        write(ingested, former[:count])
    start_bridge()
    ingested.produce(good(["ana", "bo"]))
    ingested.positioned(2, 30)
    entries = ingested.status()["partitions"]
    assert len(entries) == MAX_ENTRIES
    assert entries[-101:-1] == former[-100:]
    assert ingested.condition()["status"] == "True"


def test_a_position_that_is_raised_by_a_late_write_begins_the_reading_there(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    """Below it everything is dealt with, and may be collected by now: nothing of it is made again."""
    ingested.apply(limits={"maxObjects": 100, "maxPerUser": 1})
    bridge = start_bridge()
    ingested.produce(good(["ana"] * 3))
    ingested.positioned(1)
    write(ingested, [{**ingested.entry(), "position": 3}])
    ingested.produce(good(["bo"]))
    ingested.positioned(4, 40)
    (first,) = [update for update in ingested.updates() if update["spec"]["user"] == "ana"]
    ingested.finish(first)
    ingested.produce(good(["ana"]))
    ingested.positioned(5)
    ingested.has_made([(0, 0), (0, 3), (0, 4)])
    assert bridge.running


def test_positions_that_are_refused_are_told_of_and_written_when_they_may_be(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    bridge = start_bridge()
    ingested.apply()
    ingested.produce(good(["ana"]))
    ingested.positioned(1)
    allowed = "!has(object.status.partitions) || object.status.partitions.all(p, p.position < 2)"
    with policy(ingested.kube, ingested.namespace, "updatestreams/status", allowed, reason="Invalid"):
        ingested.produce(good(["bo", "cy"]))
        ingested.reason("StatusRefused", 20)
        assert "refused by a test's policy" in ingested.condition()["message"]
        assert ingested.entry()["committed"] == 1
        eventually(lambda: ingested.offsets() == [(0, 0), (0, 1), (0, 2)])
        assert "enrichment_status_refused_total" in bridge.metrics()
    ingested.positioned(3, 40)
    eventually(lambda: ingested.condition()["status"] == "True")


@pytest.mark.long  # a minute, in which the bridge makes sure of it
def test_former_topics_are_said_to_be_gone(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply()
    ingested.produce(good(["ana", "bo"]))
    ingested.positioned(2)
    ingested.make_topic_again()
    ingested.produce(good(["cy"]))
    eventually(lambda: len(ingested.status()["partitions"]) == 2, 30)
    assert not any("gone" in entry for entry in ingested.status()["partitions"])
    eventually(lambda: "gone" in ingested.status()["partitions"][0], 75, every=0.5)
    old, new = ingested.status()["partitions"]
    assert old["gone"] is True
    assert (new["position"], new.get("gone")) == (1, None)


def test_what_a_bridge_says_that_does_not_understand_the_stream_does_not_stay(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    """One of the version before, beside this one: it says so once for each spec, over what this one has said."""
    ingested.apply()
    start_bridge()
    ingested.produce(good(["ana"]))
    ingested.positioned(1)
    # Until there is nothing more to write.
    eventually(lambda: (ingested.entry().get("committed"), ingested.entry().get("lag")) == (1, 0))
    eventually(lambda: ingested.condition()["status"] == "True")
    for ok, reason in ((False, UNREADABLE), (None, JOINING)):  # as one of another version; as one without partitions
        status, now = ingested.status(), datetime.now(UTC)
        said = with_condition(status, "Consuming", ok, reason, "what is that?", generation=1, now=now)
        ingested.kube.patch(ingested.namespace, "updatestreams", ingested.name, {"status": said}, status=True)
        eventually(lambda: ingested.condition()["status"] == "True", 5)
