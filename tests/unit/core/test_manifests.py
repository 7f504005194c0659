"""What is built from records is what the CRDs let pass, to the last field."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api import names
from controller.api.names import STEPS
from controller.api.rejected_event import RejectionReason
from controller.api.update_stream import UpdateStream
from controller.api.user_update import UserUpdate
from controller.core.records import (
    FIELDS,
    MAX_FIELD_LENGTH,
    MAX_KEY_SIZE,
    Record,
    Rejection,
    UpdateEvent,
    read_record,
    rejected_event_manifest,
    user_update_manifest,
)
from tests.support.records import GOOD, TEXT, TOPIC_ID, TRACEPARENT, make_record
from tests.support.schemas import CRDS, closed, nodes, schema

URLS = {step: {"url": f"http://downstream/{step}"} for step in STEPS}
STREAM = UpdateStream.from_body(
    {
        "metadata": {"namespace": "shop", "name": "user-updates", "uid": "1"},
        "spec": {"kafka": {"bootstrapServers": "kafka:9092", "topic": "t"}, "steps": URLS},
    }
)


VALIDATORS = {
    kind: jsonschema.Draft202012Validator(closed(schema(plural)["properties"]["spec"]))
    for kind, plural in (("UserUpdate", "userupdates"), ("RejectedEvent", "rejectedevents"))
}


def build(record: Record, after: str | None = None) -> dict[str, Any]:
    read = read_record(record)
    if isinstance(read, UpdateEvent):
        return user_update_manifest(STREAM, read, after)
    return rejected_event_manifest(STREAM, record, read)


def test_a_user_update_to_the_letter() -> None:
    record = make_record(headers=[("traceparent", TRACEPARENT.encode())])
    assert build(record, after="user-updates-4f1c9a-p00000-0000000000000000041") == {
        "apiVersion": "enrichment.dev/v1alpha1",
        "kind": "UserUpdate",
        "metadata": {
            "name": "user-updates-4f1c9a-p00000-0000000000000000042",
            "namespace": "shop",
            "labels": {
                "enrichment.dev/stream": "user-updates",
                "enrichment.dev/user": "userid1",
                "enrichment.dev/bucket": "1",
            },
        },
        "spec": {
            "stream": "user-updates",
            "user": "userid1",
            "sequence": 42,
            "profile": "dev",
            "permissions": "all",
            "resources": "all",
            "source": {
                "topic": "t",
                "topicId": TOPIC_ID,
                "partition": 0,
                "offset": 42,
                "timestamp": "2026-01-01T00:00:00.123000Z",
                "traceparent": TRACEPARENT,
                "after": "user-updates-4f1c9a-p00000-0000000000000000041",
            },
        },
    }


def test_a_rejected_event_to_the_letter() -> None:
    assert build(make_record(GOOD | {"profile": 1}, key=b"ana")) == {
        "apiVersion": "enrichment.dev/v1alpha1",
        "kind": "RejectedEvent",
        "metadata": {
            "name": "user-updates-4f1c9a-p00000-0000000000000000042",
            "namespace": "shop",
            "labels": {"enrichment.dev/stream": "user-updates", "enrichment.dev/user": "ana"},
        },
        "spec": {
            "stream": "user-updates",
            "reason": "InvalidPayload",
            "message": "profile is a number, not a string",
            "pointer": "/profile",
            "source": {
                "topic": "t",
                "topicId": TOPIC_ID,
                "partition": 0,
                "offset": 42,
                "lastOffset": 42,
                "timestamp": "2026-01-01T00:00:00.123000Z",
            },
            "key": "YW5h",
            "value": base64.b64encode(b'{"profile": 1, "permissions": "all", "resources": "all"}').decode(),
            "size": 59,
            "count": 1,
        },
    }


def test_what_is_absent_is_left_out() -> None:
    spec = build(make_record(None, key=None))["spec"]
    assert {"key", "value", "pointer"}.isdisjoint(spec)
    assert build(make_record(None, key=b""))["spec"]["key"] == ""
    assert names.USER_LABEL not in build(make_record(None, key=b""))["metadata"]["labels"]
    assert {"after", "traceparent"}.isdisjoint(build(make_record())["spec"]["source"])


@pytest.mark.parametrize(
    ("key", "want"),
    [
        (b"ana", "ana"),
        (b"\0\0\0\0\7\x0euserid1", "userid1-915aa0172a9c2cc1"),
        (b"ana\xff", "ana-9ea0c0626ac15091"),
        (b"k" * 5000, f"{'k' * 40}-"),
    ],
)
def test_a_key_is_told_to_people_as_far_as_it_can_be_read(key: bytes, want: str) -> None:
    assert build(make_record({}, key=key))["metadata"]["labels"]["enrichment.dev/user"].startswith(want)


def test_an_expired_record_has_no_size() -> None:
    expired = Rejection(RejectionReason.PAYLOAD_EXPIRED, "Kafka removed the record while it waited")
    spec = rejected_event_manifest(STREAM, make_record(None), expired)["spec"]
    assert "size" not in spec
    assert spec["key"] == base64.b64encode(b"userid1").decode()


def test_a_large_record_is_shown_by_its_beginning() -> None:
    spec = build(make_record(b"x" * (2 << 20), key=b"k" * 5000))["spec"]
    assert base64.b64decode(spec["key"]) == b"k" * 4096
    assert base64.b64decode(spec["value"]) == b"x" * 4096
    assert spec["size"] == (2 << 20) + 5000


RECORDS = st.builds(
    Record,
    topic=st.just("t"),
    topic_id=st.binary(min_size=16, max_size=16).map(lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("=")),
    partition=st.integers(0, 2**31 - 1),
    offset=st.integers(0, 2**53 - 1),
    timestamp_ms=st.integers(-(2**63), 2**63 - 1),
    key=TEXT.map(str.encode) | st.binary() | st.none(),
    value=st.just(make_record().value) | st.binary(max_size=10_000) | st.none(),
    headers=st.lists(st.tuples(st.sampled_from(["traceparent", "h"]), st.binary() | st.just(TRACEPARENT.encode()))),
)


@given(record=RECORDS, after=st.none() | st.just("user-updates-4f1c9a-p00000-0000000000000000041"))
def test_whatever_is_built_is_valid(record: Record, after: str | None) -> None:
    manifest = build(record, after)
    VALIDATORS[manifest["kind"]].validate(manifest["spec"])
    assert len(manifest["metadata"]["name"]) <= 253
    assert all(len(value) <= 63 for value in manifest["metadata"]["labels"].values())


@given(record=RECORDS)
def test_what_is_built_is_read_back(record: Record) -> None:
    read = read_record(record)
    if isinstance(read, UpdateEvent):
        manifest = user_update_manifest(STREAM, read, None)
        made = {"uid": "1", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
        update = UserUpdate.from_body(manifest | {"metadata": manifest["metadata"] | made})
        assert update.spec.source == read.source
        assert (update.spec.user, update.spec.sequence) == (read.user, record.offset)


def event(**changes: Any) -> UpdateEvent:
    """Values that come from no record: nothing has checked that they are within bounds."""
    read = read_record(make_record())
    assert isinstance(read, UpdateEvent)
    return replace(read, **changes)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("length", [0, 1, MAX_FIELD_LENGTH, MAX_FIELD_LENGTH + 1])
def test_the_schema_and_the_reader_refuse_the_same_fields(field: str, length: int) -> None:
    """What only the schema refuses would wait for ever; what only the reader refuses is rejected needlessly."""
    for character in ("x", "\U0001f600"):
        text = character * length
        read = read_record(make_record(GOOD | {field: text}))
        manifest = user_update_manifest(STREAM, event(**{field: text}), None)
        assert isinstance(read, UpdateEvent) is VALIDATORS["UserUpdate"].is_valid(manifest["spec"])


@pytest.mark.parametrize("length", [0, 1, MAX_KEY_SIZE, MAX_KEY_SIZE + 1])
def test_the_schema_and_the_reader_refuse_the_same_keys(length: int) -> None:
    """One byte a character; the API server judges bytes: tests/integration/api/test_records_accepted.py."""
    read = read_record(make_record(key=b"x" * length))
    manifest = user_update_manifest(STREAM, event(user="x" * length), None)
    assert isinstance(read, UpdateEvent) is VALIDATORS["UserUpdate"].is_valid(manifest["spec"])


def test_every_rule_on_what_the_bridge_makes_is_one_that_it_knows() -> None:
    """A schema's bounds are tried above; what a rule refuses, the reader must refuse first."""
    found = {
        (f"{path}", rule["rule"])
        for plural in ("userupdates", "rejectedevents", "userbacklogs")
        for path, node in nodes(schema(plural), plural)
        for rule in node.get("x-kubernetes-validations", [])
        if "oldSelf" not in rule["rule"]  # those judge changes
    }
    label = "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')"
    assert found == {
        ("userupdates.spec", "!has(self.ttlSecondsAfterFinished) || !has(self.source)"),  # it never sets the former
        ("userupdates.spec.stream", label),
        ("userupdates.spec.user", f"size(bytes(self)) <= {MAX_KEY_SIZE}"),
        ("userbacklogs.spec.user", f"size(bytes(self)) <= {MAX_KEY_SIZE}"),
    }
    # Each name of a stream is accepted where another object names the stream.
    (name,) = [rule["rule"] for rule in schema("updatestreams")["x-kubernetes-validations"]]
    assert name == f"{label.replace('self', 'self.metadata.name')} && size(self.metadata.name) <= 63"


def test_what_names_the_same_has_the_same_bounds() -> None:
    spec = {plural: schema(plural)["properties"]["spec"]["properties"] for plural in CRDS}
    stream, rejected, backlog = spec["updatestreams"], spec["rejectedevents"], spec["userbacklogs"]
    update, entry = spec["userupdates"], backlog["partitions"]["items"]["properties"]

    def bounds(*found: dict[str, Any]) -> set[tuple[Any, ...]]:
        keys = ("type", "format", "pattern", "minLength", "maxLength", "minimum", "maximum")
        return {tuple(node.get(key) for key in keys) for node in found}

    kinds = [update["source"]["properties"], rejected["source"]["properties"], entry]
    assert len(bounds(update["stream"], rejected["stream"], backlog["stream"])) == 1
    assert len(bounds(update["user"], backlog["user"])) == 1
    for field in ("topicId", "partition"):
        assert len(bounds(*(kind[field] for kind in kinds))) == 1
    offsets = [kinds[0]["offset"], kinds[1]["offset"], kinds[1]["lastOffset"], entry["first"], entry["last"]]
    assert len(bounds(*offsets, update["sequence"])) == 1
    assert {kind["topic"]["maxLength"] for kind in kinds} == {stream["kafka"]["properties"]["topic"]["maxLength"]}


def test_the_validator_can_fail() -> None:
    manifest = build(make_record())
    with pytest.raises(jsonschema.ValidationError):
        VALIDATORS["UserUpdate"].validate(manifest["spec"] | {"sequence": -1})
    with pytest.raises(jsonschema.ValidationError):
        VALIDATORS["UserUpdate"].validate(manifest["spec"] | {"unknown": 1})
