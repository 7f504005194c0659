"""Which rejected records share a RejectedEvent."""

from __future__ import annotations

from controller.bridge.partitions import Partition
from controller.bridge.pending import PartitionOffset
from controller.bridge.rejected_events import (
    MINUTE,
    SINGLES_A_MINUTE,
    Aggregate,
    Aggregator,
    RejectedRecord,
    aggregate_of,
)

KIND = ("NotJSON", "id", 0)


def test_the_first_hundred_of_any_minute_have_their_own() -> None:
    aggregator = Aggregator()
    assert all(aggregator.may_be_single(0.1 * number) for number in range(SINGLES_A_MINUTE))
    assert not aggregator.may_be_single(59.9)
    # A minute after the first one there is room for one more.
    assert aggregator.may_be_single(MINUTE)
    assert not aggregator.may_be_single(MINUTE)


def test_an_object_is_shared_for_a_minute_by_what_comes_later() -> None:
    aggregator = Aggregator()
    assert aggregator.current(KIND, 5, now=0) is None
    aggregator.put(KIND, Aggregate("name", 5, 5, 1, since=0, message="no JSON").with_record(9, 3))
    shared = aggregator.current(KIND, 10, now=59)
    assert shared is not None and (shared.last_offset, shared.count) == (9, 4)
    assert aggregator.current(KIND, 4, now=1) is None
    assert aggregator.current(KIND, 10, now=61) is None
    assert aggregator.current(KIND, 10, now=61, crowded=True) == shared
    assert aggregator.current(("NoKey", "id", 0), 10, now=1) is None


def test_a_write_that_is_tried_again_counts_no_record_twice() -> None:
    def rejected(offset: int) -> RejectedRecord:
        source = {"topicId": "id", "partition": 0, "offset": offset, "lastOffset": offset}
        spec = {"reason": "NotJSON", "message": f"no JSON, {offset}", "source": source, "count": 1}
        manifest = {"metadata": {"name": f"name-{offset}"}, "spec": spec}
        return RejectedRecord(manifest, PartitionOffset(Partition(0), offset))

    group = [rejected(offset) for offset in (5, 6, 9)]
    for _ in range(2):
        shown, manifest = aggregate_of(group)
        assert (shown.name, shown.offset, shown.last_offset, shown.count) == ("name-5", 5, 9, 3)
        assert (manifest["spec"]["count"], manifest["spec"]["source"]["lastOffset"]) == (3, 9)
        assert (manifest["spec"]["message"], shown.message) == ("the first of several: no JSON, 5", "no JSON, 5")
    alone, manifest = aggregate_of(group[:1])
    assert manifest["spec"]["message"] == alone.message == "no JSON, 5"


def test_what_was_shown_before_is_known() -> None:
    aggregator = Aggregator()
    aggregator.know(KIND, 5, 9)
    assert [aggregator.knows(KIND, offset, offset) for offset in (4, 5, 9, 10)] == [False, True, True, False]
    assert aggregator.knows(KIND, 6, 9)
    assert not aggregator.knows(KIND, 6, 10), "one of them has not been shown"
    assert not aggregator.knows(("NoKey", "id", 0), 7, 7)
