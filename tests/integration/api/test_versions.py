"""Kinds and objects of several versions on a real API server: what one of them writes, the others' kinds take.

The kinds of an earlier version are installed beside ours, in a group of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.api import names
from controller.api.rejected_event import RejectionReason
from controller.api.user_update_status import FINISHED, Phase, Reason, Status
from controller.clients.stream_status import with_condition
from controller.core.sharding import Shard
from controller.reconciler.stream_report import Summary, with_entry
from tests.support.builders import PERMISSIONS_DONE, PROFILE_DONE, RESOURCES_DONE
from tests.support.eventually import eventually
from tests.support.kube import GROUP, MERGE_PATCH, Kube
from tests.support.manifests import BACKLOG, REJECTED, STREAM, UPDATE, Applier, Refused, changed
from tests.unit.api.test_stored import STORED

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
BEFORE = f"before.{names.GROUP}"
KINDS = sorted((STORED[0].parent / "crds").glob("*.yaml"))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TIME = "2026-01-01T00:00:00.000000Z"
#: What the kinds of an earlier version refuse, as they list the reasons. Such a record waits until they are upgraded.
NOT_LISTED = {"0.1.0": {RejectionReason.KEY_NOT_TEXT}}


@pytest.fixture(scope="module", params=KINDS, ids=lambda path: path.stem)
def before(kube: Kube, request: pytest.FixtureRequest) -> Iterator[str]:
    """The version whose kinds are installed."""
    made = []
    for document in yaml.safe_load_all(request.param.read_text()):
        plural = document["spec"]["names"]["plural"]
        document["metadata"]["name"] = f"{plural}.{BEFORE}"
        document["spec"]["group"] = BEFORE
        for short in ("shortNames", "categories"):
            del document["spec"]["names"][short]
        made.append(kube.call("POST", CRDS, document)["metadata"]["name"])
    for name in made:
        eventually(partial(_established, kube, name), 20)
    yield request.param.stem
    for name in made:
        kube.call("DELETE", f"{CRDS}/{name}")


def _established(kube: Kube, name: str) -> bool:
    conditions = kube.call("GET", f"{CRDS}/{name}").get("status", {}).get("conditions", [])
    return {"Established": "True"}.items() <= {each["type"]: each["status"] for each in conditions}.items()


class Older:
    """Objects of the kinds of the version before."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self._kube = kube
        self._root = GROUP.replace(names.GROUP, BEFORE) + f"/namespaces/{namespace}"

    def create(self, manifest: dict[str, Any]) -> None:
        body = manifest | {"apiVersion": f"{BEFORE}/{names.VERSION}"}
        self._kube.call("POST", f"{self._root}/{body['kind'].lower()}s", body)

    def status(self, path: str, status: dict[str, Any]) -> dict[str, Any]:
        answer = self._kube.call("PATCH", f"{self._root}/{path}/status", {"status": status}, headers=MERGE_PATCH)
        return dict(answer["status"])


@pytest.fixture
def older(before: str, kube: Kube, namespace: str) -> Older:
    return Older(kube, namespace)


def statuses() -> Iterator[Status]:
    """Each phase and each reason as this version writes them."""
    done = (PROFILE_DONE, PERMISSIONS_DONE, RESOURCES_DONE)
    for phase in Phase:
        yield Status(
            phase=phase,
            step=None if phase in FINISHED else "resources",
            steps=done if phase is Phase.SUCCEEDED else done[:2],
            reason=Reason.RUNNING,
            transition_time=NOW,
            next_attempt_time=NOW,
            start_time=NOW,
        )
    for reason in Reason:
        held = Reason.EXHAUSTED if reason is Reason.HELD else None
        yield Status(phase=Phase.WAITING, step="profile", reason=reason, transition_time=NOW, held=held)


def test_updates_of_this_version_are_recorded_in_the_kinds_before(older: Older) -> None:
    older.create(changed(UPDATE, {}))
    for status in statuses():
        body = status.for_status()
        taken = older.status("userupdates/by-hand", body)
        assert taken.get("phase") == body["phase"]
        assert taken["conditions"] == body["conditions"]
        assert len(taken["steps"]) == len(body["steps"])


def test_streams_and_what_the_bridge_makes_are_taken_by_the_kinds_before(older: Older, before: str) -> None:
    older.create(changed(STREAM, {}))
    status: dict[str, Any] = {}
    for kind in ("Consuming", "Processing"):
        status = with_condition(status, kind, False, "NewWord", "why", generation=1, now=NOW)
    own = Summary({"queued": 1}, {"held": 1})
    status |= {"shards": with_entry((), own, Shard(15, 16), "controller-0"), "counts": {"queued": 1}}
    assert len(older.status("updatestreams/user-updates", status)["conditions"]) == 3
    older.create(changed(BACKLOG, {}))
    for reason in RejectionReason:
        rejected = changed(REJECTED, {"metadata.name": reason.value.lower(), "spec.reason": reason.value})
        if reason in NOT_LISTED[before]:
            with pytest.raises(AssertionError, match=r"spec\.reason: Unsupported value"):
                older.create(rejected)
        else:
            older.create(rejected)


def newer_condition(kind: str, reason: str) -> dict[str, str]:
    known = {"status": "Unknown", "message": "why", "lastTransitionTime": TIME}
    return {"type": kind, "reason": reason, **known}


NEWER_STEP = {"name": "quota", "attempts": 1, "startTime": TIME, "completionTime": TIME}


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"conditions": [newer_condition("Succeeded", "StepSuspended")]}, id="a reason"),
        pytest.param(
            {"conditions": [newer_condition("Succeeded", "Running"), newer_condition("Overtaken", "ByAnother")]},
            id="a condition",
        ),
        pytest.param({"phase": "Compensating"}, id="a phase"),
        pytest.param({"phase": "Waiting", "held": "OverBudget"}, id="a cause of a hold"),
        pytest.param({"phase": "Waiting", "step": "quota"}, id="a step in hand"),
        pytest.param({"steps": [NEWER_STEP | {"name": f"quota{n}"} for n in range(4)]}, id="steps"),
    ],
)
def test_what_a_later_version_records_is_taken(api: Applier, status: dict[str, Any]) -> None:
    """Where the kinds were rolled back and the processes not, no outcome of such an update could be recorded."""
    api.apply(UPDATE)
    api.status("userupdates", "by-hand", status)


def test_what_a_later_version_says_of_a_stream_is_taken(api: Applier) -> None:
    api.apply(STREAM)
    steps = [{"name": f"quota{n}", "refused": 1, "failing": 0, "served": 0} for n in range(4)]
    entry = {"shard": 40, "holder": "controller-0", "counts": {}, "users": {}, "steps": steps}
    status = {"conditions": [newer_condition("Degraded", "Slow")], "shards": [entry]}
    api.status("updatestreams", "user-updates", status)


def test_what_a_later_version_rejects_is_taken(api: Applier) -> None:
    api.apply(REJECTED, {"spec.reason": "TooOld"})


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_what_an_earlier_version_has_stored_is_taken_and_can_be_written(
    kube: Kube, api: Applier, namespace: str, path: Path
) -> None:
    for item in yaml.safe_load_all(path.read_text()):
        name, plural = item["metadata"]["name"], f"{item['kind'].lower()}s"
        metadata = {key: value for key, value in item["metadata"].items() if key in ("labels", "annotations")}
        kube.create(namespace, plural, {"metadata": metadata | {"name": name}, "spec": item["spec"]})
        if "status" not in item:
            continue
        api.status(plural, name, item["status"])
        assert kube.get(namespace, plural, name)["status"] == item["status"]
        condition = [each | {"message": "another"} for each in item["status"]["conditions"]]
        api.status(plural, name, {"conditions": condition})
        with pytest.raises(Refused):
            api.status(plural, name, {"conditions": "none"})
