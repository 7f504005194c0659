"""The controller's metrics. Users are not in labels, so that the number of series does not grow with them."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from controller.clients.stream_status import REFUSED

_PREFIX = "enrichment_controller"
#: The same labels as the bridge's, so that series of both can be joined.
_STREAM = ("namespace", "stream")

CALLS = Counter(f"{_PREFIX}_calls", "Calls of downstreams, by step and outcome.", (*_STREAM, "step", "outcome"))
CALL_SECONDS = Histogram(
    f"{_PREFIX}_call_seconds",
    "Duration of calls of downstreams, by step.",
    (*_STREAM, "step"),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
FINISHED = Counter(f"{_PREFIX}_updates_finished", "Updates that reached their end, by phase.", (*_STREAM, "phase"))
COLLECTED = Counter(f"{_PREFIX}_updates_collected", "Finished updates deleted when their time had come.", _STREAM)
CONFLICTS = Counter(f"{_PREFIX}_checkpoint_conflicts", "Status writes that met a changed object.", _STREAM)
UNFINISHED = Gauge(f"{_PREFIX}_updates_unfinished", "Unfinished updates, by state.", (*_STREAM, "state"))
USERS = Gauge(
    f"{_PREFIX}_users",
    "Users that are held, suspended, wait for an update that this version does not understand (unreadable), or wait"
    " because their step is misconfigured or failing.",
    (*_STREAM, "state"),
)
LEASE_HELD = Gauge(f"{_PREFIX}_lease_held", "Shards of the stream that this replica works on.", _STREAM)


class ShardGauges:
    """The share that one shard has in gauges which count all shards of a stream in this process."""

    def __init__(self) -> None:
        self._shares: dict[Gauge, float] = {}

    def set(self, gauge: Gauge, value: float) -> None:
        gauge.inc(value - self._shares.get(gauge, 0.0))
        self._shares[gauge] = value

    def clear(self) -> None:
        for gauge in self._shares:
            self.set(gauge, 0.0)


LATENESS = Histogram(
    f"{_PREFIX}_delay_lateness_seconds",
    "By how much a delayed call began after its time.",
    _STREAM,
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 2, 3, 5, 10),
)


def forget(namespace: str, stream: str) -> None:
    """Remove the series of a stream that is gone: else they grow with the number of streams that ever existed."""
    for metric in (
        CALLS,
        CALL_SECONDS,
        FINISHED,
        COLLECTED,
        CONFLICTS,
        UNFINISHED,
        USERS,
        LEASE_HELD,
        LATENESS,
        REFUSED,
    ):
        metric.remove_by_labels({"namespace": namespace, "stream": stream})
