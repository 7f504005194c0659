"""What is sent in a run: records, hand-made updates, suspensions, and how the downstream misbehaves. Pure.

The same seed and sizes give the same workload, byte for byte.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.chaos import misbehaviour
from tests.chaos.poison import REASONS, event, poison

NAME_CONFLICT = "NameConflict"
#: Megabytes are sent once.
SMALL_REASONS = tuple(reason for reason in REASONS if reason != "TooLarge")
#: Users whose names are no label values, or need encoding on the wire.
ODD_USERS = ("Zoë/ß ü", "ends-", ".dot", "日本語", "a:b@c,d=e", "x" * 300)
#: The downstream is busy with this one until all others are done.
BLOCKED_USER = "blocked"
#: Records of a partition that is added in the middle of a run, and how many users they have.
GROWN_RECORDS, GROWN_USERS = 6, 2


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large a run is."""

    #: Seconds over which the load and the faults are spread.
    seconds: float = 60.0
    events_per_second: float = 12.0
    most_users: int = 30


@dataclass(frozen=True, slots=True)
class SentRecord:
    """A record as it is produced; its offset is its place among those of its partition."""

    #: Seconds from the start.
    at: float
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    #: Why it can never become an update; None: it does.
    reason: str | None = None

    @property
    def user(self) -> str:
        """The user of a good record."""
        return (self.key or b"").decode()


@dataclass(frozen=True, slots=True)
class HandMade:
    """A UserUpdate that a person applies."""

    at: float
    name: str
    user: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Suspension:
    """A user suspended in the stream, from `at` for so many seconds."""

    at: float
    seconds: float
    user: str


@dataclass(frozen=True, slots=True)
class Workload:
    """All that a run sends and asks for."""

    partitions: int
    records: tuple[SentRecord, ...]
    hand_made: tuple[HandMade, ...]
    suspensions: tuple[Suspension, ...]
    #: Rules of the sample downstream, without that of the blocked user.
    rules: tuple[Mapping[str, Any], ...]
    #: (user, sequence) of updates that the downstream refuses for good.
    refused: frozenset[tuple[str, int]]
    #: What the stream's spec says beside its addresses.
    spec: Mapping[str, Any] = field(default_factory=dict)

    def rules_document(self, *, blocked: bool) -> dict[str, Any]:
        """What is put to the downstream; with `blocked` one user is not let through."""
        waiting = {"name": "blocked", "user": BLOCKED_USER, "action": "busy"}
        return {"latencySeconds": 0.02, "rules": [*([waiting] if blocked else []), *self.rules]}


def generate(seed: int, sizes: Sizes) -> Workload:
    """The workload of a seed."""
    random = Random(f"{seed}/workload")
    users = _users(random, sizes)
    partitions = random.choice((1, 1, 2, 3, 4))
    records = tuple(_records(random, sizes, users, partitions))
    good = [record for record in records if record.reason is None and record.user != BLOCKED_USER]
    served = {record.user for record in good}
    refused = frozenset((each.user, each.offset) for each in random.sample(good, min(len(good), len(good) // 60 + 1)))
    return Workload(
        partitions=partitions,
        records=records,
        hand_made=tuple(_hand_made(random, sizes, users)),
        suspensions=tuple(_suspensions(random, sizes, users)),
        rules=(
            *misbehaviour.refusals(random, refused),
            *misbehaviour.passing(random, [user for user in users if user in served]),
        ),
        refused=refused,
        # What is collected cannot be counted when all has come to rest: nothing of a run is.
        spec=_spec(random, len(users)) | {"retention": {"maxFinished": 2 * len(records) + 1000}},
    )


def grown(partition: int, at: float) -> list[SentRecord]:
    """What is sent to a partition that is added in the middle of a run, from `at` on: some good ones and a bad one."""
    value = json.dumps({"profile": f"grown-{partition}", "permissions": "all", "resources": "all"}).encode()
    users = [f"grown-{partition}-{number % GROWN_USERS}".encode() for number in range(GROWN_RECORDS)]
    records = [SentRecord(at, partition, offset, user, value) for offset, user in enumerate(users)]
    return [*records, SentRecord(at, partition, len(records), users[0], b"{", "NotJSON")]


def _users(random: Random, sizes: Sizes) -> list[str]:
    count = random.randint(6, max(6, sizes.most_users))
    odd = random.sample(ODD_USERS, min(count // 4, len(ODD_USERS)))
    return odd + [f"user-{number}" for number in range(count - len(odd))]


def _spec(random: Random, users: int) -> dict[str, Any]:
    """Few slots, so that the limits are met; more than can be blocked at once, so that nobody waits for others."""
    per_user = random.randint(2, 5)
    return {
        "limits": {"maxObjects": users + 2 * per_user + random.randint(0, 20), "maxPerUser": per_user},
        "onRejected": "Continue",
    }


def _times(random: Random, sizes: Sizes, count: int) -> list[float]:
    """A steady trickle, and bursts of up to 40 records at once."""
    times: list[float] = []
    while len(times) < count:
        at = random.uniform(0.0, sizes.seconds)
        times += [at] * (random.randint(10, 40) if random.random() < 0.02 else 1)
    return sorted(times[:count])


def _records(random: Random, sizes: Sizes, users: list[str], partitions: int) -> Iterator[SentRecord]:
    count = max(len(REASONS) * 4, int(sizes.seconds * sizes.events_per_second))
    bad = dict(zip(random.sample(range(count), len(REASONS) + 1), (*REASONS, NAME_CONFLICT), strict=True))
    weights = [1.0 / (rank + 1) ** 0.7 for rank in range(len(users))]
    roaming = set(random.sample(users, 2)) if partitions > 1 else set()
    home = {user: random.randrange(partitions) for user in (*users, BLOCKED_USER)}
    offsets: Counter[int] = Counter()
    for number, at in enumerate(_times(random, sizes, count)):
        user = random.choices(users, weights)[0]
        if random.random() < 0.02:
            user = BLOCKED_USER
        reason = bad.get(number) or (random.choice(SMALL_REASONS) if random.random() < 0.03 else None)
        key: bytes | None = user.encode()
        value: bytes | None = json.dumps(event(number, random)).encode()
        if reason in REASONS:
            made = poison(reason, number, user, random)
            key, value = made.key, made.value
        partition = random.randrange(partitions) if user in roaming else home[user]
        yield SentRecord(at, partition, offsets[partition], key, value, reason)
        offsets[partition] += 1


def _hand_made(random: Random, sizes: Sizes, users: list[str]) -> Iterator[HandMade]:
    for number in range(random.randint(2, 2 + int(sizes.seconds / 5))):
        at = random.uniform(0.0, sizes.seconds)
        yield HandMade(at, f"hand-made-{number}", random.choice(users), 1_000_000 + number)


def _suspensions(random: Random, sizes: Sizes, users: list[str]) -> Iterator[Suspension]:
    for user in random.sample(users, random.randint(1, 3)):
        at = random.uniform(0.0, sizes.seconds * 0.8)
        yield Suspension(at, random.uniform(2.0, max(3.0, sizes.seconds / 3)), user)
