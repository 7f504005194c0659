"""What the bridge builds from hostile records is taken by the API server and comes back as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.api.update_stream import UpdateStream
from controller.core.records import Record, UpdateEvent, read_record, rejected_event_manifest, user_update_manifest
from tests.support.builders import make_stream
from tests.support.kube import Kube
from tests.support.records import GOOD, TRACEPARENT, make_record

EVERY_ASCII = "".join(map(chr, range(1, 128)))
PRINTABLE_ASCII = "".join(map(chr, range(32, 127)))
HOSTILE = [
    ("NUL", make_record(GOOD | {"profile": "\x00"})),
    ("every ASCII character", make_record(GOOD | {"profile": EVERY_ASCII}, key=PRINTABLE_ASCII.encode())),
    ("line and paragraph separators", make_record(GOOD | {"profile": "\u2028\u2029\x85"}, key="\u2028\u2029".encode())),
    ("noncharacters", make_record(GOOD | {"profile": "\ufffe\uffff\U0010ffff"}, key="\uffff".encode())),
    ("replacement character", make_record(GOOD | {"profile": "\ufffd"}, key="\ufffd".encode())),
    ("byte order mark", make_record(GOOD | {"profile": "\ufeff"}, key="a\ufeff".encode())),
    ("right to left", make_record(GOOD | {"profile": "\u202eabc"}, key="\u202eabc".encode())),
    ("a label's worst", make_record(key=b"-._-")),
    ("longest key", make_record(key="\U0001f600".encode() * 256)),
    ("longest fields", make_record(dict.fromkeys(GOOD, "\U0001f600" * 4096))),
    ("highest numbers", replace(make_record(), partition=2**31 - 1, offset=2**53 - 1, timestamp_ms=2**63 - 1)),
    ("no timestamp", make_record(timestamp_ms=-1)),
    ("traced", make_record(headers=[("traceparent", TRACEPARENT.encode())])),
    ("no key", make_record(key=None)),
    ("empty key", make_record(key=b"")),
    ("key of bytes", make_record(key=bytes(range(256)))),
    ("key of control characters", make_record(key=EVERY_ASCII.encode())),
    ("byte order mark before the key", make_record(key="\ufeffana".encode())),
    ("tombstone", make_record(None)),
    ("large", make_record(bytes(range(256)) * (1 << 13), key=b"k" * 5000)),
    ("empty value", make_record(b"")),
    ("missing field", make_record({})),
]


def manifest_of(stream: UpdateStream, record: Record) -> dict[str, Any]:
    read = read_record(record)
    if isinstance(read, UpdateEvent):
        return user_update_manifest(stream, read, after=None)
    return rejected_event_manifest(stream, record, read)


@pytest.mark.parametrize("record", [pytest.param(record, id=name) for name, record in HOSTILE])
def test_a_hostile_record_is_kept_as_it_is(kube: Kube, namespace: str, record: Record) -> None:
    manifest = manifest_of(replace(make_stream(), namespace=namespace), record)
    plural = f"{manifest['kind'].lower()}s"
    kube.create(namespace, plural, manifest)
    kept = kube.get(namespace, plural, manifest["metadata"]["name"])
    kept["spec"].pop("suspend", None)
    assert kept["spec"] == manifest["spec"]
    assert kept["metadata"]["labels"] == manifest["metadata"]["labels"]
