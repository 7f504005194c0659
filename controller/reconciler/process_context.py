"""The state that all streams of this process share."""

from __future__ import annotations

from dataclasses import dataclass

from controller.clients.cluster import Cluster
from controller.clients.downstream import Downstream
from controller.clients.event_recorder import EventRecorder
from controller.reconciler.lease_balancer import LeaseBalancer
from controller.reconciler.process_watch import ProcessWatch


@dataclass(frozen=True, slots=True)
class ProcessContext:
    """The clients of this process, its name, and what it knows of the other processes."""

    cluster: Cluster
    downstream: Downstream
    identity: str
    recorder: EventRecorder
    processes: ProcessWatch
    balancer: LeaseBalancer
