"""Which rejected records share a RejectedEvent, and which update names which."""

from __future__ import annotations

from typing import Any

from controller.bridge.folding import MINUTE, OWN_A_MINUTE, Fold, Folding
from controller.bridge.links import Links
from controller.bridge.partitions import Partition
from controller.bridge.rejected_events import Rejected, fold_of

KIND = ("NotJSON", "id", 0)
KEY = ("id", 0, "ana")


def test_the_first_hundred_of_any_minute_have_their_own() -> None:
    folding = Folding()
    assert all(folding.own(0.1 * number) for number in range(OWN_A_MINUTE))
    assert not folding.own(59.9)
    # A minute after the first one there is room for one more.
    assert folding.own(MINUTE)
    assert not folding.own(MINUTE)


def test_an_object_is_shared_for_a_minute_by_what_comes_later() -> None:
    folding = Folding()
    assert folding.current(KIND, 5, now=0) is None
    folding.put(KIND, Fold("name", 5, 5, 1, since=0, message="no JSON").with_record(9, 3))
    shared = folding.current(KIND, 10, now=59)
    assert shared is not None and (shared.last_offset, shared.count) == (9, 4)
    assert folding.current(KIND, 4, now=1) is None
    assert folding.current(KIND, 10, now=61) is None
    assert folding.current(KIND, 10, now=61, crowded=True) == shared
    assert folding.current(("NoKey", "id", 0), 10, now=1) is None


def test_a_write_that_is_tried_again_counts_no_record_twice() -> None:
    def rejected(offset: int) -> Rejected:
        source = {"topicId": "id", "partition": 0, "offset": offset, "lastOffset": offset}
        spec = {"reason": "NotJSON", "message": f"no JSON, {offset}", "source": source, "count": 1}
        manifest = {"metadata": {"name": f"name-{offset}"}, "spec": spec}
        return Rejected(manifest, Partition(0), lambda: None)

    group = [rejected(offset) for offset in (5, 6, 9)]
    for _ in range(2):
        fold, manifest = fold_of(group)
        assert (fold.name, fold.offset, fold.last_offset, fold.count) == ("name-5", 5, 9, 3)
        assert (manifest["spec"]["count"], manifest["spec"]["source"]["lastOffset"]) == (3, 9)
        assert (manifest["spec"]["message"], fold.message) == ("the first of several: no JSON, 5", "no JSON, 5")
    alone, manifest = fold_of(group[:1])
    assert manifest["spec"]["message"] == alone.message == "no JSON, 5"


def test_what_was_shown_before_is_known() -> None:
    folding = Folding()
    folding.know(KIND, 5, 9)
    assert [folding.shown(KIND, offset, offset) for offset in (4, 5, 9, 10)] == [False, True, True, False]
    assert folding.shown(KIND, 6, 9)
    assert not folding.shown(KIND, 6, 10), "one of them has not been shown"
    assert not folding.shown(("NoKey", "id", 0), 7, 7)


def listed(name: str, offset: int, user: str = "ana") -> dict[str, Any]:
    source = {"topicId": "id", "partition": 0, "offset": offset}
    return {"metadata": {"name": name}, "spec": {"user": user, "source": source}}


def test_the_last_unfinished_one_is_named() -> None:
    links = Links()
    links.add(KEY, 1, "one", version=1)
    links.add(KEY, 2, "two", version=2)
    assert links.after(KEY, 3) == "two"
    links.drop("one")
    assert links.after(KEY, 3) == "two"
    links.drop("two")
    assert links.after(KEY, 3) is None


def test_when_the_last_one_is_cancelled_the_one_before_it_is_the_last() -> None:
    links = Links()
    links.add(KEY, 1, "one", version=1)
    links.add(KEY, 2, "two", version=2)
    links.drop("two")
    assert links.after(KEY, 3) == "one"


def test_an_older_one_does_not_take_the_place_of_a_later_one() -> None:
    links = Links()
    links.add(KEY, 2, "two", version=2)
    links.add(KEY, 1, "one", version=3)
    assert links.after(KEY, 3) == "two"


def test_a_record_that_is_read_again_comes_after_what_is_below_it() -> None:
    """Its update was deleted by a person; those above it wait for it, so it must not wait for them."""
    links = Links()
    for offset, name in ((5, "five"), (20, "twenty"), (50, "fifty")):
        links.add(KEY, offset, name, version=offset)
    assert links.after(KEY, 10) == "five"
    assert links.after(KEY, 5) is None
    assert links.after(KEY, 50) == "twenty"


def test_a_list_drops_what_is_over_and_keeps_what_is_newer() -> None:
    links = Links()
    links.add(KEY, 1, "over", version=5)
    links.add(("id", 0, "bo"), 2, "newer", version=9)
    hand_made = {"metadata": {"name": "hand"}, "spec": {"user": "cy"}}
    links.listed([listed("there", 7, "dan"), listed("first", 3, "dan"), hand_made], version=7)
    assert links.after(KEY, 99) is None
    assert links.after(("id", 0, "bo"), 99) == "newer"
    assert links.after(("id", 0, "dan"), 99) == "there"
    assert links.after(("id", 0, "cy"), 99) is None
