"""A seed gives the same workload and the same faults again; both hold what they promise."""

from __future__ import annotations

from collections import Counter

import pytest

from controller.core.records import Record, Rejection, read_record
from devenv.downstream_rules import read_rules
from tests.chaos import refusals, schedule, workload
from tests.chaos.poison import REASONS
from tests.chaos.schedule import LINKS, WEIGHTS, Kind, UnknownFault

SIZES = workload.Sizes(seconds=20, events_per_second=10)
REPLICAS = {"bridge": ("bridge", "bridge-2"), "controller": ("controller", "controller-2")}
SEEDS = range(40)


def faults(seed: int, rounds: int = 50, menu: str = "") -> list[schedule.Fault]:
    return schedule.generate(seed, rounds, 60.0, schedule.parse_menu(menu), REPLICAS)


def test_a_seed_gives_the_same_again() -> None:
    assert workload.generate(7, SIZES) == workload.generate(7, SIZES)
    assert faults(7) == faults(7)


def test_another_seed_gives_another() -> None:
    assert workload.generate(7, SIZES) != workload.generate(8, SIZES)
    assert faults(7) != faults(8)


def test_faults_do_not_depend_on_the_order_of_the_menu() -> None:
    assert faults(7, menu="kill:bridge,freeze") == faults(7, menu="freeze,kill:bridge")


def test_a_target_that_is_always_busy_meets_every_kind_of_fault() -> None:
    """With more rounds than it has time for, whatever is free next is drawn among all that may happen to it."""
    menu = "cut:bridge-kafka,stall:bridge-kafka,delay:bridge-kafka"
    kinds = Counter(fault.kind for fault in faults(7, rounds=60, menu=menu))
    assert min(kinds[kind] for kind in (Kind.CUT, Kind.STALL, Kind.DELAY)) > 10


@pytest.mark.parametrize("seed", SEEDS)
def test_offsets_are_places_in_the_partition(seed: int) -> None:
    offsets: dict[int, list[int]] = {}
    for record in workload.generate(seed, SIZES).records:
        offsets.setdefault(record.partition, []).append(record.offset)
    assert all(found == list(range(len(found))) for found in offsets.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_records_come_by_time_within_the_run(seed: int) -> None:
    times = [record.at for record in workload.generate(seed, SIZES).records]
    assert times == sorted(times)
    assert 0.0 <= times[0] and times[-1] <= SIZES.seconds


@pytest.mark.parametrize("seed", SEEDS)
def test_each_record_is_read_as_the_workload_says(seed: int) -> None:
    """Of all reasons there is one at least; a name conflict is nothing that the record itself shows."""
    reasons = set()
    for each in workload.generate(seed, SIZES).records:
        reasons.add(each.reason)
        read = read_record(Record("topic", "A" * 22, each.partition, each.offset, 0, each.key, each.value))
        wanted = None if each.reason == workload.NAME_CONFLICT else each.reason
        assert (read.reason if isinstance(read, Rejection) else None) == wanted, each
    assert reasons == {None, workload.NAME_CONFLICT, *REASONS}


def test_records_of_an_added_partition_are_read_as_they_say() -> None:
    records = workload.grown(5, 3.0)
    assert [record.offset for record in records] == list(range(workload.GROWN_RECORDS + 1))
    for each in records:
        read = read_record(Record("topic", "A" * 22, each.partition, each.offset, 0, each.key, each.value))
        assert (read.reason if isinstance(read, Rejection) else None) == each.reason, each


def test_whatever_is_refused_has_its_rules() -> None:
    assert set(refusals.TARGETS) == set(schedule.REFUSED)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_downstream_understands_the_rules(seed: int) -> None:
    load = workload.generate(seed, SIZES)
    rules = read_rules(load.rules_document(blocked=True)).rules
    assert len(rules) == len(load.rules) + 1
    users = {record.user for record in load.records if record.reason is None}
    assert all(any(rule.matches("chaos", user, "profile") for user in users) for rule in rules if rule.step is None)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_refused_update_is_refused_once_and_for_good(seed: int) -> None:
    load = workload.generate(seed, SIZES)
    rules = [rule for rule in read_rules(load.rules_document(blocked=False)).rules if rule.action == "reject"]
    assert len(rules) == len(load.refused) > 0
    for user, sequence in load.refused:
        found = [rule for rule in rules if rule.sequence == sequence and rule.matches("s", user, rule.step or "")]
        assert len(found) == 1 and found[0].count is None


def test_the_limits_let_more_users_run_than_are_there() -> None:
    for seed in SEEDS:
        load = workload.generate(seed, SIZES)
        users = {record.user for record in load.records if record.reason is None}
        assert load.spec["limits"]["maxObjects"] > len(users) - 1


def test_a_target_is_left_alone_until_it_is_back() -> None:
    for seed in SEEDS:
        free: dict[str, float] = {}
        for fault in faults(seed):
            assert fault.at >= free.get(fault.target, 0.0)
            free[fault.target] = fault.at + fault.seconds


def test_so_many_rounds_as_asked_for_even_of_one_target() -> None:
    found = faults(3, rounds=30, menu="kill:kafka")
    assert len(found) == 30
    assert {(fault.kind, fault.target) for fault in found} == {(Kind.KILL, "kafka")}


def test_everything_on_the_menu_is_drawn_sooner_or_later() -> None:
    drawn = Counter((fault.kind, fault.target) for seed in SEEDS for fault in faults(seed))
    wanted = {(kind, target) for kind, role in WEIGHTS for target in REPLICAS.get(role, (role,))}
    assert drawn.keys() == wanted


def test_a_menu_names_kinds_or_single_faults() -> None:
    assert schedule.parse_menu("") == frozenset(WEIGHTS)
    assert schedule.parse_menu("cut") == {(Kind.CUT, link) for link in LINKS}
    assert schedule.parse_menu("kill:bridge, freeze:etcd") == {(Kind.KILL, "bridge"), (Kind.FREEZE, "etcd")}


@pytest.mark.parametrize("menu", ["kill:nobody", "burn", "cut:bridge"])
def test_an_unknown_fault_is_named_with_those_that_there_are(menu: str) -> None:
    with pytest.raises(UnknownFault, match=f"no fault {menu}; there are kill:bridge, "):
        schedule.parse_menu(menu)
