"""What a run leaves behind, as far as the verdict is concerned. Data, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from devenv.journal import Call
from tests.chaos.workload import Workload

Body: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as Kafka has it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Disturbance:
    """A fault as it happened, in wall times of nanoseconds: from just before it until its target was back."""

    kind: str
    target: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Sighting:
    """A UserUpdate as a watch of the API server showed it; what it says was written before `time_ns`."""

    time_ns: int
    name: str
    uid: str
    user: str
    deleted: bool = False
    phase: str | None = None
    run: int = 0
    #: Names of the steps that are recorded.
    steps: tuple[str, ...] = ()
    attempts: int = 0
    busy_count: int = 0
    next_attempt_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A look at the whole: first the stream's positions, then a consistent list of what exists."""

    time_ns: int
    #: (topic id, partition): position.
    positions: Mapping[tuple[str, int], int]
    #: Names of the UserUpdates, and how many of them are unfinished.
    updates: frozenset[str]
    unfinished: int
    #: (partition, offset, last offset) of the RejectedEvents.
    rejected: tuple[tuple[int, int, int], ...] = ()
    #: UserBacklogs that exist, and the (partition, offset) that they name.
    backlogs: int = 0
    backlogged: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class SuspensionSeen:
    """A user's suspension: from when the API server had taken it until its end was asked for."""

    user: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class History:
    """All evidence of a run."""

    workload: Workload
    stream: Body
    #: Kafka's text of the topic's id.
    topic_id: str
    records: tuple[StoredRecord, ...]
    updates: tuple[Body, ...]
    rejected: tuple[Body, ...]
    calls: tuple[Call, ...]
    sightings: tuple[Sighting, ...] = ()
    samples: tuple[Sample, ...] = ()
    disturbances: tuple[Disturbance, ...] = ()
    suspensions: tuple[SuspensionSeen, ...] = ()
    #: Bridges that ran at a time.
    bridges: int = 1
    #: When the blocked user was let through; None: the others were never done.
    released_ns: int | None = None
    #: What did not come to rest in time, in words; empty where everything did.
    unsettled: str = ""
    #: Bridges and controllers that ended without being killed, in words.
    exits: tuple[str, ...] = ()
    #: Trouble of the run itself, for which nobody else is to blame.
    failures: tuple[str, ...] = ()
