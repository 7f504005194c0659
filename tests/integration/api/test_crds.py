"""The API server's own judgement on good and bad objects: what passes, what is refused, and in which words.

UpdateStreams have a file of their own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from controller.api import names
from devenv.environment import Environment
from devenv.errors import CommandFailed
from tests.support.manifests import ABSENT, BACKLOG, REJECTED, SOURCE, STREAM, UPDATE, Applier, Refused, changed
from tests.support.records import TRACEPARENT
from tests.support.schemas import schema


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="by hand"),
        pytest.param({"spec.user": "a\x00\x07\n=,'\" \U0001f600"}, id="any character in the user"),
        pytest.param({"spec.user": "é" * 512}, id="user of 1,024 bytes"),
        pytest.param({"spec.profile": "\U0001f600" * 4096}, id="profile of 4,096 characters"),
        pytest.param({"spec.sequence": 2**53 - 1}, id="highest sequence"),
        pytest.param({"spec.ttlSecondsAfterFinished": 0}, id="gone at once"),
        pytest.param({"spec.source": SOURCE | {"after": "x", "traceparent": TRACEPARENT}}, id="of a record"),
    ],
)
def test_a_good_update_passes_unchanged(api: Applier, changes: dict[str, Any]) -> None:
    want = changed(UPDATE, changes)["spec"] | {"suspend": False}
    assert api.tried(UPDATE, changes)["spec"] == want


BAD_UPDATES = [
    ("no user", {"spec.user": ABSENT}, "spec.user: Required value"),
    ("no profile", {"spec.profile": ABSENT}, "spec.profile: Required value"),
    ("no spec", {"spec": ABSENT}, "spec: Required value"),
    ("misspelt", {"spec.ressources": "all"}, 'unknown field "spec.ressources"'),
    ("user is a number", {"spec.user": 12}, "spec.user in body must be of type string"),
    ("empty user", {"spec.user": ""}, "spec.user in body should be at least 1 chars long"),
    ("long user", {"spec.user": "a" * 1025}, "spec.user: Too long: may not be more than 1024"),
    ("long user in bytes", {"spec.user": "é" * 513}, "must be at most 1,024 bytes in UTF-8"),
    ("long profile", {"spec.profile": "a" * 4097}, "spec.profile: Too long: may not be more than 4096"),
    ("sequence is text", {"spec.sequence": "1"}, "spec.sequence in body must be of type integer"),
    ("negative sequence", {"spec.sequence": -1}, "spec.sequence in body should be greater than or equal to 0"),
    (
        "high sequence",
        {"spec.sequence": 2**53},
        "spec.sequence in body should be less than or equal to 9007199254740991",
    ),
    ("stream is no label", {"spec.stream": "Users"}, "spec.stream: Invalid value"),
    ("stream is no label", {"spec.stream": "a.b"}, "must be the name of an UpdateStream: lower-case letters"),
    ("suspend is text", {"spec.suspend": "yes"}, "spec.suspend in body must be of type boolean"),
    ("negative time to live", {"spec.ttlSecondsAfterFinished": -1}, "should be greater than or equal to 0"),
    ("source without offset", {"spec.source": {"topic": "t"}}, "spec.source.offset: Required value"),
    ("source with a bad time", {"spec.source": SOURCE | {"timestamp": "noon"}}, "spec.source.timestamp in body"),
    (
        "source in the year 0",
        {"spec.source": SOURCE | {"timestamp": "0000-01-01T00:00:00Z"}},
        "spec.source.timestamp in body",
    ),
    ("topic id unfit for a header", {"spec.source": SOURCE | {"topicId": "a\nb"}}, "spec.source.topicId in body"),
    (
        "traceparent unfit for a header",
        {"spec.source": SOURCE | {"traceparent": "a\nb"}},
        "spec.source.traceparent in body",
    ),
]


@pytest.mark.parametrize(("changes", "want"), [pytest.param(*case[1:], id=case[0]) for case in BAD_UPDATES])
def test_a_bad_update_is_refused_by_field(api: Applier, changes: dict[str, Any], want: str) -> None:
    with pytest.raises(Refused) as refused:
        api.tried(UPDATE, changes)
    assert want in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"spec.stream": "other"}, id="stream"),
        pytest.param({"spec.user": "userid2"}, id="user"),
        pytest.param({"spec.sequence": 2}, id="sequence"),
        pytest.param({"spec.profile": "ops"}, id="profile"),
        pytest.param({"spec.permissions": "none"}, id="permissions"),
        pytest.param({"spec.resources": "none"}, id="resources"),
        pytest.param({"spec.source": ABSENT}, id="source taken away"),
        pytest.param({"spec.source": SOURCE | {"offset": 43}}, id="another offset"),
        pytest.param({"spec.source": SOURCE | {"after": "x"}}, id="after added"),
        pytest.param({"spec.source": SOURCE | {"after": "x"}, "spec.suspend": True}, id="beside suspend"),
    ],
)
def test_an_update_cannot_be_changed(api: Applier, changes: dict[str, Any]) -> None:
    api.apply(UPDATE, {"spec.source": SOURCE})
    with pytest.raises(Refused, match="only suspend and ttlSecondsAfterFinished may change"):
        api.apply(UPDATE, {"spec.source": SOURCE} | changes)


def test_a_source_cannot_be_added(api: Applier) -> None:
    api.apply(UPDATE)
    with pytest.raises(Refused, match="only suspend and ttlSecondsAfterFinished may change"):
        api.apply(UPDATE, {"spec.source": SOURCE})


def test_how_long_an_update_stays_is_said_of_hand_made_ones_alone_and_can_be_changed(api: Applier) -> None:
    ttl = "spec.ttlSecondsAfterFinished"
    for seconds in (600, ABSENT, 0):
        api.apply(UPDATE, {ttl: seconds})
    api.apply(UPDATE, {"metadata.name": "of-a-record", "spec.source": SOURCE})
    with pytest.raises(Refused, match=r"spec\.ttlSecondsAfterFinished: .*is for updates that are made by hand"):
        api.apply(UPDATE, {"metadata.name": "of-a-record", "spec.source": SOURCE, ttl: 600})


def test_suspend_and_metadata_can_be_changed(api: Applier) -> None:
    api.apply(UPDATE)
    annotations = {"enrichment.dev/request": "retry:1"}
    changes = {"spec.suspend": True, "metadata.annotations": annotations, "metadata.labels": {"a": "b"}}
    assert api.apply(UPDATE, changes)["spec"]["suspend"] is True
    assert api.apply(UPDATE)["spec"]["suspend"] is False


def condition(**changes: Any) -> dict[str, Any]:
    time = "2026-01-01T00:00:00.000000Z"
    fixed = {
        "type": "Succeeded",
        "status": "Unknown",
        "reason": "BackingOff",
        "message": "",
        "lastTransitionTime": time,
    }
    return fixed | changes


@pytest.mark.parametrize(
    ("status", "want"),
    [
        ({"phase": "is done"}, 'status.phase: Invalid value: "is done"'),
        ({"conditions": [condition(reason="a b")]}, 'status.conditions[0].reason: Invalid value: "a b"'),
        ({"conditions": [condition(reason="a" * 65)]}, "status.conditions[0].reason: Too long"),
        ({"conditions": [condition(status="Maybe")]}, "status.conditions[0].status: Unsupported value"),
        ({"conditions": [condition(), condition()]}, "status.conditions[1]: Duplicate value"),
        ({"conditions": []}, "should have at least 1 items"),
        ({"attempts": -1}, "attempts in body should be greater than or equal to 0"),
        ({"nextAttemptTime": "soon"}, "nextAttemptTime in body must be of type date-time"),
    ],
)
def test_a_bad_status_is_refused(api: Applier, status: dict[str, Any], want: str) -> None:
    api.apply(UPDATE)
    with pytest.raises(Refused) as refused:
        api.status("userupdates", "by-hand", status)
    assert want in str(refused.value)


def test_a_rejected_event_only_grows(api: Applier) -> None:
    api.apply(REJECTED)
    more = {"spec.count": 3, "spec.source.lastOffset": 50}
    assert api.apply(REJECTED, more)["spec"]["count"] == 3
    for less in ({"spec.count": 2}, {"spec.source.lastOffset": 49}):
        with pytest.raises(Refused, match="can only grow"):
            api.apply(REJECTED, more | less)
    for other in ({"spec.reason": "NoKey"}, {"spec.key": ABSENT}, {"spec.pointer": ""}, {"spec.source.offset": 41}):
        with pytest.raises(Refused, match=r"only count, source\.lastOffset and message may"):
            api.apply(REJECTED, more | other)


def test_the_message_of_a_rejected_event_changes_with_its_count_alone(api: Applier) -> None:
    """That one object was written by an earlier version, without a message, takes nothing from it."""
    message, shared = {"spec.message": "no JSON"}, {"spec.message": "the first of several: no JSON", "spec.count": 3}
    for name, first in (("new", message), ("old", {})):
        named = {"metadata.name": name}
        api.apply(REJECTED, named | first)
        for other in ({"spec.message": "well"}, {"spec.message": ABSENT if first else "no JSON"}):
            with pytest.raises(Refused, match="message can only change where several records share the object"):
                api.apply(REJECTED, named | other)
        assert api.apply(REJECTED, named | shared)["spec"]["message"] == shared["spec.message"]


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({"spec.reason": "no reason"}, "spec.reason in body should match"),
        ({"spec.message": "m" * 1025}, "spec.message: Too long"),
        ({"spec.value": "A" * 5465}, "spec.value: Too long"),
        ({"spec.value": "not base64!"}, "spec.value in body should match"),
        ({"spec.count": 0}, "spec.count in body should be greater than or equal to 1"),
    ],
)
def test_a_bad_rejected_event_is_refused(api: Applier, changes: dict[str, Any], want: str) -> None:
    with pytest.raises(Refused) as refused:
        api.tried(REJECTED, changes)
    assert want in str(refused.value)


def test_a_backlog_keeps_its_user(api: Applier) -> None:
    api.apply(BACKLOG)
    with pytest.raises(Refused, match="stream and user cannot be changed"):
        api.apply(BACKLOG, {"spec.user": "userid2"})
    partitions = [{"topicId": "a", "partition": n, "offsets": "1 " * 100_000} for n in range(2)]
    assert api.apply(BACKLOG, {"spec.partitions": partitions})
    with pytest.raises(Refused, match=r"offsets: Too long"):
        api.apply(BACKLOG, {"spec.partitions": [partitions[0] | {"offsets": "1" * 200_001}]})


def columns(table: str) -> list[str]:
    return table.splitlines()[0].split()


def test_kubectl_says_what_is_wrong(api: Applier) -> None:
    wrong = changed(UPDATE, {"spec.user": ABSENT, "spec.sequence": -1})
    with pytest.raises(CommandFailed) as refused:
        api("apply", "-f", "-", stdin=json.dumps(wrong))
    assert 'The UserUpdate "by-hand" is invalid' in str(refused.value)
    assert "spec.user: Required value" in str(refused.value)
    api("apply", "-f", "-", stdin=UPDATE)
    with pytest.raises(
        CommandFailed,
        match="only suspend and ttlSecondsAfterFinished may change; to apply other values, create another UserUpdate",
    ):
        api("apply", "-f", "-", stdin=json.dumps(changed(UPDATE, {"spec.profile": "ops"})))


def test_updates_are_listed_as_a_story(api: Applier) -> None:
    long = "user" * 75
    labels = {names.USER_LABEL: names.user_label(long)}
    api.apply(UPDATE, {"spec.user": long, "metadata.labels": labels})
    next_time = "2099-01-01T12:00:07.250Z"
    waiting = {"phase": "Waiting", "step": "profile", "attempts": 2, "busyCount": 3, "nextAttemptTime": next_time}
    api.status("userupdates", "by-hand", waiting | {"conditions": [condition()]})
    header, row = api("get", "uu").splitlines()
    assert header.split() == "NAME USER SEQ PHASE STEP TRIES NEXT REASON AGE".split()
    user = labels[names.USER_LABEL]
    assert row.split()[:-1] == ["by-hand", user, "1", "Waiting", "profile", "2", next_time, "BackingOff"]
    assert len(header) <= 150, "a user of 300 characters made it 400 wide"
    api.status("userupdates", "by-hand", {"held": "Exhausted", "conditions": [condition(reason="Held")]})
    header, row = api("get", "uu", "-o", "wide").splitlines()
    assert header.split() == "NAME STREAM USER SEQ PHASE STEP TRIES BUSY NEXT REASON HELD AGE".split()
    want = ["user-updates", user, "1", "Waiting", "profile", "2", "3", next_time, "Held", "Exhausted"]
    assert row.split()[1:-1] == want


def test_the_other_kinds_are_listed(api: Applier) -> None:
    labels = {"metadata.labels": {names.USER_LABEL: "ana"}}
    rejected = labels | {"spec.message": "the value is empty"}
    for manifest, changes in ((STREAM, {}), (REJECTED, rejected), (BACKLOG, labels)):
        api.apply(manifest, changes)
    want = "NAME TOPIC READY CONSUMING PROCESSING QUEUED WAITING HELD BACKLOG REJECTED AGE"
    assert columns(api("get", "us")) == want.split()
    header, row = api("get", "re").splitlines()
    assert header.split() == "NAME STREAM KEY REASON POINTER PARTITION OFFSET COUNT AGE".split()
    assert row.split()[1:-1] == ["user-updates", "ana", "NotJSON", "0", "42", "1"]
    header, row = api("get", "re", "-o", "wide").splitlines()
    assert "MESSAGE" in header and "the value is empty" in row
    header, row = api("get", "ub").splitlines()
    assert header.split() == "NAME USER STREAM RECORDS OLDEST AGE".split()
    assert row.split()[1:-1] == ["ana", "user-updates", "3", "7"]
    listed = api("get", "enrichment", "-o", "name").split()
    assert [name.split(".")[0] for name in listed] == ["rejectedevent", "updatestream", "userbacklog"]


def test_the_contracts_fields_are_selectable(api: Applier) -> None:
    api.apply(UPDATE)
    api.apply(UPDATE, {"metadata.name": "waits", "spec.user": "userid2", "spec.stream": "other"})
    api.status("userupdates", "waits", {"phase": "Waiting", "step": "profile", "held": "Rejected"})
    api.apply(REJECTED)
    api.apply(BACKLOG)

    def selected(kind: str, selector: str) -> list[str]:
        return api("get", kind, "--field-selector", selector, "-o", "name").split()

    by_hand, waits = "userupdate.enrichment.dev/by-hand", "userupdate.enrichment.dev/waits"
    assert selected("uu", "status.phase=") == [by_hand]
    assert selected("uu", "status.phase=Waiting") == [waits]
    assert selected("uu", "status.phase!=Running,status.phase!=Succeeded") == [by_hand, waits]
    assert selected("uu", "status.held!=") == selected("uu", "status.step=profile") == [waits]
    assert selected("uu", "status.held=Exhausted") == []
    assert selected("uu", "spec.user=userid2") == [waits]
    assert selected("uu", "spec.stream=user-updates") == [by_hand]
    assert selected("re", "spec.stream=user-updates,spec.reason=NotJSON") == ["rejectedevent.enrichment.dev/rejected"]
    assert selected("re", "spec.reason=NoKey") == []
    assert selected("ub", "spec.stream=user-updates,spec.user=userid1") == ["userbacklog.enrichment.dev/backlog"]


def test_kubectl_wait_sees_the_end(api: Applier) -> None:
    api.apply(UPDATE)
    api.status(
        "userupdates", "by-hand", {"phase": "Succeeded", "conditions": [condition(status="True", reason="Succeeded")]}
    )
    assert "condition met" in api("wait", "--for=condition=Succeeded", "uu/by-hand", "--timeout=10s")


@pytest.mark.parametrize("kind", ["us", "uu", "re", "ub"])
def test_explain_is_the_reference(api: Applier, kind: str) -> None:
    plural = {"us": "updatestreams", "uu": "userupdates", "re": "rejectedevents", "ub": "userbacklogs"}[kind]
    for path in ("", ".spec", ".status"):
        if path[1:] and path[1:] not in schema(plural)["properties"]:
            continue
        explained = api("explain", kind + path)
        assert "<no description>" not in explained
        assert "<empty>" not in explained
        properties = schema(plural)["properties"].get(path[1:], {}).get("properties", {})
        assert all(f"  {name}\t" in explained for name in properties)


def test_the_definitions_are_accepted_without_a_warning(environment: Environment) -> None:
    kubectl = environment.kubectl
    crds = Path(__file__).parents[3] / "crds"
    answers = json.loads(kubectl("apply", "-f", str(crds), "--dry-run=server", "-o", "json"))["items"]
    assert {item["spec"]["names"]["kind"] for item in answers} == {
        "UpdateStream",
        "UserUpdate",
        "RejectedEvent",
        "UserBacklog",
    }
    for crd in kubectl.json("get", "crd")["items"]:
        found = {entry["type"]: entry["status"] for entry in crd["status"]["conditions"]}
        assert found["Established"] == "True"
        assert "NonStructuralSchema" not in found
