"""Whether a step works: what its calls came to lately, and who waits at it. For people; it stops no call.

Who waits, and for what, is in the statuses of the updates; that the step works for others is remembered here, by the
controller that calls it. When it is blamed, and why: docs/decisions/0034-when-a-step-is-blamed.md.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias, get_args

from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Reason
from controller.core.decisions import cause_of
from controller.core.outcomes import Busy, Done, Outcome, Rejected
from controller.core.steps import STEPS

#: A step none of whose calls was accepted for so many seconds, while some failed, does not work.
QUIET_SECONDS = 60.0
#: A single user in trouble says nothing of a step that has accepted a call within so many seconds.
PROVEN_SECONDS = 600.0
#: So many users who are refused, and more of them than were served within QUIET_SECONDS, blame the step at once.
MIN_REFUSED = 3
#: Seconds of looking after which what a step serves is known: who is refused, the statuses tell a successor at once.
SETTLE_SECONDS = 4.0
#: Characters of a cause in the stream's condition.
MAX_CAUSE = 300

#: Reasons of Processing by which a step is blamed.
StepReason: TypeAlias = Literal["StepMisconfigured", "StepFailing"]
STEP_REASONS = get_args(StepReason)


@dataclass(slots=True)
class _Evidence:
    """Times are seconds of a monotonic clock."""

    #: When a call of each user was accepted last, within QUIET_SECONDS, the oldest first.
    served: dict[str, float] = field(default_factory=dict)
    accepted_at: float | None = None
    #: When it was looked at first.
    since: float | None = None
    #: Since when somebody waits at the step, and none of its calls was accepted.
    quiet_since: float | None = None
    #: Users who were refused, by the last report.
    refused: int = 0
    #: The cause that is shown: it stays as long as most users have one that begins like it.
    shown: str = ""

    def forget_old(self, now: float) -> None:
        while self.served and now - next(iter(self.served.values())) >= QUIET_SECONDS:
            del self.served[next(iter(self.served))]


class StepHealth:
    """What one controller has seen of the steps of one shard, since it holds the Lease."""

    def __init__(self) -> None:
        self._steps = {step.name: _Evidence() for step in STEPS}

    def answered(self, step: str, user: str, outcome: Outcome, now: float) -> None:
        """What a call came to. To be told busy, and a final no to one update, show that the step works."""
        if isinstance(outcome, Done | Busy | Rejected):
            evidence = self._steps[step]
            evidence.served.pop(user, None)
            evidence.served[user] = evidence.accepted_at = now
            evidence.quiet_since = None
            evidence.forget_old(now)

    def changed(self, step: str) -> None:
        """The step is another one now: nothing that was seen of it counts."""
        self._steps[step] = _Evidence()

    def refused(self, step: str) -> int:
        """Users who wait because of what is the stream's, by the last report."""
        return self._steps[step].refused

    def reports(self, updates: Iterable[UserUpdate], now: float) -> tuple[StepReport, ...]:
        """Of each step, in the order in which they run; `updates` are the unfinished ones."""
        refused: defaultdict[str, set[str]] = defaultdict(set)
        failing: defaultdict[str, set[str]] = defaultdict(set)
        causes: defaultdict[str, list[str]] = defaultdict(list)
        for update in updates:
            status = update.status
            if status.step is None or (trouble := _trouble(update)) is None:
                continue
            (refused if trouble is Reason.STEP_MISCONFIGURED else failing)[status.step].add(update.spec.user)
            if cause := cause_of(status):
                causes[status.step].append(cause)
        return tuple(
            self._report(step.name, refused[step.name], failing[step.name], causes[step.name], now) for step in STEPS
        )

    def _report(self, step: str, refused: set[str], failing: set[str], causes: list[str], now: float) -> StepReport:
        evidence = self._steps[step]
        evidence.forget_old(now)
        evidence.since = now if evidence.since is None else evidence.since
        troubled = refused | failing
        if not troubled:
            evidence.quiet_since = None
        elif evidence.quiet_since is None:
            evidence.quiet_since = now
        evidence.shown = _most_common(causes, evidence.shown) if troubled else ""
        evidence.refused = len(refused)
        quiet_since, accepted = evidence.quiet_since, evidence.accepted_at
        return StepReport(
            name=step,
            refused=len(refused),
            failing=len(failing - refused),
            served=len(evidence.served.keys() - troubled),
            quiet=quiet_since is not None and now - quiet_since >= QUIET_SECONDS,
            proven=accepted is not None and now - accepted < PROVEN_SECONDS,
            cause=evidence.shown if len({*map(_head, causes)}) <= 1 else f"for instance {evidence.shown}",
            settled=now - evidence.since >= SETTLE_SECONDS,
        )


@dataclass(frozen=True, slots=True)
class StepReport:
    """How a step stands: in one shard, or in the whole stream."""

    name: str
    #: Users who wait at it because of what is the stream's: its url, its Secret, what the downstream refuses.
    refused: int = 0
    #: Users who wait at it after a failure that may pass.
    failing: int = 0
    #: Other users whose calls it has accepted within QUIET_SECONDS.
    served: int = 0
    #: For QUIET_SECONDS somebody has waited at it, and none of its calls was accepted.
    quiet: bool = False
    #: It has accepted a call within PROVEN_SECONDS.
    proven: bool = False
    #: What most of those who wait were told, "for instance …" where others were told something else; empty where nobody
    #: waits.
    cause: str = ""
    #: `served` is known: SETTLE_SECONDS have passed, and all shards have told. It is in no entry.
    settled: bool = True

    @property
    def waiting(self) -> int:
        return self.refused + self.failing

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Of an entry of `status.shards`."""
        fields = ("name", "refused", "failing", "served", "quiet", "proven", "cause")
        return cls(**{key: body[key] for key in fields if key in body})

    def for_status(self) -> dict[str, Any]:
        numbers = {"refused": self.refused, "failing": self.failing, "served": self.served}
        flags = {"quiet": self.quiet, "proven": self.proven}
        return {"name": self.name, **numbers, **flags, **({"cause": self.cause} if self.cause else {})}

    def blame(self, *, standing: bool) -> StepReason | None:
        """The reason for which the step does not work; None: it does, or too few say otherwise.

        `standing`: that has been said, and is to be taken back only by what clearly shows otherwise.
        """
        many = self.refused >= MIN_REFUSED and self.refused > (self.served // 2 if standing else self.served)
        many = many and (standing or self.settled)
        silent = (self.quiet or standing) and not self.served and (self.waiting > 1 or not self.proven)
        if not self.waiting or not (many or silent):
            return None
        return "StepMisconfigured" if self.refused >= self.failing else "StepFailing"

    def __str__(self) -> str:
        one = self.waiting == 1
        users = f"of {self.waiting + self.served} users" if self.served else "user" if one else "users"
        since = ", and no call was accepted for a minute" if self.quiet and not self.served else ""
        cause = self.cause or "their calls are being repeated"
        return f"{self.name}: {self.waiting} {users} {'waits' if one else 'wait'}{since}: {cause}"


def of_all_shards(reports: Iterable[StepReport], count: int) -> tuple[StepReport, ...]:
    """The reports of the whole stream, which has so many shards, in the order of the steps."""
    by_step: defaultdict[str, list[StepReport]] = defaultdict(list)
    for report in reports:
        by_step[report.name].append(report)
    return tuple(_sum(step.name, by_step[step.name], count) for step in STEPS)


def _sum(name: str, parts: list[StepReport], count: int) -> StepReport:
    worst = max(parts, key=lambda part: (part.waiting, part.cause), default=StepReport(name))
    return StepReport(
        name=name,
        refused=sum(part.refused for part in parts),
        failing=sum(part.failing for part in parts),
        served=sum(part.served for part in parts),
        quiet=any(part.quiet for part in parts),
        proven=any(part.proven for part in parts),
        cause=worst.cause,
        settled=not parts or len(parts) == count,
    )


def _trouble(update: UserUpdate) -> Reason | None:
    """What the step in hand gives the user to wait for, also while it is about to be called again; None: nothing."""
    status = update.status
    if status.reason in (Reason.STEP_MISCONFIGURED, Reason.BACKING_OFF):
        return status.reason
    if status.reason not in (Reason.RUNNING, Reason.STEP_CONCURRENCY) or not status.attempts:
        return None
    return Reason.STEP_MISCONFIGURED if status.misconfigured_count else Reason.BACKING_OFF


def _most_common(causes: list[str], shown: str) -> str:
    """A cause of the largest group of those that begin alike; the one that is shown, where it is of that group.

    What follows the first colon may be different for each call: a condition must not change with each of them.
    """
    groups = Counter(map(_head, causes))
    if not groups:
        return shown
    most = max(groups.values())
    if groups[_head(shown)] == most:
        return shown
    head = min(head for head, count in groups.items() if count == most)
    return min(cause for cause in causes if _head(cause) == head)[:MAX_CAUSE]


def _head(cause: str) -> str:
    return cause.partition(":")[0]
