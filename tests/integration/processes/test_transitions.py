"""Changes of a stream's conditions: a line in the log of the process that saw it, and an Event, once."""

from __future__ import annotations

from devenv.environment import Environment
from tests.chaos import topic as topics
from tests.conftest import StartReplica
from tests.support.admission import policy
from tests.support.bridge_stream import BridgeStream, good
from tests.support.controller_stream import ControllerStream
from tests.support.eventually import eventually
from tests.support.kube import Kube
from tests.support.replicas import Replica


def told(ingested: BridgeStream | ControllerStream, name: str, *expected: tuple[str, str, str]) -> None:
    """Wait until the Events of that stream are these: type, reason and the beginning of the note."""
    path = f"/apis/events.k8s.io/v1/namespaces/{ingested.namespace}/events"

    def there() -> bool:
        found = [event for event in ingested.kube.call("GET", path)["items"] if event["regarding"]["name"] == name]
        found.sort(key=lambda event: event["eventTime"])
        seen = [(event["type"], event["reason"], event["note"]) for event in found]
        assert [each[:2] for each in seen] == [each[:2] for each in expected], seen
        assert all(note.startswith(begin) for (_, _, note), (_, _, begin) in zip(seen, expected, strict=True)), seen
        return True

    eventually(there, 20)


def lines(replica: Replica, *reasons: str) -> None:
    """The log of the process tells of just these changes of conditions."""
    found = [line for line in replica.log.read_text().splitlines() if "Condition of a stream changed" in line]
    assert len(found) == len(reasons), found
    for line, reason in zip(found, reasons, strict=True):
        level = "INFO" if reason in ("Consuming", "Processing", "Suspended") else "WARNING"
        assert level in line and f" reason={reason} " in line, found


def test_the_bridge_tells_of_each_change_once(
    kube: Kube, environment: Environment, namespace: str, start_bridge: StartReplica
) -> None:
    topic = f"told-{namespace}"
    ingested = BridgeStream(kube, environment.bootstrap_servers, namespace, topic)
    bridge = start_bridge()
    ingested.apply()
    missing = ("Warning", "TopicMissing", "Consuming=False: ")
    told(ingested, ingested.name, missing)
    bridge.kill()
    bridge.start()
    topics.create(environment.bootstrap_servers, topic, 1)
    well = ("Normal", "Consuming", "Consuming=True: records are read")
    told(ingested, ingested.name, missing, well)
    kube.patch(namespace, "updatestreams", ingested.name, {"spec": {"suspend": {"ingest": True}}})
    suspended = ("Normal", "Suspended", "Consuming=False: spec.suspend.ingest")
    told(ingested, ingested.name, missing, well, suspended)
    kube.patch(namespace, "updatestreams", ingested.name, {"spec": {"suspend": {"ingest": False}}})
    told(ingested, ingested.name, missing, well, suspended, well)
    with policy(kube, namespace, "userupdates", "object.spec.user != 'bo'", reason="Invalid"):
        ingested.produce(good(["ana", "bo"]))
        refused = ("Warning", "CreatesRefused", "Consuming=False: ")
        told(ingested, ingested.name, missing, well, suspended, well, refused)
    told(ingested, ingested.name, missing, well, suspended, well, refused, well)
    lines(bridge, "TopicMissing", "Consuming", "Suspended", "Consuming", "CreatesRefused", "Consuming")


def test_the_controller_tells_of_each_change_once(stream: ControllerStream, start_controller: StartReplica) -> None:
    controller = start_controller()
    stream.apply()
    well = ("Normal", "Processing", "Processing=True: updates are applied")
    told(stream, stream.stream, well)
    stream.change(suspend={"processing": True})
    suspended = ("Normal", "Suspended", "Processing=False: spec.suspend.processing")
    told(stream, stream.stream, well, suspended)
    controller.kill()
    controller.start()
    stream.change(suspend={"processing": False})
    told(stream, stream.stream, well, suspended, well)
    lines(controller, "Processing", "Suspended", "Processing")
