"""Users with more waiting than fits: their records wait in Kafka, listed in UserBacklogs."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from controller.api import names
from controller.api.offset_queue import OffsetQueue
from devenv.environment import Environment
from tests.conftest import StartReplica
from tests.support.bridge_stream import BridgeStream, good
from tests.support.costs import backlog_writes, wal_bytes
from tests.support.eventually import eventually
from tests.support.records import GOOD


def listed(backlogs: list[dict[str, Any]]) -> list[int]:
    """Offsets that the backlogs list, rising."""
    entries = [entry for body in backlogs for entry in body["spec"].get("partitions", ())]
    return sorted(offset for entry in entries for offset in OffsetQueue.decode(entry["offsets"]))


def finish_all(ingested: BridgeStream, count: int, within: float) -> list[int]:
    """Finish each update as it comes, until there were so many; the sequences in the order of their finishing."""
    order: list[int] = []

    def step() -> bool:
        for update in ingested.unfinished():
            ingested.finish(update)
            order.append(update["spec"]["sequence"])
        return len(order) >= count

    eventually(step, within)
    return order


def overflowing(ingested: BridgeStream, users: int = 1) -> Callable[[], bool]:
    return lambda: ingested.status().get("users", {}).get("overflowing", 0) == users


def test_a_user_with_too_much_waiting_holds_nobody_up(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply()
    ingested.produce(good(["big"] * 2000 + ["small"]))
    eventually(lambda: [u for u in ingested.updates() if u["spec"]["user"] == "small"])
    ingested.positioned(2001, 40)
    (backlog,) = ingested.backlogs()
    assert backlog["spec"]["user"] == "big"
    assert backlog["metadata"]["finalizers"] == ["enrichment.dev/backlog"]
    assert listed([backlog]) == list(range(5, 2000))
    eventually(overflowing(ingested))
    eventually(lambda: (ingested.status()["backlog"], ingested.entry()["backlog"]) == ({"records": 1995}, 1995))
    assert ingested.entry()["lag"] == 0


def test_a_backlog_is_worked_off_in_order_and_removed(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply()
    ingested.produce(good(["big"] * 300))
    eventually(ingested.backlogs, 30)
    # What comes now goes behind it.
    ingested.produce(good(["big"] * 20 + ["small"]))
    order = finish_all(ingested, 321, 60)
    assert sorted(order) == list(range(321))
    ingested.has_made([(0, offset) for offset in range(321)])
    assert [sequence for sequence in order if sequence != 320] == sorted(set(order) - {320})
    eventually(lambda: not ingested.backlogs(), 20)
    ingested.positioned(321)
    eventually(overflowing(ingested, 0))
    eventually(lambda: ingested.status()["backlog"] == {"records": 0})
    # Afterwards the user is like any other.
    ingested.produce(good(["big"]))
    ingested.positioned(322)
    assert not ingested.backlogs()


def test_deleting_a_backlog_by_hand_loses_nothing(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply()
    ingested.produce(good(["big"] * 100))
    (backlog,) = eventually(ingested.backlogs, 30)
    ingested.kube.delete(ingested.namespace, "userbacklogs", backlog["metadata"]["name"])
    assert ingested.backlogs()
    events = f"/apis/events.k8s.io/v1/namespaces/{ingested.namespace}/events"

    def told() -> list[dict[str, Any]]:
        found = ingested.kube.call("GET", events)["items"]
        return [each for each in found if each["regarding"].get("uid") == backlog["metadata"]["uid"]]

    (event,) = eventually(told, 20)
    assert "95 records have become updates" in event["note"]
    finish_all(ingested, 100, 60)
    ingested.has_made([(0, offset) for offset in range(100)])
    eventually(lambda: not ingested.backlogs(), 20)


def test_finalizers_of_others_stay_and_nothing_is_put_into_what_they_keep(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    """The bridge's writes took them off; an object that only they keep goes at any moment, with all that is in it."""
    start_bridge()
    ingested.apply()
    ingested.produce(good(["big"] * 40))
    (backlog,) = eventually(ingested.backlogs, 30)
    name, ours = backlog["metadata"]["name"], backlog["metadata"]["finalizers"]

    def keep(finalizers: list[str] | None) -> None:
        ingested.kube.patch(ingested.namespace, "userbacklogs", name, {"metadata": {"finalizers": finalizers}})

    keep([*ours, "example.com/backup"])
    finish_all(ingested, 40, 60)

    def let_go() -> bool:
        (left,) = ingested.backlogs()
        return "deletionTimestamp" in left["metadata"] and left["metadata"]["finalizers"] == ["example.com/backup"]

    eventually(let_go, 20)
    ingested.produce(good(["big"] * 20 + ["small"]))
    eventually(lambda: [u for u in ingested.updates() if u["spec"]["user"] == "small"])
    assert listed(ingested.backlogs()) == [], "what only others keep lists nothing, and gets nothing"
    keep(None)
    (made,) = eventually(lambda: [body for body in ingested.backlogs() if listed([body])], 60)
    assert made["metadata"]["finalizers"] == ours
    finish_all(ingested, 21, 60)
    ingested.has_made([(0, offset) for offset in range(61)])


def test_a_damaged_backlog_is_made_anew_from_the_topic(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    """Nobody had the bytes that the stream waited for. Bad records, other users' and what was made are none of them."""
    bridge = start_bridge()
    ingested.apply()
    ingested.produce([*good(["big"] * 20), ("big", b"no JSON"), *good(["small", "big"] * 10)])
    ingested.positioned(41, 40)
    for update in ingested.unfinished()[:3]:
        ingested.finish(update)
    (backlog,) = eventually(lambda: [b for b in ingested.backlogs() if b["spec"]["partitions"][0]["first"] == 8], 30)
    bridge.kill()
    hurt(ingested, backlog, offsets="nonsense")  # which can be read, as other offsets
    bridge.start()
    finish_all(ingested, 37, 60)
    ingested.has_made([(0, offset) for offset in range(41) if offset != 20])
    eventually(lambda: not ingested.backlogs(), 20)


def test_a_backlog_that_cannot_be_mended_says_what_would_help(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    bridge = start_bridge()
    ingested.apply()
    ingested.produce(good(["big"] * 50))
    ingested.positioned(50, 40)
    (backlog,) = eventually(ingested.backlogs, 20)
    bridge.kill()
    hurt(ingested, backlog, offsets="not base64!", first=10, last=5000)  # the partition ends before that
    bridge.start(wait=False)
    ingested.reason("BacklogUnreadable", 40)
    message = ingested.condition()["message"]
    assert "says that they are 45 from 10 to 5000, where the topic has 40 records of the user, from 10 to 49" in message
    hurt(ingested, backlog, count=40, last=49)  # five are given up by whoever says so
    ingested.reason("Consuming", 40)
    finish_all(ingested, 45, 60)
    ingested.has_made([(0, offset) for offset in range(50) if not 5 <= offset < 10])


def hurt(ingested: BridgeStream, backlog: dict[str, Any], **changes: Any) -> None:
    """As somebody who edits it by hand."""
    (entry,) = ingested.kube.get(ingested.namespace, "userbacklogs", backlog["metadata"]["name"])["spec"]["partitions"]
    body = {"spec": {"partitions": [entry | changes]}}
    ingested.kube.patch(ingested.namespace, "userbacklogs", backlog["metadata"]["name"], body)


def test_a_killed_bridge_goes_on_with_its_backlogs(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    bridge = start_bridge()
    ingested.apply()
    ingested.produce(good(["big"] * 200 + ["small", "big"]))
    ingested.positioned(202, 40)
    before = finish_all(ingested, 50, 30)
    bridge.kill()
    bridge.start()
    ingested.produce(good(["big", "small"]))
    finish_all(ingested, 204 - len(before), 60)
    ingested.has_made([(0, offset) for offset in range(204)])
    eventually(lambda: not ingested.backlogs(), 20)


def events(ingested: BridgeStream) -> dict[str, str]:
    """The note of each Event by its reason."""
    path = f"/apis/events.k8s.io/v1/namespaces/{ingested.namespace}/events"
    return {event["reason"]: event["note"] for event in ingested.kube.call("GET", path)["items"]}


def test_a_backlog_of_a_gone_stream_can_be_deleted_and_what_is_given_up_is_told(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    bridge = start_bridge()
    ingested.apply()
    ingested.produce(good(["big"] * 100))
    ingested.positioned(100)
    ingested.kube.delete(ingested.namespace, "updatestreams", ingested.name)
    assert "95 records of one user" in eventually(lambda: events(ingested).get("RecordsWaiting", ""))
    assert "RecordsGivenUp" not in events(ingested)
    (backlog,) = ingested.backlogs()
    ingested.kube.delete(ingested.namespace, "userbacklogs", backlog["metadata"]["name"])
    eventually(lambda: not ingested.backlogs(), 20)
    assert "95 records" in eventually(lambda: events(ingested).get("RecordsGivenUp", ""))
    log = bridge.log.read_text()
    assert "Partitions let go: their stream was deleted" in log
    assert log.count("WARNING") == 2, "what waits, and what is given up"


def test_a_stream_that_is_applied_again_goes_on_with_its_backlogs(
    ingested: BridgeStream, start_bridge: StartReplica
) -> None:
    start_bridge()
    ingested.apply()
    ingested.produce(good(["big"] * 50))
    ingested.positioned(50)
    eventually(lambda: ingested.status()["backlog"] == {"records": 45} and overflowing(ingested)())
    ingested.change(kafka={"secretRef": {"name": "missing"}})  # as is deleted what does not work
    ingested.reason("SecretMissing")
    ingested.kube.delete(ingested.namespace, "updatestreams", ingested.name)
    assert "45 records of one user" in eventually(lambda: events(ingested).get("RecordsWaiting", ""))
    ingested.apply()
    assert finish_all(ingested, 50, 40) == list(range(50))
    eventually(lambda: not ingested.backlogs(), 20)


def test_more_than_a_backlog_holds_pauses_the_partition(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply()
    ingested.produce(good(["big"] * 20_500))
    ingested.reason("BacklogFull", 60)
    eventually(lambda: len(listed(ingested.backlogs())) == 20_000)
    assert len(ingested.updates()) == 5


def test_backlogs_cost_few_writes_and_few_bytes(
    ingested: BridgeStream, start_bridge: StartReplica, environment: Environment
) -> None:
    """What comes in half a second is one write, of all that the user has waiting: one byte and a third for each."""
    start_bridge()
    ingested.apply()
    ingested.produce(good(["big"] * 3000))
    ingested.positioned(3000, 40)
    writes, stored, began = backlog_writes(ingested.kube), wal_bytes(environment), time.monotonic()
    for part in range(20):
        ingested.produce(good(["big"] * 50))
        ingested.positioned(3050 + 50 * part, 20)
    seconds = time.monotonic() - began
    writes, stored = backlog_writes(ingested.kube) - writes, wal_bytes(environment) - stored
    (backlog,) = ingested.backlogs()
    size = len(json.dumps(backlog))
    print(
        f"{writes} writes of up to {size} bytes for 1,000 records in {seconds:.0f} s; {stored >> 10} KiB to etcd's log"
    )
    assert size < 8_000
    assert writes <= min(20, 2 * seconds) + 3
    # With each of them a position is written, and a commit's mirror; some of the rest is other streams' and Leases'.
    assert stored < 3 * writes * size + 20_000 * seconds


def test_many_stuck_users_let_the_position_move_on(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply(limits={"maxObjects": 500, "maxPerUser": 5})
    stuck = [f"stuck{number}" for number in range(100)]
    ingested.produce(good(stuck * 20))
    ingested.positioned(2000, 60)
    created = Counter(update["spec"]["user"] for update in ingested.updates())
    assert set(created) == set(stuck)
    assert len(listed(ingested.backlogs())) + created.total() == 2000
    ingested.produce(good(["free"]))
    eventually(lambda: [u for u in ingested.updates() if u["spec"]["user"] == "free"], 3)


def test_what_an_earlier_version_has_put_aside_is_made(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    """It took any UTF-8 for a key. What is read anew is refused; a backlog's record was taken, so it is made.

    One of which this version makes none, whoever has put it aside, stops nothing.
    """
    bridge = start_bridge()
    ingested.apply()
    ingested.produce([("ana\n", b"no JSON"), ("ana\n", GOOD), *good(["bo"])])
    ingested.positioned(3)
    bridge.stop()
    assert [entry["reason"] for entry in ingested.rejected()] == ["KeyNotText"] * 2
    put_aside = {"topicId": ingested.entry()["topicId"], "partition": 0, "offsets": OffsetQueue([0, 1]).encode()}
    spec = {"stream": ingested.name, "user": "ana\n", "partitions": [put_aside | {"count": 2, "first": 0, "last": 1}]}
    metadata = {"name": names.backlog_name(ingested.name, "ana\n"), "finalizers": [names.BACKLOG_FINALIZER]}
    ingested.kube.create(ingested.namespace, "userbacklogs", {"metadata": metadata, "spec": spec})
    bridge.start()
    eventually(lambda: ingested.offsets() == [(0, 1), (0, 2)], 30)
    assert ingested.updates()[0]["spec"]["user"] == "ana\n"
    eventually(lambda: not ingested.backlogs(), 20)
