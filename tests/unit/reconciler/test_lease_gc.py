"""Which Leases of a deleted stream are deleted, in which order and in which version."""

from __future__ import annotations

from typing import Any, cast

import pytest

from controller import errors
from controller.api import names
from controller.config import Scope
from controller.reconciler.lease_gc import delete_leases_without_stream
from controller.reconciler.lease_watch import LeaseWatch

NAMESPACE = "shop"


class Server:
    """Takes deletes; answers Conflict for a Lease that has another version."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.versions: dict[str, int] = {}
        self.deleted: list[str] = []

    async def delete(self, _: Any, namespace: str, name: str, *, version: int) -> None:
        if self.error:
            raise self.error
        if self.versions.get(name, version) != version:
            raise errors.Conflict(name)
        self.deleted.append(name)


def leases(**found: tuple[int, str]) -> LeaseWatch:
    """Version and holder by `<stream>_<shard>_<shards>`."""
    seen = LeaseWatch(cast(Any, None), Scope())
    for key, (version, holder) in found.items():
        stream, shard, shards = key.split("_")
        name = names.lease_name(stream, int(shard), int(shards))
        metadata = {"namespace": NAMESPACE, "name": name, "resourceVersion": str(version)}
        seen.observe({"metadata": metadata, "spec": {"holderIdentity": holder}})
        seen._existing.add((NAMESPACE, name))
    return seen


@pytest.mark.parametrize(
    ("found", "streams", "deleted"),
    [
        ({"a_0_1": (9, ""), "a_1_2": (7, ""), "a_0_2": (8, "")}, [], ["a_1_2", "a_0_2", "a_0_1"]),
        ({"a_0_1": (9, ""), "a_1_2": (7, "b")}, [], []),
        ({"a_0_1": (9, ""), "b_0_1": (8, "")}, ["b"], ["a_0_1"]),
        ({"a_1_2": (7, ""), "a_0_1": (8, "b")}, ["a"], []),
    ],
)
async def test_all_of_a_stream_go_or_none(
    found: dict[str, tuple[int, str]], streams: list[str], deleted: list[str]
) -> None:
    server = Server()
    await delete_leases_without_stream(
        cast(Any, server), leases(**found).labelled, {(NAMESPACE, stream) for stream in streams}
    )
    wanted = [key.split("_") for key in deleted]
    assert server.deleted == [names.lease_name(stream, int(i), int(n)) for stream, i, n in wanted]


async def test_what_somebody_has_again_stays_and_with_it_all_that_is_newer() -> None:
    server = Server()
    server.versions[names.lease_name("a", 0, 2)] = 99
    await delete_leases_without_stream(
        cast(Any, server), leases(a_1_2=(7, ""), a_0_2=(8, ""), a_0_1=(9, "")).labelled, set()
    )
    assert server.deleted == [names.lease_name("a", 1, 2)]


async def test_that_they_cannot_be_deleted_is_no_line_at_each_look(caplog: pytest.LogCaptureFixture) -> None:
    """It is tried every ten seconds, and the right to delete Leases may be missing for good."""
    server = Server()
    server.error = errors.Forbidden("no right to delete leases", status=403)
    for _ in range(5):
        await delete_leases_without_stream(cast(Any, server), leases(gone_0_1=(9, "")).labelled, set())
    assert [record.message for record in caplog.records] == ["Leases of a stream that is gone not deleted"]


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        (names.lease_name("a-b"), "a-b"),
        (names.lease_name("a-b", 3, 16), "a-b"),
        (names.process_lease_name("controller", "updatestream-a"), ""),
        ("updatestreams", ""),
    ],
)
def test_a_lease_tells_its_stream(name: str, stream: str) -> None:
    assert names.stream_of_lease(name) == stream
