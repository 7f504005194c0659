"""A plan from a seed, played on an environment and judged; what was broken is told, with the seed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection
from dataclasses import dataclass

from controller.clients.cluster import Cluster
from devenv.environment import Environment, replicas
from tests.chaos import schedule, verdict, workload
from tests.chaos.history import History
from tests.chaos.links import LinkedEnvironment
from tests.chaos.run import Run
from tests.chaos.schedule import Kind
from tests.chaos.stage import Stage

#: Breaches of one guarantee that are told; the first ones say most.
SHOWN = 12


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run follows from."""

    seed: int
    rounds: int
    sizes: workload.Sizes
    menu: Collection[tuple[Kind, str]]
    bridges: int = 2
    controllers: int = 2

    @property
    def command(self) -> str:
        """What plays it again."""
        faults = (
            ""
            if set(self.menu) == set(schedule.WEIGHTS)
            else ",".join(f"{kind}:{of}" for kind, of in sorted(self.menu))
        )
        options = {
            "SEED": str(self.seed),
            "ROUNDS": str(self.rounds),
            "SECONDS": f"{self.sizes.seconds:g}",
            "RATE": f"{self.sizes.events_per_second:g}",
            "FAULTS": faults,
            "BRIDGES": str(self.bridges),
            "CONTROLLERS": str(self.controllers),
        }
        return " ".join(["make chaos", *(f"{name}={shlex.quote(value)}" for name, value in options.items() if value)])


async def play(environment: Environment, plan: Plan, tell: Callable[[str], None]) -> bool:
    """Whether every guarantee held. Raises DevenvError or ApiError where that cannot be told."""
    tell(f"seed {plan.seed}: {plan.command}")
    links = {target for _, target in plan.menu if target in schedule.LINKS}
    linked = LinkedEnvironment(environment, links, webhooks=any(kind is Kind.REFUSE for kind, _ in plan.menu))
    brokers = [schedule.BROKER] if any(target == schedule.BROKER for _, target in plan.menu) else []
    stage = Stage(linked, replicas("bridge", plan.bridges), replicas("controller", plan.controllers), brokers)
    faults = schedule.generate(plan.seed, plan.rounds, plan.sizes.seconds, plan.menu, stage.replicas)
    load = workload.generate(plan.seed, plan.sizes)
    tell(_described(load))
    async with Cluster.connect() as cluster, stage.set():
        run = Run(stage, cluster, load, faults, tell)
        try:
            history = await run.play()
        finally:
            await run.clear()
    verdicts = verdict.judge(history)
    tell(_counted(history, faults))
    for each in verdicts:
        tell(f"  {'held  ' if not each.breaches else 'BROKEN'} {each.guarantee}")
        for breach in each.breaches[:SHOWN]:
            tell(f"         {breach}")
        if len(each.breaches) > SHOWN:
            tell(f"         … and {len(each.breaches) - SHOWN} more")
    held = not any(each.breaches for each in verdicts)
    if not held:
        tell(f"seed {plan.seed} broke a guarantee in namespace {run.name}; to play it again: {plan.command}")
        tell(f"logs of all processes: {stage.logs()}")
    return held


def _described(load: workload.Workload) -> str:
    bad = sum(record.reason is not None for record in load.records)
    users = len({record.user for record in load.records if record.reason is None})
    return (
        f"{len(load.records)} records ({bad} bad) of {users} users on {load.partitions} partitions, "
        f"{len(load.hand_made)} hand-made updates, {len(load.suspensions)} suspensions, {len(load.rules)} rules; "
        f"limits {dict(load.spec['limits'])}"
    )


def _counted(history: History, faults: Collection[schedule.Fault]) -> str:
    rounds = ", ".join(f"{count} {name}" for name, count in schedule.counted(faults))
    last = max((each.end_ns for each in history.disturbances), default=0)
    amid = sum(call.time_ns < last for call in history.calls)
    return (
        f"{len(faults)} rounds ({rounds}); {len(history.calls)} calls ({amid} amid the faults), "
        f"{len(history.updates)} updates, "
        f"{len(history.rejected)} rejected, {len(history.sightings)} sightings, {len(history.samples)} samples"
    )
