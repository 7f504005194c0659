"""The bridge on real Kafka and a real API server: records become UserUpdates, RejectedEvents, positions."""

from __future__ import annotations

import base64
from typing import Any

from tests.conftest import StartReplica
from tests.support.bridge_stream import BridgeStream, check_links, good
from tests.support.eventually import eventually
from tests.support.records import GOOD


def test_a_record_becomes_an_update(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply()
    ingested.produce([("userid1", GOOD)])
    (update,) = eventually(ingested.updates, 8)
    source = update["spec"]["source"]
    assert update["metadata"]["name"].startswith("events-")
    assert update["metadata"]["name"].endswith("-p00000-0000000000000000000")
    assert update["metadata"]["labels"] == {
        "enrichment.dev/stream": "events",
        "enrichment.dev/user": "userid1",
        "enrichment.dev/bucket": "1",
    }
    wanted = {"stream": "events", "user": "userid1", "sequence": 0, **GOOD}
    assert {field: update["spec"][field] for field in wanted} == wanted
    assert (source["topic"], source["partition"], source["offset"]) == (ingested.topic, 0, 0)
    ingested.positioned(1)
    assert ingested.condition()["status"] == "True"


def test_each_update_names_the_users_one_before(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply()
    ingested.produce(good(["ana", "bo", "ana", "ana", "bo"]))
    ingested.positioned(5)
    updates = ingested.updates()
    ingested.has_made([(0, offset) for offset in range(5)])
    check_links(updates)


def test_a_finished_update_is_not_named(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply(limits={"maxObjects": 10, "maxPerUser": 1})
    ingested.produce(good(["ana", "ana"]))
    (first,) = eventually(ingested.updates)
    ingested.finish(first)
    eventually(lambda: len(ingested.updates()) == 2)
    assert "after" not in ingested.updates()[1]["spec"]["source"]


POISON: list[tuple[Any, Any, str]] = [
    (None, GOOD, "NoKey"),
    (b"", GOOD, "NoKey"),
    (b"\xff\xfe", GOOD, "KeyNotUTF8"),
    ((42).to_bytes(8), GOOD, "KeyNotText"),
    (b"\0\0\0\0\7\x0euserid1", GOOD, "KeyNotText"),
    ("ana", None, "Tombstone"),
    ("k" * 1025, GOOD, "TooLarge"),
    ("ana", b"x" * (2 << 20), "TooLarge"),
    ("ana", b"{", "NotJSON"),
    ("ana", [1], "InvalidPayload"),
    ("ana", {**GOOD, "profile": 1}, "InvalidPayload"),
    ("ana", {"profile": "dev", "permissions": "all"}, "InvalidPayload"),
    ("ana", {**GOOD, "profile": "x" * 4097}, "InvalidPayload"),
]


def test_poison_is_shown_and_stops_nothing(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply()
    ingested.reason("Consuming")
    records: list[tuple[Any, Any]] = []
    for number, (key, value, _) in enumerate(POISON):
        records += [(key, value), (f"good{number}", GOOD)]
    ingested.produce(records)
    eventually(lambda: len(ingested.updates()) == len(POISON), 5)
    ingested.positioned(len(records))
    assert [entry["reason"] for entry in ingested.rejected()] == [reason for _, _, reason in POISON]
    assert [entry["source"]["offset"] for entry in ingested.rejected()] == list(range(0, len(records), 2))
    assert base64.b64decode(ingested.rejected()[8]["value"]) == b"{"
    assert "as a 64-bit number is (42)" in ingested.rejected()[3]["message"]
    assert "begins with a Schema Registry header, schema 7" in ingested.rejected()[4]["message"]
    assert ingested.rejected()[10]["message"] == "profile is a number, not a string"


def test_a_flood_of_poison_is_folded(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply()
    ingested.produce([("ana", b"{" if number % 2 else None) for number in range(3000)])
    ingested.positioned(3000)
    shown = ingested.rejected()
    assert len(shown) <= 104
    assert sum(entry["count"] for entry in shown) == 3000
    several = [entry for entry in shown if entry["count"] > 1]
    assert {entry["reason"] for entry in several} == {"NotJSON", "Tombstone"}
    for entry in shown:
        assert entry["message"].startswith("the first of several: ") is (entry in several), entry


def test_a_taken_name_is_a_conflict(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    bridge = start_bridge()
    ingested.apply()
    ingested.produce(good(["ana"]))
    ingested.positioned(1)
    name = ingested.updates()[0]["metadata"]["name"].replace("0000000000000000000", "0000000000000000001")
    bridge.stop()
    taken = {"metadata": {"name": name}, "spec": {"stream": "events", "user": "eve", "sequence": 1, **GOOD}}
    ingested.kube.create(ingested.namespace, "userupdates", taken)
    ingested.produce(good(["ana", "bo"]))
    bridge.start()
    ingested.positioned(3)
    assert [entry["reason"] for entry in ingested.rejected()] == ["NameConflict"]
    assert {update["spec"]["user"] for update in ingested.updates()} == {"ana", "eve", "bo"}


def test_slots_are_shared_fairly_and_partitions_pause(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply(limits={"maxObjects": 10, "maxPerUser": 5})
    ingested.produce(good(["greedy"] * 30 + [f"user{number}" for number in range(20)]))
    ingested.reason("MaxObjectsReached")
    users = [update["spec"]["user"] for update in ingested.updates()]
    assert len(users) == 10
    assert users.count("greedy") <= 5
    assert len(set(users)) >= 6
    # The first of those who wait comes next, not the one who has some already.
    ingested.finish(next(update for update in ingested.updates() if update["spec"]["user"] == "user0"))
    eventually(lambda: len(ingested.updates()) == 11)
    assert len({update["spec"]["user"] for update in ingested.updates()}) == len(set(users)) + 1
    assert len(ingested.unfinished()) == 10


def test_new_limits_act_at_once(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply(limits={"maxObjects": 2, "maxPerUser": 5})
    ingested.produce(good(f"user{number}" for number in range(8)))
    ingested.reason("MaxObjectsReached")
    assert len(ingested.updates()) == 2
    ingested.change(limits={"maxObjects": 100})
    eventually(lambda: len(ingested.updates()) == 8, 3)
    ingested.reason("Consuming")


def test_hand_made_updates_count(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply(limits={"maxObjects": 3, "maxPerUser": 5})
    for number in range(2):
        spec = {"stream": "events", "user": f"hand{number}", "sequence": 1, **GOOD}
        ingested.kube.create(ingested.namespace, "userupdates", {"metadata": {"name": f"hand{number}"}, "spec": spec})
    ingested.produce(good(f"user{number}" for number in range(4)))
    ingested.reason("MaxObjectsReached")
    assert len(ingested.updates()) == 3


def test_suspended_ingest_loses_nothing(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply(suspend={"ingest": True})
    ingested.produce(good(["ana", "bo"]))
    ingested.reason("Suspended")
    assert not ingested.updates()
    ingested.change(suspend={"ingest": False})
    eventually(lambda: len(ingested.updates()) == 2, 5)
    ingested.change(suspend={"ingest": True})
    ingested.reason("Suspended")
    ingested.produce(good(["cy"]))
    ingested.change(suspend={"ingest": False})
    eventually(lambda: len(ingested.updates()) == 3, 5)


def test_two_streams_on_one_topic_are_two_subscriptions(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    other = BridgeStream(ingested.kube, ingested.bootstrap, ingested.namespace, ingested.topic, "others")
    ingested.apply()
    other.apply(kafka={"groupId": f"{ingested.topic}-others"})
    ingested.produce(good(["ana", "bo"]))
    ingested.positioned(2)
    other.positioned(2)
    assert [update["spec"]["stream"] for update in ingested.updates()] == ["events"] * 2 + ["others"] * 2


def test_a_deleted_stream_stops_and_its_objects_stay(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.apply()
    ingested.produce(good(["ana"]))
    ingested.positioned(1)
    ingested.kube.delete(ingested.namespace, "updatestreams", ingested.name)
    ingested.produce(good(["bo"]))
    assert len(ingested.updates()) == 1
    # Made anew it has no position of its own: the group's commit decides.
    ingested.apply()
    ingested.positioned(2)
    assert [update["spec"]["user"] for update in ingested.updates()] == ["ana", "bo"]


def test_latest_begins_at_the_end(ingested: BridgeStream, start_bridge: StartReplica) -> None:
    start_bridge()
    ingested.produce(good(["old"]))
    ingested.apply(kafka={"config": {"auto.offset.reset": "latest"}})
    ingested.positioned(1)
    ingested.produce(good(["new"]))
    (update,) = eventually(ingested.updates)
    assert update["spec"]["user"] == "new"
