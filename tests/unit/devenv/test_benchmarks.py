"""The benchmarks' own logic: the bare limit writes what we write, and figures are compared as they should be."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controller.api.user_update_status import Status
from controller.core.decisions import record
from controller.core.outcomes import Done
from controller.core.records import Record, UpdateEvent, read_record, user_update_manifest
from tests.benchmarks import limit, limits, report, scenario
from tests.benchmarks.answers import Server
from tests.benchmarks.contenders import STEPS, contender
from tests.benchmarks.events import users_in_turns, value
from tests.benchmarks.limits import Limit
from tests.benchmarks.meter import Reading, figures
from tests.benchmarks.results import Measured, Results, Spread
from tests.benchmarks.run import quantile
from tests.support.builders import at, make_stream
from tests.support.records import TOPIC_ID

TARGET = limit.Target("127.0.0.1:9092", "events", TOPIC_ID, "user-updates", "default", "http://127.0.0.1:8080", 32)
FIELDS = {"profile": "dev", "permissions": "all", "resources": "all-000007"}


@pytest.mark.parametrize("after", [None, 3], ids=["first of its user", "behind another"])
def test_the_limit_creates_the_bridges_object(after: int | None) -> None:
    timestamp_ms = 1_767_225_600_123
    event = read_record(Record("events", TOPIC_ID, 0, 7, timestamp_ms, b"u7", value(7)))
    assert isinstance(event, UpdateEvent)
    want = user_update_manifest(make_stream(), event, None if after is None else TARGET.name(after))
    assert limit.manifest(TARGET, limit.Event("u7", 7, timestamp_ms, FIELDS, after)) == want


def test_the_limit_writes_the_controllers_statuses() -> None:
    status, stream = Status(), make_stream()
    results = [{"userId": "u-1"}, {"roleId": "r-1"}, {}]
    done = []
    for index, (step, result) in enumerate(zip(STEPS, results, strict=True)):
        started, ended = at(index), at(index + 0.5)
        status = record(status, Done(result), stream, started, ended)
        done.append(limit.step_record(step, result, started, ended))
        assert limit.status_after(done, first_time=at(0.5), now=ended) == status.for_status()


def test_users_come_in_turns_behind_the_busy_ones() -> None:
    assert list(users_in_turns(4, users=3, first=3, behind=100)) == [
        (3, "u100"),
        (4, "u101"),
        (5, "u102"),
        (6, "u100"),
    ]


def test_the_downstream_is_busy_for_the_first_users_alone() -> None:
    server = Server()
    server.answer(b"/control", b'{"busyUsers": 2, "busySeconds": 60}')
    asked = [server.answer(b"/profile", b'{"user": "%s", "profile": "dev"}' % user)[0] for user in (b"u1", b"u2")]
    assert asked == [503, 200]
    assert server.answer(b"/permissions", b'{"userId": "u-2", "permissions": "all"}')[:2] == (200, b'{"roleId":"r-3"}')
    server.answer(b"/resources", b'{"userId": "u-2", "roleId": "r-3", "resources": "all-000041"}')
    assert server.answer(b"/count", b"")[1] == b"1"
    assert set(server.record.last) == {41}


def test_a_cost_is_what_lay_between_two_readings() -> None:
    before = Reading({"bridge": 1.0, "etcd": 5.0}, 10.0, {}, {"POST userupdates": 3, "GET leases": 1}, 10, 1000)
    after = Reading(
        {"bridge": 1.2, "etcd": 5.1},
        10.6,
        {"bridge": 2 << 20, "etcd": 1 << 20},
        {"POST userupdates": 103, "PATCH userupdates/status": 300, "GET leases": 1},
        210,
        51000,
    )
    found = figures(before, after, 100, own=["bridge"])
    assert found == pytest.approx(
        {
            "cpu_ms.bridge": 2.0,
            "cpu_ms.etcd": 1.0,
            "own_cpu_ms": 2.0,
            "machine_cpu_ms": 6.0,
            "api_writes": 4.0,
            "requests.POST userupdates": 1.0,
            "requests.PATCH userupdates/status": 3.0,
            "watch_events": 2.0,
            "etcd_bytes": 500.0,
            "memory_mib.bridge": 2.0,
            "memory_mib.etcd": 1.0,
            "own_memory_mib": 2.0,
        }
    )


def test_a_quantile_was_measured() -> None:
    assert [quantile([1.0, 2.0, 3.0, 4.0], share) for share in (0.0, 0.5, 0.99)] == [1.0, 3.0, 4.0]


def rounds(*pairs: tuple[float, float]) -> Measured:
    found = Measured({}, "", "")
    found.rounds = [{"ours": {"events": mine}, "theirs": {"events": theirs}} for mine, theirs in pairs]
    return found


def test_ratios_are_taken_round_by_round() -> None:
    measured = rounds((10, 10), (30, 20), (90, 30))
    assert measured.ratios("ours", "theirs", "events") == Spread(1.5, 1.0, 3.0)


@pytest.mark.parametrize(
    ("bound", "reached"),
    [({"at_least": 1.5}, True), ({"at_least": 1.6}, False), ({"at_most": 1.5}, True), ({"at_most": 1.4}, False)],
)
def test_a_limit_is_judged_by_the_median(bound: dict[str, float], reached: bool) -> None:
    results = Results(None)
    results.scenarios["backlog"] = rounds((10, 10), (30, 20), (90, 30))
    limit_of_both = Limit("text", "backlog", "ours", "events", of="theirs", **bound)  # type: ignore[arg-type]
    value_of_both = limit_of_both.value(results)
    assert value_of_both is not None
    assert limit_of_both.reached(value_of_both) is reached


def test_a_limit_compares_scenarios() -> None:
    results = Results(None)
    results.scenarios |= {"busy": rounds((12, 1), (18, 1)), "calm": rounds((10, 1))}
    assert Limit("text", "busy", "ours", "events", of_scenario="calm", at_most=2).value(results) == Spread(
        1.5, 1.2, 1.8
    )
    assert Limit("text", "busy", "ours", "events", of_scenario="none", at_most=2).value(results) is None


def test_results_are_kept_and_a_scenario_measured_again_replaces_its_own(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    known = scenario.load()
    for one in (known["backlog"], known["rate-50"], known["backlog"]):
        results = Results(path)
        results.add(results.begin(one), 0, "limit", {"events_per_second": 123.456})
    kept = Results(path)
    assert list(kept.scenarios) == ["backlog", "rate-50"]
    assert kept.scenarios["backlog"].values("limit", "events_per_second") == [123.46]
    since = datetime.now(UTC) - datetime.fromisoformat(kept.scenarios["backlog"].time)
    assert since < timedelta(minutes=5)


def test_scenarios_and_limits_name_what_there_is() -> None:
    scenarios = scenario.load()
    for one in scenarios.values():
        for name in one.contenders:
            assert contender(name, one.spec).name == name
    for wanted in limits.load():
        assert {wanted.contender, wanted.of} - {""} <= set(scenarios[wanted.scenario].contenders)
        if wanted.of_scenario:
            assert wanted.contender in scenarios[wanted.of_scenario].contenders


def test_an_unknown_scenario_or_contender_is_named() -> None:
    with pytest.raises(ValueError, match="no scenario of the name 'backlogs'"):
        scenario.chosen(scenario.load(), ["backlogs"])
    with pytest.raises(ValueError, match="no contender of the name 'ours'"):
        contender("ours")


def test_quick_is_once_and_small() -> None:
    one = scenario.load()["depth-10000"]
    assert one.quick() == replace(one, repetitions=1, events=300, warm_up=50, busy_users=200)


def test_the_page_shows_the_published_results() -> None:
    page = report.PAGE.read_text()
    assert report.with_tables(page, Results.published(report.RESULTS)) == page, "run python -m tests.benchmarks.report"
