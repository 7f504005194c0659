"""Which process or connection is disturbed when, and for how long. Pure: the same seed gives the same schedule."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random


class Kind(StrEnum):
    """What is done to a process or a link."""

    #: SIGKILL; started again afterwards.
    KILL = "kill"
    #: SIGSTOP, then SIGCONT.
    FREEZE = "freeze"
    #: All connections are reset, and new ones refused meanwhile.
    CUT = "cut"
    #: Nothing passes, and nobody is told.
    STALL = "stall"
    #: All that passes takes longer.
    DELAY = "delay"
    #: Writes of one kind of object are refused, by a policy or a webhook.
    REFUSE = "refuse"
    #: The API server comes back with another certificate and authority.
    ROTATE = "rotate"
    #: The topic gets another partition, with records of its own.
    GROW = "grow"


#: A further broker, which has one of the topic's partitions: without it that one has no leader.
BROKER = "kafka-2"
#: What of a stream's objects the API server refuses to write.
REFUSED = ("updates", "checkpoints", "rejections", "backlogs", "positions", "leases")
#: What the group's coordinator refuses.
COMMITS = "commits"
#: Who refuses: a policy by its reason (empty: it names none), or a webhook.
WEBHOOK = "webhook"
REFUSERS = ("Forbidden", "RequestEntityTooLarge", "Invalid", "", WEBHOOK)
#: Between the replicas and the parts that they need.
LINKS = (
    "bridge-apiserver",
    "controller-apiserver",
    "controller-downstream",
    "controller-names",
    "bridge-kafka",
    "apiserver-etcd",
)

#: Kind and target, and how often it is drawn. A replica's faults are cheap; Kafka's restart takes seconds.
WEIGHTS: Mapping[tuple[Kind, str], float] = {
    (Kind.KILL, "bridge"): 8,
    (Kind.KILL, "controller"): 8,
    (Kind.FREEZE, "bridge"): 3,
    (Kind.FREEZE, "controller"): 3,
    (Kind.KILL, "apiserver"): 1,
    (Kind.KILL, "etcd"): 1,
    (Kind.KILL, "kafka"): 1,
    (Kind.KILL, BROKER): 1,
    (Kind.KILL, "downstream"): 2,
    (Kind.FREEZE, "apiserver"): 1,
    (Kind.FREEZE, "etcd"): 1,
    (Kind.FREEZE, "kafka"): 1,
    (Kind.FREEZE, "downstream"): 1,
    **{(Kind.REFUSE, what): 0.7 for what in REFUSED},
    (Kind.REFUSE, COMMITS): 0.7,
    (Kind.GROW, "topic"): 1,
    (Kind.ROTATE, "authority"): 1,
    **{(kind, link): 1 for kind in (Kind.CUT, Kind.STALL, Kind.DELAY) for link in LINKS},
}
#: (share of the draws, shortest, longest) in seconds. The long ones outlast the Lease and the group's session.
_DURATIONS: Mapping[Kind, tuple[tuple[float, float, float], ...]] = {
    Kind.KILL: ((0.5, 0.0, 0.3), (0.35, 0.3, 3.0), (0.15, 11.0, 14.0)),
    Kind.FREEZE: ((0.4, 0.1, 2.0), (0.4, 2.0, 8.0), (0.2, 11.0, 16.0)),
    Kind.CUT: ((0.6, 0.0, 0.5), (0.4, 0.5, 5.0)),
    Kind.STALL: ((0.5, 0.2, 3.0), (0.5, 3.0, 12.0)),
    Kind.DELAY: ((1.0, 2.0, 10.0),),
    Kind.REFUSE: ((0.5, 2.0, 6.0), (0.5, 6.0, 15.0)),
    Kind.GROW: ((1.0, 0.0, 0.0),),
    Kind.ROTATE: ((1.0, 0.0, 0.0),),
}
#: Parts whose absence stops everything: never for long, as nothing is tested meanwhile.
_LONGEST_SHARED = 5.0
#: Seconds after the end of a fault before its target is drawn again: mostly it has time to get to work, sometimes it is
#: hit while it starts.
_PAUSES = ((0.75, 6.0, 15.0), (0.25, 0.3, 4.0))
#: Seconds that a part needs to be ready again after SIGKILL, about.
_RESTART: Mapping[str, float] = {
    "apiserver": 4.0,
    "authority": 4.0,
    "etcd": 2.0,
    "kafka": 7.0,
    BROKER: 7.0,
    "downstream": 1.5,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One disturbance."""

    #: Seconds from the start.
    at: float
    kind: Kind
    #: Name of a process (bridge-2), of a link, or of what is refused or grows.
    target: str
    seconds: float
    #: One of REFUSERS, where something is refused.
    by: str = ""

    def __str__(self) -> str:
        by = f" by {self.by or 'a policy without a reason'}" if self.target in REFUSED else ""
        return f"{self.at:7.2f} s  {self.kind:<6} {self.target:<21} for {self.seconds:.2f} s{by}"


class UnknownFault(ValueError):
    """No such kind and target; the message lists those that there are."""


def parse_menu(text: str) -> frozenset[tuple[Kind, str]]:
    """`kill:bridge,cut:bridge-apiserver,freeze` → what may be drawn; empty: everything. Raises UnknownFault."""
    chosen: set[tuple[Kind, str]] = set()
    for part in filter(None, text.replace(" ", "").split(",")):
        kind, _, target = part.partition(":")
        found = {pair for pair in WEIGHTS if pair[0] == kind and target in ("", pair[1])}
        if not found:
            known = ", ".join(f"{each}:{what}" for each, what in WEIGHTS)
            raise UnknownFault(f"there is no fault {part}; there are {known}")
        chosen |= found
    return frozenset(chosen or WEIGHTS)


def generate(
    seed: int, rounds: int, seconds: float, menu: Collection[tuple[Kind, str]], replicas: Mapping[str, Collection[str]]
) -> list[Fault]:
    """So many faults over so many seconds, or a little longer where all targets are busy; by time.

    `replicas` names the processes of the roles bridge and controller.
    """
    random = Random(f"{seed}/faults")
    free: dict[str, float] = {}
    faults: list[Fault] = []
    for at in sorted(random.uniform(1.0, max(1.0, seconds)) for _ in range(rounds)):
        options = [
            (kind, target, weight)
            for (kind, role), weight in WEIGHTS.items()
            if (kind, role) in menu
            for target in sorted(replicas.get(role, (role,)))
        ]
        idle = [option for option in options if free.get(option[1], 0.0) <= at]
        if not idle:
            at = min(free[target] for _, target, _ in options)
            idle = [option for option in options if free[option[1]] == at]
        kind, target, _ = random.choices(idle, [weight for _, _, weight in idle])[0]
        by = random.choice(REFUSERS) if kind is Kind.REFUSE and target != COMMITS else ""
        fault = Fault(round(at, 3), kind, target, round(_seconds(random, kind, target), 3), by)
        restart = _RESTART.get(target, 0.0) if kind in (Kind.KILL, Kind.ROTATE) else 0.0
        free[target] = at + fault.seconds + restart + _drawn(random, _PAUSES)
        faults.append(fault)
    return sorted(faults, key=lambda fault: fault.at)


def _seconds(random: Random, kind: Kind, target: str) -> float:
    seconds = _drawn(random, _DURATIONS[kind])
    shared = target in ("apiserver", "etcd", "kafka", "downstream")
    return min(seconds, random.uniform(0.0, _LONGEST_SHARED)) if shared else seconds


def _drawn(random: Random, shares: Sequence[tuple[float, float, float]]) -> float:
    _, shortest, longest = random.choices(shares, [share for share, _, _ in shares])[0]
    return random.uniform(shortest, longest)


def counted(faults: Collection[Fault]) -> Iterator[tuple[str, int]]:
    """(kind and role, how many), sorted."""
    names = [f"{fault.kind} {_role(fault.target)}" for fault in faults]
    for name in sorted(set(names)):
        yield name, names.count(name)


def _role(target: str) -> str:
    return target if target in (*LINKS, BROKER) else target.split("-")[0]
