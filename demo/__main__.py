"""Plays the demo: starts everything, plays the scenario, shows and judges what happened, stops everything.

Exit code 0: every guarantee held. 1: a guarantee was broken, or something failed. 130: interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence

import httpx

from controller import errors
from controller.clients.cluster import Cluster
from demo.errors import DemoFailed
from demo.evidence import Evidence
from demo.play import Play
from demo.scenario import BUSY_USER, FAILING_USER
from demo.screen import Screen
from demo.timeline import Mark, render
from demo.verdict import Verdict, judge
from demo.world import World
from devenv import lifecycle
from devenv.environment import Environment
from devenv.errors import DevenvError
from devenv.kind.choice import choose
from devenv.kind.cluster import KindEnvironment
from devenv.layout import DEMO, default_directory, locked

#: Seconds for one answer of the downstream's journal and control.
DOWNSTREAM_SECONDS = 10.0
EXIT_INTERRUPTED = 130
#: Name of the kind cluster, where one is needed.
CLUSTER = "userupdates-demo"
#: The signals that end the demo early. A background job of a shell ignores SIGINT by default.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: The demo's parts are always its own, so that it never writes to a cluster or a Kafka of the person.
FOREIGN = ("USE_EXISTING_CLUSTER", "KAFKA_BOOTSTRAP_SERVERS", "USERUPDATES_EMBEDDED_KAFKA")


def main(arguments: Sequence[str] | None = None) -> int:
    """Play once. Everything is stopped at the end, however the play ends."""
    parser = argparse.ArgumentParser(
        prog="python -m demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    for number in STOPPING:
        signal.signal(number, signal.default_int_handler)
    for name in FOREIGN:
        os.environ.pop(name, None)
    screen = Screen()
    directory = default_directory() / DEMO
    environment: Environment | None = None
    with locked(directory / "demo.lock", what="plays the demo"):
        try:
            environment = choose(directory, CLUSTER, progress=lambda line: screen.line(f"  {line}"))
            return _play(environment, screen)
        except KeyboardInterrupt:
            screen.line("interrupted")
            return EXIT_INTERRUPTED
        except (DemoFailed, DevenvError, errors.ControllerError, httpx.HTTPError) as failed:
            screen.line(f"error: {failed}", style="red")
            _point_to_logs(environment, screen)
            return 1
        finally:
            if environment:
                _stop(environment, screen)


def _play(environment: Environment, screen: Screen) -> int:
    started = time.monotonic()
    if isinstance(environment, KindEnvironment):
        screen.line("A kind cluster with Kafka, a sample downstream, the bridge and the controller as pods:")
        environment.down()
        environment.up()
        environment.apply_sample()
    else:
        screen.line("A real etcd, kube-apiserver and Kafka, a sample downstream, the bridge and the controller:")
        lifecycle.clean(environment)
        lifecycle.up(environment, bridges=1, controllers=1)
    os.environ["KUBECONFIG"] = str(environment.kubeconfig)
    screen.heading("What happens")
    evidence = asyncio.run(perform(environment, screen))
    crash = evidence.crash
    screen.heading("Timeline (K: SIGKILL to the controller, S: started again)")
    for line in render(evidence.calls, [Mark("K", crash.killed_ns), Mark("S", crash.restarted_ns)]):
        screen.line(line)
    screen.heading("What the API server has")
    users = f"enrichment.dev/user in (userid1, {BUSY_USER}, {FAILING_USER})"
    for arguments in (("get", "us"), ("get", "uu", "-l", users), ("get", "re")):
        shown = " ".join(repr(word) if " " in word else word for word in ("kubectl", *arguments))
        screen.command(shown, environment.kubectl(*arguments))
    held = _show(judge(evidence), screen)
    screen.line(f"{time.monotonic() - started:.0f} s; logs and data stay in {environment.layout.directory}")
    return 0 if held else 1


async def perform(environment: Environment, screen: Screen) -> Evidence:
    """Play on a running environment whose data are new. Raises what `Play.run` does."""
    world = World()
    downstream = httpx.AsyncClient(base_url=environment.downstream_url, timeout=DOWNSTREAM_SECONDS, trust_env=False)
    async with Cluster.connect() as cluster, downstream:
        with screen.live(world):
            return await Play(environment, screen, world, cluster, downstream).run()


def _show(verdicts: list[Verdict], screen: Screen) -> bool:
    """Print them; whether all held."""
    screen.heading("Guarantees, by what Kafka, the API server and the downstream's journal show")
    for verdict in verdicts:
        word, style = ("held  ", "green") if verdict.holds else ("BROKEN", "red")
        screen.line(f"{word}  {verdict.guarantee:<23}{verdict.seen}", style=style)
        for breach in verdict.breaches:
            screen.line(f"        - {breach}", style="red")
    broken = [verdict.guarantee for verdict in verdicts if not verdict.holds]
    screen.line()
    screen.line(f"BROKEN: {', '.join(broken)}" if broken else "All guarantees held.", style="bold")
    return not broken


def _point_to_logs(environment: Environment | None, screen: Screen) -> None:
    if isinstance(environment, KindEnvironment):
        with contextlib.suppress(DevenvError):
            environment.collect_logs(environment.layout.run)
    if environment:
        screen.line(f"logs: {environment.layout.run}")


def _stop(environment: Environment, screen: Screen) -> None:
    """Stop all processes; a second Ctrl-C does not leave half of them running."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    environment.progress = lambda line: None
    try:
        if isinstance(environment, KindEnvironment):
            environment.down()
        else:
            lifecycle.down(environment)
    except DevenvError as failed:
        screen.line(f"error: not everything was stopped: {failed}", style="red")


if __name__ == "__main__":
    sys.exit(main())
