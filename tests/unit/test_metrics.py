"""Series of streams that are gone go with them: else their number would grow as long as a process lives."""

from __future__ import annotations

from types import ModuleType

import pytest
from prometheus_client.metrics import MetricWrapperBase

import controller.bridge.metrics
import controller.engine.metrics
from controller.streamstatus import REFUSED

BRIDGE, CONTROLLER = controller.bridge.metrics, controller.engine.metrics


def labelled(module: ModuleType) -> list[MetricWrapperBase]:
    """All metrics of a process that have a stream's label."""
    found = [each for each in (*vars(module).values(), REFUSED) if isinstance(each, MetricWrapperBase)]
    return [each for each in found if "stream" in each._labelnames]


def use(metric: MetricWrapperBase, namespace: str, stream: str) -> None:
    whole = {"namespace": namespace, "stream": stream if "namespace" in metric._labelnames else f"{namespace}/{stream}"}
    metric.labels(**{name: whole.get(name, "some") for name in metric._labelnames})


def series(module: ModuleType, stream: str) -> int:
    samples = [sample for metric in labelled(module) for family in metric.collect() for sample in family.samples]
    return sum(sample.labels["stream"].endswith(stream) for sample in samples)


@pytest.mark.parametrize("module", [BRIDGE, CONTROLLER], ids=["bridge", "controller"])
def test_a_stream_that_is_gone_leaves_no_series(module: ModuleType) -> None:
    for stream in ("gone", "kept"):
        for metric in labelled(module):
            use(metric, "test", stream)
    before = series(module, "kept")
    assert series(module, "gone") == before >= len(labelled(module)) >= 8
    if module is BRIDGE:
        BRIDGE.forget("test", "gone")
        BRIDGE.forget("test", "gone")
    else:
        CONTROLLER.forget("test/gone")
        CONTROLLER.forget("test/gone")
    assert (series(module, "gone"), series(module, "kept")) == (0, before)
