"""Names that leave the process, held to the letter: dedup in the API server and in the downstreams rests on them."""

from __future__ import annotations

import base64
import re
import uuid
from collections import Counter

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from controller.api import names

#: As the API server checks them, written out here and not taken from the code under test.
LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", re.ASCII)
OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)

STREAMS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
USERS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
HALVES = st.integers(-(2**63), 2**63 - 1)

# The two halves are what Java's UUID gives as getMostSignificantBits and getLeastSignificantBits; the text is that of
# Kafka's Uuid.toString: the 16 bytes in URL-safe base64, without the padding.
KNOWN_TOPIC_IDS = [
    ("00000000-0000-0000-0000-000000000000", 0, 0, "AAAAAAAAAAAAAAAAAAAAAA"),
    ("00000000-0000-0000-0000-000000000001", 0, 1, "AAAAAAAAAAAAAAAAAAAAAQ"),
    ("00112233-4455-6677-8899-aabbccddeeff", 0x0011223344556677, 0x8899AABBCCDDEEFF - 2**64, "ABEiM0RVZneImaq7zN3u_w"),
    ("ffffffff-ffff-ffff-ffff-ffffffffffff", -1, -1, "_____________________w"),
    (
        "fbefbeff-bfbe-4bef-befb-efbefbefbefb",
        0xFBEFBEFFBFBE4BEF - 2**64,
        0xBEFBEFBEFBEFBEFB - 2**64,
        "----_7--S------------w",
    ),
]


@pytest.mark.parametrize(("text", "high", "low", "want"), KNOWN_TOPIC_IDS, ids=[row[0] for row in KNOWN_TOPIC_IDS])
def test_a_topic_id_reads_as_kafka_writes_it(text: str, high: int, low: int, want: str) -> None:
    assert names.topic_id_text(high, low) == want
    assert names.topic_id_hex(want) == text.replace("-", "")


@given(HALVES, HALVES)
def test_any_topic_id_is_22_characters_and_is_read_back(high: int, low: int) -> None:
    text = names.topic_id_text(high, low)
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", text)
    assert uuid.UUID(names.topic_id_hex(text)).int == (high % 2**64) << 64 | low % 2**64


def test_the_name_of_a_record_to_the_letter() -> None:
    topic_id = base64.urlsafe_b64encode(bytes.fromhex("4f1c9a" + "00" * 13)).decode().rstrip("=")
    assert names.record_name("user-updates", topic_id, 0, 42) == "user-updates-4f1c9a-p00000-0000000000000000042"
    assert names.record_name("s", topic_id, 12345, 2**63 - 1) == "s-4f1c9a-p12345-9223372036854775807"
    assert names.record_name("s", topic_id, 123456, 7) == "s-4f1c9a-p123456-0000000000000000007"


@given(STREAMS, HALVES, st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_any_record_has_an_object_name_that_sorts_by_offset(
    stream: str, high: int, partition: int, first: int, second: int
) -> None:
    topic_id = names.topic_id_text(high, 1)
    one, other = (names.record_name(stream, topic_id, partition, offset) for offset in (first, second))
    assert OBJECT_NAME.fullmatch(one)
    assert len(one) <= 253
    assert (one < other) == (first < second)
    assert (one == other) == (first == second)


@given(STREAMS, USERS)
def test_a_backlog_and_a_lease_have_object_names_for_any_user(stream: str, user: str) -> None:
    for name in (names.backlog_name(stream, user), names.lease_name(stream)):
        assert OBJECT_NAME.fullmatch(name)
        assert len(name) <= 253


def test_backlog_and_lease_names_to_the_letter() -> None:
    """A bridge of the next version has to find what this one made."""
    assert names.backlog_name("user-updates", "userid1") == "user-updates-c10c66726484b92ba35b"
    assert names.lease_name("user-updates") == "updatestream-user-updates"


@given(STREAMS, USERS, USERS)
def test_two_users_have_two_backlogs(stream: str, one: str, other: str) -> None:
    assume(one != other)
    assert names.backlog_name(stream, one) != names.backlog_name(stream, other)


@pytest.mark.parametrize(
    ("user", "want"),
    [
        ("userid1", "userid1"),
        ("a", "a"),
        ("User_1.x-y", "User_1.x-y"),
        ("a" * 63, "a" * 63),
        ("a" * 64, "a" * 40 + "-ffe054fe7ae0cb6d"),
        ("ana@example.org", "ana-example-org-86b9260a115ceac8"),
        ("-ana-", "ana-ab1a35c12099e0c7"),
        ("ana\n", "ana-0155306c6ffd381d"),
        ("名前", "7ec26292414bccef"),
        (" ", "36a9e7f1c95b82ff"),
    ],
)
def test_the_user_label_is_the_user_or_a_readable_part_and_a_hash(user: str, want: str) -> None:
    assert names.user_label(user) == want


@given(st.one_of(USERS, st.text("aZ0-_.", min_size=1, max_size=80)))
@example("a" * 63)
@example("a" * 64)
@example("a" * 1024)
@example("a\n")
@example("٣")  # a digit, but not of ASCII
@example("é" * 512)
@example("x" + "-" * 60 + "y" * 10)
@example("\x00")
def test_any_user_has_a_label_value_that_the_api_server_takes(user: str) -> None:
    label = names.user_label(user)
    assert LABEL_VALUE.fullmatch(label)
    assert 1 <= len(label) <= 63
    if LABEL_VALUE.fullmatch(user) and len(user) <= 63:
        assert label == user


@given(USERS, USERS)
def test_two_users_that_are_no_label_values_have_two_labels(one: str, other: str) -> None:
    assume(one != other and names.user_label(one) != one and names.user_label(other) != other)
    assert names.user_label(one) != names.user_label(other)


@pytest.mark.parametrize(
    ("user", "want"), [("userid1", 1), ("userid2", 19), ("", 35), ("名前", 62), ("ana@example.org", 6)]
)
def test_the_bucket_of_a_user_to_the_letter(user: str, want: int) -> None:
    """`printf userid1 | sha256sum`: the first two digits, modulo 64. Labels that are stored rest on it."""
    assert names.bucket(user) == want


def test_users_are_spread_over_all_buckets() -> None:
    counts = Counter(names.bucket(f"user{number}") for number in range(64_000))
    assert counts.keys() == set(range(64))
    assert 800 < min(counts.values()) and max(counts.values()) < 1200


@given(st.text(max_size=200))
def test_any_user_has_a_bucket(user: str) -> None:
    assert 0 <= names.bucket(user) < names.BUCKETS == 64


def test_source_names_to_the_letter() -> None:
    """The header Enrichment-Source carries them."""
    assert names.source_name("ABEiM0RVZneImaq7zN3u_w", 3) == "ABEiM0RVZneImaq7zN3u_w/3"
    assert names.MANUAL_SOURCE == "manual"


def test_idempotency_keys_to_the_letter() -> None:
    record = names.idempotency_key("default", "user-updates-4f1c9a-p00000-0000000000000000042", "profile", 0, None)
    assert record == "default/user-updates-4f1c9a-p00000-0000000000000000042/profile/0"
    assert names.idempotency_key("shop", "by-hand", "resources", 2, "7c9e") == "shop/by-hand/7c9e/resources/2"


KEY_PARTS = st.tuples(
    st.sampled_from(["a", "b", "a-b", "default"]),
    st.sampled_from(["a", "b", "profile", "a.b", "x-0"]),
    st.sampled_from(["profile", "permissions", "resources"]),
    st.integers(0, 11),
    st.none() | st.sampled_from(["a", "b", "profile", "0f8fad5b-d9cb-469f-a165-70867728950e"]),
)


@given(KEY_PARTS, KEY_PARTS)
def test_two_idempotency_keys_are_the_same_for_the_same_call_only(
    one: tuple[str, str, str, int, str | None], other: tuple[str, str, str, int, str | None]
) -> None:
    assert (names.idempotency_key(*one) == names.idempotency_key(*other)) == (one == other)


def test_the_group_the_labels_and_the_annotation_to_the_letter() -> None:
    assert names.API_VERSION == "enrichment.dev/v1alpha1"
    assert names.STREAM_LABEL == "enrichment.dev/stream"
    assert names.USER_LABEL == "enrichment.dev/user"
    assert names.BUCKET_LABEL == "enrichment.dev/bucket"
    assert names.REQUEST_ANNOTATION == "enrichment.dev/request"
    assert names.BACKLOG_FINALIZER == "enrichment.dev/backlog"
