"""What a record says, and in which order its faults are judged."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.rejected_event import RejectionReason
from controller.core import formats, records
from controller.core.records import Record, Rejection, UpdateEvent, read_record
from tests.support.records import GOOD, TEXT, TOPIC_ID, TRACEPARENT, make_record

JSON_BYTES = json.dumps(GOOD).encode()


def rejection(record: Record) -> tuple[str, str | None]:
    read = read_record(record)
    assert isinstance(read, Rejection), read
    assert read.message
    return read.reason.value, read.pointer


def event(record: Record) -> UpdateEvent:
    read = read_record(record)
    assert isinstance(read, UpdateEvent), read
    return read


def test_a_good_record_is_an_event() -> None:
    read = event(make_record())
    assert (read.user, read.profile, read.permissions, read.resources) == ("userid1", "dev", "all", "all")
    assert read.source.name == f"{TOPIC_ID}/0"
    assert read.source.timestamp == datetime(2026, 1, 1, 0, 0, 0, 123000, UTC)


WANT = [
    ("no key", make_record(key=None), ("NoKey", None)),
    ("empty key", make_record(key=b""), ("NoKey", None)),
    ("key of bytes", make_record(key=b"\xff\xfe"), ("KeyNotUTF8", None)),
    ("key of half a surrogate pair", make_record(key=b"\xed\xa0\x80"), ("KeyNotUTF8", None)),
    ("number as key", make_record(key=(42).to_bytes(8)), ("KeyNotText", None)),
    ("Schema Registry header before the key", make_record(key=b"\0\0\0\0\7\x0euserid1"), ("KeyNotText", None)),
    ("byte order mark before the key", make_record(key=b"\xef\xbb\xbfuserid1"), ("KeyNotText", None)),
    ("UTF-16 without a mark as key", make_record(key="userid1".encode("utf-16-le")), ("KeyNotText", None)),
    ("key with a line end", make_record(key=b"userid1\n"), ("KeyNotText", None)),
    ("key with DEL", make_record(key=b"userid\x7f"), ("KeyNotText", None)),
    ("key with C1", make_record(key="userid\x85".encode()), ("KeyNotText", None)),
    ("no value", make_record(None), ("Tombstone", None)),
    ("key too long", make_record(key=b"a" * 1025), ("TooLarge", None)),
    ("two MiB", make_record(b"x" * (2 << 20)), ("TooLarge", None)),
    ("large by its headers", make_record(headers=[("h", b"x" * (1 << 20))]), ("TooLarge", None)),
    ("empty value", make_record(b""), ("NotJSON", None)),
    ("no JSON", make_record(b"{profile: dev}"), ("NotJSON", None)),
    ("cut off", make_record(b'{"profile": "dev"'), ("NotJSON", None)),
    ("more behind it", make_record(b"{} {}"), ("NotJSON", None)),
    ("NaN", make_record(b'{"x": NaN}'), ("NotJSON", None)),
    ("Infinity", make_record(b'{"x": -Infinity}'), ("NotJSON", None)),
    ("not UTF-8", make_record(b'{"profile": "\xff"}'), ("NotJSON", None)),
    ("UTF-16", make_record(json.dumps(GOOD).encode("utf-16")), ("NotJSON", None)),
    ("byte order mark", make_record(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()), ("NotJSON", None)),
    ("raw control character", make_record(b'{"profile": "\x01"}'), ("NotJSON", None)),
    ("a little too deep", make_record(b"[" * 513 + b"]" * 513), ("NotJSON", None)),
    ("far too deep", make_record(b"[" * 500_000 + b"]" * 500_000), ("NotJSON", None)),
    ("deep in objects", make_record(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), ("NotJSON", None)),
    ("a list", make_record([]), ("InvalidPayload", "")),
    ("a list as deep as allowed", make_record(b"[" * 512 + b"]" * 512), ("InvalidPayload", "")),
    ("null", make_record(b"null"), ("InvalidPayload", "")),
    ("a string", make_record("dev"), ("InvalidPayload", "")),
    ("empty object", make_record({}), ("InvalidPayload", "/profile")),
    ("missing", make_record({"profile": "a", "resources": "b"}), ("InvalidPayload", "/permissions")),
    ("null field", make_record(GOOD | {"resources": None}), ("InvalidPayload", "/resources")),
    ("number", make_record(GOOD | {"profile": 1}), ("InvalidPayload", "/profile")),
    ("number of 5,000 digits", make_record(b'{"profile": ' + b"1" * 5000 + b"}"), ("InvalidPayload", "/profile")),
    ("list field", make_record(GOOD | {"permissions": ["all"]}), ("InvalidPayload", "/permissions")),
    ("empty field", make_record(GOOD | {"profile": ""}), ("InvalidPayload", "/profile")),
    ("field too long", make_record(GOOD | {"profile": "x" * 4097}), ("InvalidPayload", "/profile")),
    ("half a surrogate pair", make_record(GOOD | {"profile": "\ud800"}), ("InvalidPayload", "/profile")),
    ("repeated", make_record(b'{"profile":"a","profile":"a"}'), ("InvalidPayload", "/profile")),
    ("repeated behind an escape", make_record(rb'{"profile":"a","\u0070rofile":"b"}'), ("InvalidPayload", "/profile")),
    ("another case", make_record({"Profile": "a"}), ("InvalidPayload", "/profile")),
]


@pytest.mark.parametrize(("record", "want"), [pytest.param(*case[1:], id=case[0]) for case in WANT])
def test_a_bad_record_is_rejected(record: Record, want: tuple[str, str | None]) -> None:
    assert rejection(record) == want


def test_faults_are_judged_in_the_order_of_the_reasons() -> None:
    """Each record has the fault of its reason and all later ones; taking the first away shows the next."""
    huge = b"\xff" * (2 << 20)
    assert rejection(make_record(None, key=None)) == ("NoKey", None)
    assert rejection(make_record(None, key=b"\xff" * 2000)) == ("KeyNotUTF8", None)
    assert rejection(make_record(None, key=b"\n" * 2000)) == ("KeyNotText", None)
    assert rejection(make_record(None, key=b"a" * 2000)) == ("Tombstone", None)
    assert rejection(make_record(huge, key=b"a" * 2000)) == ("TooLarge", None)
    assert rejection(make_record(huge)) == ("TooLarge", None)
    assert rejection(make_record(b'{"profile": 1, "permissions": NaN}')) == ("NotJSON", None)
    assert rejection(make_record(b'{"profile": 1, "permissions": 1}')) == ("InvalidPayload", "/profile")


def test_sizes_at_their_limits_pass() -> None:
    assert event(make_record(key=b"a" * 1024)).user == "a" * 1024
    assert event(make_record(key="é".encode() * 512)).user == "é" * 512
    assert event(make_record(GOOD | {"profile": "\U0001f600" * 4096})).profile == "\U0001f600" * 4096
    padding = (1 << 20) - make_record(GOOD | {"x": ""}).size
    assert make_record(GOOD | {"x": "a" * padding}).size == 1 << 20
    assert event(make_record(GOOD | {"x": "a" * padding}))
    assert rejection(make_record(GOOD | {"x": "a" * (padding + 1)})) == ("TooLarge", None)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b'{"x": 1, "x": 2, %s', id="repeated name that is not used"),
        pytest.param(rb'{"x": "\ud800", %s', id="half a surrogate pair that is not used"),
        pytest.param(b'{"x": 1e999, %s', id="number beyond the range of floats"),
        pytest.param(b'{"x": {"profile": 1}, %s', id="a field's name further in"),
        pytest.param(b'{"x": "profile", "y": "\\"profile\\"", %s', id="a field's name as a value"),
        pytest.param(b'{"x": [' + b"[]," * 1000 + b"1], %s", id="many brackets"),
    ],
)
def test_what_is_not_used_is_ignored(value: bytes) -> None:
    read = event(make_record(value % json.dumps(GOOD).encode()[1:]))
    assert (read.profile, read.permissions, read.resources) == ("dev", "all", "all")


@pytest.mark.parametrize("user", ["a =,'/ \U0001f600", "a\ufeff", "\u2028", "\ufffd", "\u200b", '"userid1"', " "])
def test_keys_may_hold_any_text(user: str) -> None:
    assert event(make_record(key=user.encode())).user == user


def test_what_an_earlier_version_has_put_aside_is_applied() -> None:
    """Its key was good then, and so were those of the user's records that have been applied."""
    for key in (b"\0\0\0\0\7\x0euserid1", b"\xef\xbb\xbfuserid1", b"userid1\n"):
        read = read_record(make_record(key=key), from_backlog=True)
        assert isinstance(read, UpdateEvent) and read.user.encode() == key
    for record, want in ((make_record(key=b"\xff"), "KeyNotUTF8"), (make_record({}, key=b"\n"), "InvalidPayload")):
        verdict = read_record(record, from_backlog=True)
        assert isinstance(verdict, Rejection) and verdict.reason.value == want


@pytest.mark.parametrize(
    ("milliseconds", "want"),
    [
        (-1, datetime(1970, 1, 1, tzinfo=UTC)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (1, datetime(1970, 1, 1, 0, 0, 0, 1000, UTC)),
        (2**63 - 1, datetime(2999, 12, 31, tzinfo=UTC)),
    ],
)
def test_any_timestamp_is_a_time(milliseconds: int, want: datetime) -> None:
    assert event(make_record(timestamp_ms=milliseconds)).source.timestamp == want


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (TRACEPARENT, TRACEPARENT),
        ("cc" + TRACEPARENT[2:], "cc" + TRACEPARENT[2:]),
        ("cc" + TRACEPARENT[2:] + "-later", "cc" + TRACEPARENT[2:] + "-later"),
        (TRACEPARENT + "-later", None),
        ("ff" + TRACEPARENT[2:], None),
        (TRACEPARENT.upper(), None),
        (TRACEPARENT + "\n", None),
        (TRACEPARENT[:-1], None),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", None),
        (f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01", None),
        ("é", None),
        ("", None),
    ],
)
def test_just_a_valid_traceparent_is_passed_on(value: str, want: str | None) -> None:
    assert event(make_record(headers=[("traceparent", value.encode())])).source.traceparent == want


def test_the_last_traceparent_counts() -> None:
    assert event(make_record(headers=[("traceparent", b"x"), ("traceparent", TRACEPARENT.encode())])).source.traceparent
    assert not event(
        make_record(headers=[("traceparent", TRACEPARENT.encode()), ("traceparent", None)])
    ).source.traceparent


@given(key=st.binary() | st.none(), value=st.binary() | st.none(), timestamp_ms=st.integers(-(2**63), 2**63 - 1))
def test_no_bytes_raise(key: bytes | None, value: bytes | None, timestamp_ms: int) -> None:
    assert isinstance(read_record(make_record(value, key=key, timestamp_ms=timestamp_ms)), Rejection | UpdateEvent)


#: Without control characters, and without a byte order mark in front.
PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=20).filter(
    lambda text: not text.startswith("\ufeff")
)
FIELD_NAMES = st.sampled_from([*records.FIELDS, "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELD_NAMES | TEXT, inner, max_size=4),
    max_leaves=10,
)


@given(user=PLAIN, fields=st.fixed_dictionaries(dict.fromkeys(records.FIELDS, TEXT)), ascii_only=st.booleans())
def test_what_was_written_is_read(user: str, fields: dict[str, str], ascii_only: bool) -> None:
    read = event(make_record(json.dumps(fields, ensure_ascii=ascii_only).encode(), key=user.encode()))
    assert {field: getattr(read, field) for field in fields} == fields
    assert read.user == user


@given(members=st.lists(st.tuples(FIELD_NAMES, JSON), max_size=5), ascii_only=st.booleans())
def test_the_quick_reader_agrees_with_the_thorough_one(members: list[tuple[str, Any]], ascii_only: bool) -> None:
    inner = (f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=ascii_only)}" for name, value in members)
    value = ("{" + ", ".join(inner) + "}").encode()
    quick, thorough = records._read_quickly(value), records._read_thoroughly(value)
    assert not isinstance(thorough, Rejection)
    names = [name for name, _ in members]
    for field in records.FIELDS:
        if names.count(field) > 1:
            assert quick is None or field not in dict(quick)
    if quick is not None:
        assert records._read_members(quick) == records._read_members(thorough)


@given(value=st.binary(max_size=40) | JSON.map(lambda document: json.dumps(document).encode()))
def test_the_quick_reader_takes_nothing_that_is_no_json(value: bytes) -> None:
    if records._read_quickly(value) is not None:
        assert not isinstance(records._read_thoroughly(value), Rejection)


# Each message names the fault, in words that a person could search for. What the record holds is not in them.
SAID = [
    (make_record(key=None), "has no key"),
    (make_record(key=b""), "the key is empty"),
    (make_record(key=b"\0\0\0\0\7\x0euserid1"), "begins with a Schema Registry header, schema 7"),
    (make_record(key=b"\0\0\0\0\7\4ab"), "begins with a Schema Registry header, schema 7"),
    (make_record(key=(42).to_bytes(8)), "as a 64-bit number is (42)"),
    (make_record(key=(1 << 40).to_bytes(8)), "as a 64-bit number is (1099511627776)"),
    (make_record(key=(-5).to_bytes(8, signed=True)), "as a 64-bit number is (-5)"),
    (make_record(key=(7).to_bytes(4)), "as a 32-bit number is (7)"),
    (make_record(key=b"\xef\xbb\xbfuserid1"), "begins with a byte order mark"),
    (make_record(key="userid1".encode("utf-16")), "is UTF-16"),
    (make_record(key="userid1".encode("utf-16-le")), "is UTF-16"),
    (make_record(key=b"userid1\n"), "U+000A (line feed) at character 8 of 8"),
    (make_record(key=b"\x0euserid1"), "looks like Avro without its schema"),
    (make_record(key=b"\n\x07userid1"), "looks like Protobuf"),
    (make_record(key=b"\xac\xed\0\5t\0\7userid1"), "is a serialized Java object"),
    (make_record(key=bytes(range(0x8F, 0x9F))), "as a UUID in binary is"),
    (make_record(None), "has no value"),
    (make_record(key=b"a" * 1025), "the key is 1,025 bytes long, 1,024 are allowed"),
    (make_record(b"x" * (2 << 20), headers=[("h", b"xyz")]), "its value has 2,097,152, its headers have 4"),
    (make_record(b""), "the value is empty"),
    (make_record(b"\0\0\0\0\7\6dev\6all\6all"), "the value begins with a Schema Registry header, schema 7"),
    (make_record(b"\0\0\1\0\7" + JSON_BYTES), "Schema Registry header, schema 65543, and JSON behind it"),
    (make_record(b"\3\0" + b"\xaa" * 16 + b"\6dev"), "begins with an AWS Glue Schema Registry header"),
    (make_record(b"\6dev\6all\6all"), "looks like Avro without its schema"),
    (make_record(b"\n\3dev\x12\3all\x1a\3all"), "looks like Protobuf"),
    (make_record(b"\x83\xa7profile\xa3dev"), "looks like MessagePack"),
    (make_record(b"\xa3gprofilecdev"), "looks like CBOR"),
    (make_record(b"\x12\0\0\0\2a\0\6\0\0\0hello\0\0"), "looks like BSON"),
    (make_record(b"\xef\xbb\xbf" + JSON_BYTES), "the value begins with a byte order mark"),
    (make_record(json.dumps(GOOD).encode("utf-16")), "the value is UTF-16"),
    (make_record(json.dumps(GOOD).encode("utf-16-be")), "the value is UTF-16"),
    (make_record(json.dumps(GOOD).encode("utf-32")), "the value is UTF-32"),
    (make_record(gzip.compress(JSON_BYTES)), "is compressed with gzip"),
    (make_record(zlib.compress(JSON_BYTES)), "is compressed with zlib"),
    (make_record(base64.b64encode(JSON_BYTES)), "looks like JSON in base64"),
    (make_record(b"<event/>"), "looks like XML"),
    (make_record(JSON_BYTES[:-1]), "it ends too early, after 59 bytes"),
    (make_record(JSON_BYTES[:-5]), "it ends too early, after 55 bytes"),
    (make_record(JSON_BYTES + b"}"), "at character 61: Extra data"),
    (make_record(b'{"x": NaN}'), "NaN is no number of JSON"),
    (make_record(b'{"x": "\xff"}'), "is not UTF-8, from byte 8 on"),
    (make_record(json.dumps(GOOD)), "is a string that holds JSON (encoded twice), not an object"),
    (make_record("dev"), "the value is a string, not an object"),
    (make_record([GOOD]), "the value is a list, not an object"),
    (make_record({}), "profile is missing"),
    (make_record(GOOD | {"profile": 1}), "profile is a number, not a string"),
    (make_record(GOOD | {"profile": 10**400}), "profile is a number, not a string"),
    (make_record(GOOD | {"resources": None}), "resources is null, not a string"),
    (make_record(GOOD | {"resources": False}), "resources is a boolean, not a string"),
    (make_record(GOOD | {"permissions": ["x"]}), "permissions is a list, not a string"),
    (make_record(GOOD | {"permissions": {"x": "\n"}}), "permissions is an object, not a string"),
    (make_record(GOOD | {"profile": ""}), "profile is empty: 1 to 4,096 characters are allowed"),
    (make_record(GOOD | {"profile": "x" * 4097}), "profile is 4,097 characters long, 1 to 4,096 are allowed"),
    (make_record(b'{"profile":"a","profile":"b","profile":"c"}'), "profile is there 3 times"),
    (make_record({"Profile": "a"}), "profile is missing: there is Profile, and names are case-sensitive"),
    (make_record({"schema": {}, "payload": GOOD}), "schemas.enable=false"),
]


@pytest.mark.parametrize(("record", "want"), SAID, ids=[want for _, want in SAID])
def test_the_message_says_what_is_wrong(record: Record, want: str) -> None:
    read = read_record(record)
    assert isinstance(read, Rejection)
    assert want in read.message
    assert len(read.message) < 200


@given(secret=st.text("abcdefghijklmnopqrstuvwxyz", min_size=12, max_size=20))
def test_no_message_repeats_what_the_record_holds(secret: str) -> None:
    raw = secret.encode()
    for record in (
        make_record({secret: secret, "profile": {secret: 1}}),
        make_record({secret: secret}),
        make_record(f"{secret}"),
        make_record(raw),
        make_record(b'{"x": "' + raw + b"\n" + raw),
        make_record(b'{"x": ' + raw + b"}"),
        make_record(b'{"x": "\\' + raw + b'"}'),
        make_record(b"\0\0\0\0\7" + raw),
        make_record(key=raw + b"\0" + raw),
        make_record(key=b"\xff" + raw),
    ):
        read = read_record(record)
        assert isinstance(read, Rejection) and secret not in read.message


@given(data=st.binary() | st.binary(min_size=4, max_size=16))
def test_any_bytes_are_described_or_not(data: bytes) -> None:
    told = formats.description(data)
    assert told is None or 5 < len(told) < 100


@pytest.mark.parametrize("data", [b"\x08\1" * (1 << 19), b"\2a" * (1 << 19)], ids=["Protobuf", "Avro"])
def test_few_fields_of_megabytes_are_looked_at(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of them is described on the way of the good records."""
    read, calls = formats._varint, []

    def counted(data: bytes, at: int) -> tuple[int, int]:
        calls.append(at)
        return read(data, at)

    monkeypatch.setattr(formats, "_varint", counted)
    assert "looks like" in str(formats.description(data))
    assert 64 <= len(calls) <= 200


def test_the_reasons_are_the_contract() -> None:
    want = "NoKey KeyNotUTF8 KeyNotText Tombstone TooLarge NotJSON InvalidPayload PayloadExpired NameConflict"
    assert [reason.value for reason in RejectionReason] == want.split()
