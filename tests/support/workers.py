"""Which worker runs which tests: the plug-in of pytest-xdist that `make test` uses.

A module stays on one worker, so that its fixtures are made once. The modules that take longest begin first, so that no
worker is left with one of them at the end. Tests that hold a time or a rate against a bound come last and alone, as
others beside them would be measured too.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

#: They run when nothing else does any more.
ALONE = (
    "tests/acceptance/test_floods.py::test_a_suspended_user_with_a_mountain_is_passed_by",
    "tests/acceptance/test_floods.py::test_many_stuck_users_keep_nobody_else_waiting",
    "tests/acceptance/test_full_backlogs.py::test_full_backlogs_stop_neither_process",
    "tests/acceptance/test_whole_way.py::test_the_record_after_a_bad_one_is_finished_within_two_seconds",
    "tests/integration/reconciler/test_controller.py::test_a_delay_survives_a_restart",
    "tests/integration/reconciler/test_controller.py::test_a_kill_in_the_middle_loses_and_repeats_nothing_that_was_recorded",
    "tests/integration/reconciler/test_controller.py::test_one_user_runs_twenty_events_a_second",
    "tests/integration/reconciler/test_suspension.py::test_a_changed_spec_acts_at_once_beside_a_thousand_hanging_calls",
)
#: Ends the name of a module's tests of that kind, which are handed out apart from the others.
_APART = "@alone"

#: Seconds that a module takes, as measured on two processors. Those that are not named take less than a minute.
#: `make test ARGS=--durations=20` prints them anew.
SECONDS = {
    "tests/acceptance/test_whole_way.py": 220,
    "tests/acceptance/test_floods.py": 200,
    "tests/integration/reconciler/test_shards.py": 170,
    "tests/integration/api/test_rights.py": 160,
    "tests/integration/bridge/test_backlogs.py": 140,
    "tests/integration/reconciler/test_controller.py": 130,
    "tests/integration/bridge/test_replicas.py": 130,
    "tests/integration/bridge/test_faults.py": 120,
    "tests/chaos/test_guarantees.py": 110,
    "tests/integration/bridge/test_refusals.py": 110,
    "tests/integration/bridge/test_kafka_security.py": 100,
    "tests/integration/reconciler/test_takeover.py": 90,
    "tests/integration/reconciler/test_sharing.py": 90,
    "tests/integration/bridge/test_topics.py": 90,
    "tests/integration/bridge/test_membership.py": 80,
    "tests/integration/devenv/test_up.py": 80,
    "tests/integration/bridge/test_objects.py": 70,
    "tests/integration/reconciler/test_crashes.py": 60,
    "tests/integration/processes/test_process_leases.py": 60,
    "tests/integration/bridge/test_brokers.py": 50,
    "tests/integration/api/test_namespaced.py": 50,
    "tests/integration/bridge/test_bridge.py": 50,
    "tests/acceptance/test_demo.py": 40,
    "tests/integration/reconciler/test_lease.py": 40,
    "tests/integration/bridge/test_positions.py": 40,
    "tests/integration/bridge/test_joining.py": 40,
    "tests/integration/reconciler/test_retention.py": 40,
}

#: Tells the workers of one run of the tests from those of another.
RUN = "USERUPDATES_TEST_RUN"
#: Bytes that a worker takes with its environment and the processes of a test, at most but in a flood.
MEMORY = 2 << 30


def worker() -> str:
    """The name of this worker, `gw0` and so on; empty where the tests run in one process."""
    return os.environ.get("PYTEST_XDIST_WORKER", "")


def directory(name: str) -> Path:
    """A new one for an environment of this run of the tests; `left_over` finds it."""
    return Path(tempfile.mkdtemp(prefix=f"userupdates-{name}-{os.environ[RUN]}-"))


def left_over() -> list[Path]:
    """Directories of this run's environments that are still there."""
    return sorted(Path(tempfile.gettempdir()).glob(f"userupdates-*-{os.environ[RUN]}-*"))


def place() -> tuple[int, int]:
    """The number of this worker, from 0, and how many there are."""
    count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    return int(worker().removeprefix("gw")) % count, count


def count(config: pytest.Config) -> int | None:
    """How many workers `-n auto` starts; None: what pytest-xdist's own variable says. One module needs none."""
    if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    paths = {str(argument).partition("::")[0] for argument in config.args}
    if len(paths) == 1 and next(iter(paths)).endswith(".py"):
        return 0
    processors = os.cpu_count() or 1
    if all("tests/unit" in path for path in paths):
        return processors
    # All tests take 36 minutes of a processor: two workers keep two processors busy for 60 % of the time. With more of
    # them, tests that hold a delay to its bound are late, as they wait for a processor.
    return max(1, min(processors, psutil.virtual_memory().total // MEMORY))


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types that mypy reads
    """Gives a worker its next module when it is at the last test of the one before."""

    collection: list[str] | None

    def schedule(self) -> None:
        if self.collection is not None:
            self._reschedule_all()
        elif self._check_nodes_have_same_collection():
            self.collection = list(next(iter(self.registered_collections.values())))
            units: dict[str, dict[str, bool]] = {}
            for test in self.collection:
                units.setdefault(self._split_scope(test), {})[test] = False
            self.workqueue.update(sorted(units.items(), key=lambda unit: _order(*unit)))
            # A second time, as a worker begins a test when it knows whether there is a next one.
            self._reschedule_all()
            self._reschedule_all()

    def remove_node(self, node: WorkerController) -> str | None:
        """Overridden: the one that is left may have waited for this."""
        crashed: str | None = super().remove_node(node)
        self._reschedule_all()
        return crashed

    def _reschedule_all(self) -> None:
        for node in self.nodes:
            self._reschedule(node)

    def _reschedule(self, node: WorkerController) -> None:
        if node.shutting_down or self._pending_of(self.assigned_work[node]) > 1:
            return
        if not self.workqueue:
            node.shutdown()
        elif not _is_alone(next(iter(self.workqueue))):
            self._assign_work_unit(node)
        elif not (others := [other for other in self.nodes if other is not node]):
            self._assign_work_unit(node)
        elif not all(other.shutting_down for other in others):
            node.shutdown()

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return module + _APART if nodeid.partition("[")[0] in ALONE else module


def slowest(reports: Mapping[str, Sequence[Any]]) -> list[tuple[str, float]]:
    """Modules and their seconds, the slowest first."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for report in chain(*reports.values()):
        if isinstance(report, pytest.TestReport):
            seconds[report.nodeid.partition("::")[0]] += report.duration
    return sorted(seconds.items(), key=lambda item: -item[1])


def _is_alone(scope: str) -> bool:
    return scope.endswith(_APART)


def _order(scope: str, tests: dict[str, bool]) -> tuple[bool, int, int]:
    return _is_alone(scope), -SECONDS.get(scope, 0), -len(tests)
