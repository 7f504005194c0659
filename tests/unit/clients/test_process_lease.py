"""Heartbeats: when a Lease was renewed last, for how long it was not, and when neither is known."""

from __future__ import annotations

import pytest

from controller.api import names
from controller.clients.heartbeats import FORGET_SECONDS, Heartbeats

EVERY = 15.0


def heard(*looks: tuple[float, dict[str, str]]) -> Heartbeats[str]:
    found: Heartbeats[str] = Heartbeats(EVERY)
    for at, versions in looks:
        found.observe(versions, at)
    return found


def test_a_renewal_is_another_version() -> None:
    found = heard((0, {"a": "1", "b": "1"}), (15, {"a": "2", "b": "1"}), (30, {"a": "3", "b": "1"}))
    assert found.age("a", 30) == 0
    assert found.age("b", 30) == 30


def test_who_is_not_there_is_silent_since_it_was_asked_for() -> None:
    found = heard((0, {}), (15, {}), (30, {}))
    assert found.age("a", 30) == 0
    found.observe({}, 45)
    assert found.age("a", 45) == 15


def test_who_is_gone_is_silent_since_it_was_heard_of_last() -> None:
    found = heard((0, {"a": "1"}), (15, {"a": "2"}), (30, {}), (45, {}))
    assert found.age("a", 45) == 30
    assert found.youngest_age(["a"], 45) == 30


def test_without_anybody_the_silence_begins_with_the_first_look() -> None:
    assert Heartbeats[str](EVERY).youngest_age([], 100) == 0
    assert heard((0, {}), (15, {}), (30, {})).youngest_age([], 30) == 30


def test_one_of_several_is_enough() -> None:
    found = heard((0, {"a": "1", "b": "1"}), (15, {"a": "1", "b": "2"}), (30, {"a": "1", "b": "3"}))
    assert found.youngest_age(["a", "b"], 30) == 0


@pytest.mark.parametrize("version", ["1", "2"])
def test_who_could_not_look_for_a_while_gives_everybody_their_time_anew(version: str) -> None:
    """Frozen, cut off, or the API server was away: then nobody could be renewed."""
    found = heard((0, {"a": "1"}), (15, {"a": "1"}), (300, {"a": version}))
    assert found.age("a", 300) == found.youngest_age(["a"], 300) == 0
    found.observe({"a": version}, 315)
    assert found.age("a", 315) == 15


def test_while_looks_fail_nobody_is_called_silent() -> None:
    found = heard((0, {"a": "1"}), (15, {"a": "1"}))
    assert found.age("a", 40) == 40
    assert found.age("a", 100) == found.youngest_age(["a"], 100) == found.youngest_age([], 100) == 0


def test_who_was_there_at_the_first_look_may_be_long_dead() -> None:
    found = heard((0, {"old": "1"}), (15, {"old": "1", "new": "1"}))
    assert not found.alive("old", 15, within=25)
    assert found.alive("new", 15, within=25), "it has come while we looked"
    found.observe({"old": "2", "new": "1"}, 30)
    assert found.alive("old", 30, within=25)
    found.observe({"old": "2", "new": "1"}, 45)
    assert not found.alive("new", 45, within=25)
    found.observe({"new": "1"}, 46)
    assert not found.alive("old", 46, within=25), "it has deleted its Lease"


def test_what_is_long_gone_is_forgotten() -> None:
    found = heard((0, {"a": "1", "b": "1"}))
    for turn in range(1, int(FORGET_SECONDS / EVERY) + 2):
        found.observe({"b": str(turn)}, turn * EVERY)
    assert set(found.known) == {"b"}


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        ("controller-7d9f", "enrichment-controller-controller-7d9f"),
        ("node.example.org", "enrichment-controller-node.example.org"),
        ("My Laptop", "enrichment-controller-my-laptop-a4a4b8b9cdbd1e2a"),
        ("名前", "enrichment-controller-e2c2d1f8f5dd5b8f"),
    ],
)
def test_a_sign_of_life_has_a_valid_name(identity: str, name: str) -> None:
    found = names.process_lease_name("controller", identity)
    assert found.rpartition("-")[0] == name.rpartition("-")[0]
    assert len(found) == len(name)


def test_no_two_identities_share_a_sign_of_life() -> None:
    identities = ["a b", "a-b", "A-b", "a_b", "a" * 250, "a" * 251]
    assert len({names.process_lease_name("bridge", each) for each in identities}) == len(identities)
    assert max(len(names.process_lease_name("bridge", each)) for each in identities) <= 253
