"""Series of streams that are gone go with them: else their number would grow as long as a process lives."""

from __future__ import annotations

from types import ModuleType

import pytest
from prometheus_client.metrics import MetricWrapperBase

import controller.bridge.metrics
import controller.reconciler.metrics
from controller.bridge.metrics import CountedRecords
from controller.clients.stream_status import REFUSED

BRIDGE, CONTROLLER = controller.bridge.metrics, controller.reconciler.metrics


def labelled(module: ModuleType) -> list[MetricWrapperBase]:
    """All metrics of a process that have a stream's label."""
    found = [each for each in (*vars(module).values(), REFUSED) if isinstance(each, MetricWrapperBase)]
    return [each for each in found if "stream" in each._labelnames]


def use(metric: MetricWrapperBase, namespace: str, stream: str) -> None:
    whole = {"namespace": namespace, "stream": stream}
    metric.labels(**{name: whole.get(name, "some") for name in metric._labelnames})


def series(module: ModuleType, stream: str) -> int:
    samples = [sample for metric in labelled(module) for family in metric.collect() for sample in family.samples]
    return sum(sample.labels["stream"] == stream for sample in samples)


@pytest.mark.parametrize("module", [BRIDGE, CONTROLLER], ids=["bridge", "controller"])
def test_the_labels_of_a_stream_are_the_same_in_both_processes(module: ModuleType) -> None:
    """So that series of both can be joined."""
    for metric in labelled(module):
        assert metric._labelnames[:2] == ("namespace", "stream"), metric._name


def test_a_record_is_counted_once_however_often_it_is_read() -> None:
    counted = CountedRecords()
    assert [counted.is_new("first", 0, offset) for offset in (5, 6, 9)] == [True] * 3
    assert [counted.is_new("first", 0, offset) for offset in (5, 6, 9, 12)] == [False] * 3 + [True]
    assert counted.is_new("first", 1, 5), "another partition"
    assert counted.is_new("again", 0, 0), "the topic was made again"


@pytest.mark.parametrize("module", [BRIDGE, CONTROLLER], ids=["bridge", "controller"])
def test_a_stream_that_is_gone_leaves_no_series(module: ModuleType) -> None:
    for stream in ("gone", "kept"):
        for metric in labelled(module):
            use(metric, "test", stream)
    before = series(module, "kept")
    assert series(module, "gone") == before >= len(labelled(module)) >= 8
    for _ in range(2):
        module.forget("test", "gone")
    assert (series(module, "gone"), series(module, "kept")) == (0, before)
