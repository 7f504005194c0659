"""Whether a step works, judged by its latest calls and by the users who wait at it. For people: it stops no call. Pure.

The statuses of the updates say which users wait, and for what. That the step works for others is remembered here, by
the controller that calls it. docs/decisions/0034-when-a-step-is-blamed.md says when a step is blamed, and why.
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

#: Seconds without an accepted call, while some calls failed, after which a step does not work.
QUIET_SECONDS = 60.0
#: Seconds after an accepted call within which a single user in trouble proves nothing about the step.
PROVEN_SECONDS = 600.0
#: Number of refused users at which a step is blamed at once, if it is more than were served within QUIET_SECONDS.
MIN_REFUSED = 3
#: Seconds after which a new controller knows whom a step serves. The statuses tell it at once which users are refused.
OBSERVE_SECONDS = 4.0
#: Characters of a cause in the stream's condition.
MAX_CAUSE = 300

#: Reasons of the condition Processing that blame a step.
StepReason: TypeAlias = Literal["StepMisconfigured", "StepFailing"]
STEP_REASONS = get_args(StepReason)


@dataclass(slots=True)
class _Evidence:
    """Times are seconds of a monotonic clock."""

    #: When a call of each user was accepted last, within QUIET_SECONDS, the oldest first.
    served: dict[str, float] = field(default_factory=dict)
    accepted_at: float | None = None
    #: When the first report of the step was made.
    since: float | None = None
    #: Since when users have waited at the step while none of its calls was accepted.
    quiet_since: float | None = None
    #: Users who were refused, according to the last report.
    refused: int = 0
    #: The cause that the report shows. It stays as long as the causes of most users begin alike.
    shown: str = ""

    def forget_old(self, now: float) -> None:
        while self.served and now - next(iter(self.served.values())) >= QUIET_SECONDS:
            del self.served[next(iter(self.served))]


class StepHealth:
    """The observations that one controller has made of the steps of one shard since it acquired the Lease."""

    def __init__(self) -> None:
        self._steps = {step.name: _Evidence() for step in STEPS}

    def answered(self, step: str, user: str, outcome: Outcome, now: float) -> None:
        """The outcome of a call. A busy answer and a final refusal of one update show that the step works, too."""
        if isinstance(outcome, Done | Busy | Rejected):
            evidence = self._steps[step]
            evidence.served.pop(user, None)
            evidence.served[user] = evidence.accepted_at = now
            evidence.quiet_since = None
            evidence.forget_old(now)

    def changed(self, step: str) -> None:
        """The step's spec has changed: earlier observations no longer count."""
        self._steps[step] = _Evidence()

    def refused(self, step: str) -> int:
        """Users who wait through the stream's fault, according to the last report."""
        return self._steps[step].refused

    def reports(self, updates: Iterable[UserUpdate], now: float) -> tuple[StepReport, ...]:
        """A report of each step, in their order. `updates` are the unfinished ones, `now` is monotonic."""
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
            complete=now - evidence.since >= OBSERVE_SECONDS,
        )


@dataclass(frozen=True, slots=True)
class StepReport:
    """The state of a step in one shard, or in the whole stream."""

    name: str
    #: Users who wait at it through the stream's fault: its url, its Secret, a request that the downstream refuses.
    refused: int = 0
    #: Users who wait at it after a failure that may pass.
    failing: int = 0
    #: Other users whose calls it has accepted within QUIET_SECONDS.
    served: int = 0
    #: For QUIET_SECONDS users have waited at it, and none of its calls was accepted.
    quiet: bool = False
    #: It has accepted a call within PROVEN_SECONDS.
    proven: bool = False
    #: Why most of the waiting users wait, "for instance …" where others wait for another cause; empty where nobody
    #: waits.
    cause: str = ""
    #: Whether `served` is known: OBSERVE_SECONDS have passed, and all shards have reported. Not written to the status.
    complete: bool = True

    @property
    def waiting(self) -> int:
        return self.refused + self.failing

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """The report in an entry of `status.shards`."""
        fields = ("name", "refused", "failing", "served", "quiet", "proven", "cause")
        return cls(**{key: body[key] for key in fields if key in body})

    def for_status(self) -> dict[str, Any]:
        numbers = {"refused": self.refused, "failing": self.failing, "served": self.served}
        flags = {"quiet": self.quiet, "proven": self.proven}
        return {"name": self.name, **numbers, **flags, **({"cause": self.cause} if self.cause else {})}

    def blame(self, *, standing: bool) -> StepReason | None:
        """The reason for which the step does not work; None: it works, or too few users say otherwise.

        `standing`: the step is blamed already. Then it takes clear evidence to take the blame back.
        """
        many = self.refused >= MIN_REFUSED and self.refused > (self.served // 2 if standing else self.served)
        many = many and (standing or self.complete)
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
    """The reports of the whole stream, in the order of the steps, from those of its `count` shards."""
    by_step: defaultdict[str, list[StepReport]] = defaultdict(list)
    for report in reports:
        by_step[report.name].append(report)
    return tuple(_sum(step.name, by_step[step.name], count) for step in STEPS)


def _sum(name: str, shards: list[StepReport], count: int) -> StepReport:
    worst = max(shards, key=lambda shard: (shard.waiting, shard.cause), default=StepReport(name))
    return StepReport(
        name=name,
        refused=sum(shard.refused for shard in shards),
        failing=sum(shard.failing for shard in shards),
        served=sum(shard.served for shard in shards),
        quiet=any(shard.quiet for shard in shards),
        proven=any(shard.proven for shard in shards),
        cause=worst.cause,
        complete=not shards or len(shards) == count,
    )


def _trouble(update: UserUpdate) -> Reason | None:
    """Why the user waits at the step in hand, also while it is about to be called again; None: it does not wait."""
    status = update.status
    if status.reason in (Reason.STEP_MISCONFIGURED, Reason.BACKING_OFF):
        return status.reason
    if status.reason not in (Reason.RUNNING, Reason.STEP_CONCURRENCY) or not status.attempts:
        return None
    return Reason.STEP_MISCONFIGURED if status.misconfigured_count else Reason.BACKING_OFF


def _most_common(causes: list[str], shown: str) -> str:
    """A cause from the largest group of causes that begin alike; the one that is shown now, where it is in that group.

    The text after the first colon may differ with each call, and a condition must not change with each call.
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
