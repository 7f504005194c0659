"""How a stream is divided: each user in one shard, whatever its label says; limits add up."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api import names
from controller.core.sharding import Shard, shards
from tests.support.builders import make_body, make_update

COUNTS = st.integers(1, 16)
LABELS = [None, "", "64", "07", "x", *(str(bucket) for bucket in range(64))]


def selected(shard: Shard, label: str | None) -> bool:
    """As the API server reads the selector: `notin` takes what has no such label too."""
    if not shard.selector:
        return True
    found = re.fullmatch(r"enrichment\.dev/bucket notin \(([0-9,]+)\)", shard.selector)
    assert found
    return label not in found[1].split(",")


@given(COUNTS, st.text(max_size=100))
def test_each_user_is_in_one_shard(count: int, user: str) -> None:
    owners = [shard for shard in shards(count) if shard.owns(user)]
    assert [shard.index for shard in owners] == [names.bucket(user) % count]


@given(COUNTS, st.text(max_size=100))
def test_a_list_by_label_shows_the_owner_what_has_the_right_label_or_none(count: int, user: str) -> None:
    right = str(names.bucket(user))
    for shard in shards(count):
        assert selected(shard, right) == shard.owns(user)
        assert selected(shard, None)


@pytest.mark.parametrize("count", range(1, 17))
@pytest.mark.parametrize("user", ["userid1", "userid2", "名前"])
def test_whatever_its_label_says_a_finished_update_is_collected_by_one(count: int, user: str) -> None:
    for label in LABELS:
        body = make_body(make_update(user=user))
        body["metadata"]["labels"] = {names.BUCKET_LABEL: label} if label is not None else {}
        seen = [shard for shard in shards(count) if selected(shard, label) and shard.collects(body)]
        assert len(seen) == 1, label


def test_without_shards_lists_have_no_selector() -> None:
    assert Shard().selector == ""
    assert Shard().owns("anybody")
    assert len(Shard(15, 16).selector) < 300


@given(COUNTS, st.integers(0, 1_000_000))
def test_the_parts_of_a_limit_are_the_whole(count: int, whole: int) -> None:
    parts = [shard.share(whole) for shard in shards(count)]
    assert sum(parts) == whole
    assert max(parts) - min(parts) <= 1


def test_the_leases_of_all_shapes_and_streams_are_different() -> None:
    streams = ("orders", "orders-4-0", "orders-4")
    found = [
        names.lease_name(stream, shard.index, count)
        for stream in streams
        for count in range(1, 17)
        for shard in shards(count)
    ]
    assert len(set(found)) == len(found)
    assert names.lease_name("orders", 0, 1) == "updatestream-orders"
    assert names.lease_name("orders", 3, 4) == "updatestream-orders.4-3"
