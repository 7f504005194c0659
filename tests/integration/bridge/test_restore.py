"""A stream that is restored without its status runs nothing again, and goes on when the status is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from controller.api.names import UID_ANNOTATION
from controller.clients.adoption import RESTORED
from devenv.environment import Environment
from devenv.layout import ROOT
from tests.conftest import StartReplica
from tests.support.controller_stream import ControllerStream
from tests.support.eventually import eventually, throughout
from tests.support.pipeline import Pipeline

USERS = ["ana", "bo", "cy"]
KINDS = ("updatestreams", "userupdates", "rejectedevents", "userbacklogs")


def condition(pipeline: Pipeline, kind: str) -> tuple[str, str]:
    found = pipeline.ingested.condition(kind)
    return found.get("status", ""), found.get("reason", "")


def test_a_restored_stream_waits_for_its_status_and_repeats_nothing(
    pipeline: Pipeline,
    environment: Environment,
    start_bridge: StartReplica,
    start_controller: StartReplica,
    tmp_path: Path,
) -> None:
    """The commands are those of docs/backup.md."""
    replicas = [start_bridge(), start_controller()]
    pipeline.apply()
    count = pipeline.produce(USERS, 2)
    pipeline.all_recorded(count)
    pipeline.ingested.positioned(count)
    # One that waits for its time: its two steps are not to be called again.
    pipeline.processing.rules({"user": "dan", "step": "resources", "action": "busy", "retryAfter": 300})
    pipeline.produce(["dan"], 1)
    pipeline.processing.called(3, "dan")
    eventually(lambda: "DownstreamBusy" in map(pipeline.processing.reason, pipeline.processing.phases()))
    pipeline.ingested.positioned(count + 1)

    kubectl = environment.kubectl
    backup = kubectl("-n", pipeline.ingested.namespace, "get", "us,ub,re,uu", "-o", "json")
    (tmp_path / "backup.json").write_text(backup)
    for replica in replicas:
        replica.kill()
    for plural in KINDS:
        pipeline.ingested.kube.call("DELETE", pipeline.ingested.kube.path(pipeline.ingested.namespace, plural))
    before = [call.key for call in pipeline.processing.calls()]

    for replica in replicas:
        replica.start()
    subprocess.run(
        [sys.executable, str(ROOT / "deploy" / "restore.py"), "backup.json"], cwd=tmp_path, check=True, timeout=30
    )
    kubectl("create", "-f", str(tmp_path / "objects.json"))
    eventually(lambda: condition(pipeline, "Consuming") == ("False", RESTORED), 20)
    eventually(lambda: condition(pipeline, "Processing") == ("False", RESTORED), 20)
    assert condition(pipeline, "Ready") == ("False", RESTORED)
    assert set(pipeline.processing.phases().values()) == {None}, "no status is written to what is not understood yet"

    kubectl("replace", "--subresource=status", "-f", str(tmp_path / "status.json"))
    kubectl("-n", pipeline.ingested.namespace, "annotate", "us", "--all", f"{UID_ANNOTATION}-")
    eventually(lambda: condition(pipeline, "Ready") == ("True", "Ready"), 20)
    pipeline.produce(USERS, 1)
    pipeline.all_recorded(count + len(USERS))
    later = [call for call in pipeline.processing.calls() if call.key not in before]
    assert len(pipeline.processing.calls()) == len(before) + len(later), "nothing was called again"
    assert sorted((call.user, call.sequence) for call in later) == sorted(
        (user, count + 1 + index) for index, user in enumerate(USERS) for _ in range(3)
    )
    assert pipeline.ingested.kube.get(pipeline.ingested.namespace, "updatestreams", pipeline.ingested.name)["metadata"][
        "annotations"
    ][UID_ANNOTATION], "it is adopted as itself"


def test_a_stream_that_is_applied_again_is_no_copy(
    pipeline: Pipeline, start_bridge: StartReplica, start_controller: StartReplica
) -> None:
    """A manifest has no annotation: what is deleted and applied again goes on by itself."""
    start_bridge()
    start_controller()
    pipeline.apply()
    count = pipeline.produce(USERS, 1)
    pipeline.all_recorded(count)
    pipeline.ingested.kube.delete(pipeline.ingested.namespace, "updatestreams", pipeline.ingested.name)
    pipeline.apply()
    pipeline.produce(USERS, 1)
    pipeline.all_recorded(2 * count)


def test_the_updates_of_a_restored_stream_that_is_deleted_say_so(
    stream: ControllerStream, start_controller: StartReplica
) -> None:
    """Nobody works on it, whose end would have told of them."""
    stream.apply()
    mark = {"metadata": {"annotations": {UID_ANNOTATION: "of-another"}}}
    stream.kube.patch(stream.namespace, "updatestreams", stream.stream, mark)
    start_controller()
    eventually(lambda: stream.condition().get("reason") == RESTORED)
    name = stream.add()
    throughout(lambda: stream.phases() == {name: None}, seconds=3)  # beyond the grace in which a stream may come
    stream.remove()
    stream.until(name, "Waiting", "StreamMissing")
