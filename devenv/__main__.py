"""Starts, stops and shows the developer's environment. `make up`, `down`, `clean`, `status` and `send` run it."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from controller.core.records import Record, Rejection, read_record
from devenv import broker, kubectl, lifecycle, sources, validation
from devenv.environment import Environment
from devenv.errors import DevenvError
from devenv.kind import engine
from devenv.kind.choice import choose
from devenv.kind.cluster import KindEnvironment
from devenv.layout import DEMO, ROOT

MAX_REPLICAS = 20
#: The value of a record that becomes an update.
EVENT = '{"profile": "dev", "permissions": "all", "resources": "all"}'
#: Name of the kind cluster, where one is needed.
CLUSTER = "userupdates"
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 for success, 1 for a failure, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    environment = Environment(progress=lambda line: print(line, flush=True))
    try:
        return int(options.run(environment, options))
    except DevenvError as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; what runs stays. `make up` goes on, `make down` stops it.", file=sys.stderr)
        return EXIT_INTERRUPTED


def _up(environment: Environment, options: argparse.Namespace) -> int:
    chosen = choose(environment.layout.directory, CLUSTER, progress=environment.progress)
    if isinstance(chosen, KindEnvironment):
        return _up_in_kind(chosen, options)
    lifecycle.up(
        environment,
        bridges=options.bridges,
        controllers=options.controllers,
        stream=options.stream,
        tuned=options.tuned,
    )
    lines, ready = lifecycle.streams_ready(environment)
    for line in lines:
        environment.progress(line)
    env = environment.layout.env
    shown = env.relative_to(Path.cwd()) if env.is_relative_to(Path.cwd()) else env
    print(f"{'ready' if ready else 'up, but not every stream is ready'}. Now: . {shown} && kubectl get us,uu")
    topic = None if options.stream is None else kubectl.topic(options.stream)
    named = "" if topic in (None, broker.TOPIC) else f" TOPIC={topic}"
    print(f"Send a record: make send{named} USER=userid1 VALUE='{EVENT}'")
    return 0


def _up_in_kind(environment: KindEnvironment, options: argparse.Namespace) -> int:
    environment.up()
    for role, count in (("bridge", options.bridges), ("controller", options.controllers)):
        if count is not None:
            environment.processes.scale(role, count)
            environment.wait_ready(role)
    environment.apply_stream(options.stream or kubectl.SAMPLE_STREAM)
    environment.write_env()
    print(f"ready, in kind. Now: . {environment.layout.env} && kubectl get us,uu")
    return 0


def _down(environment: Environment, options: argparse.Namespace) -> int:
    if not lifecycle.down(environment) and not _down_in_kind():
        print("nothing was running")
    return 0


def _down_in_kind() -> bool:
    """Whether there was a cluster."""
    if not engine.available() or CLUSTER not in engine.clusters():
        return False
    engine.delete(CLUSTER)
    return True


def _clean(environment: Environment, options: argparse.Namespace) -> int:
    for each in (environment, Environment(environment.layout.directory / DEMO)):
        lifecycle.clean(each)
    shutil.rmtree(environment.layout.directory / DEMO, ignore_errors=True)
    _down_in_kind()
    print(f"removed the data in {environment.layout.directory}")
    return 0


def _status(environment: Environment, options: argparse.Namespace) -> int:
    rows = lifecycle.status(environment)
    for name, state, pid, log in rows:
        print(f"{name:<13} {state:<12} {pid:>8}  {log}")
    return 0 if all(state == "running" for _, state, _, _ in rows) else 1


def _send(environment: Environment, options: argparse.Namespace) -> int:
    servers = environment.bootstrap_servers
    if not sources.existing_bootstrap_servers() and environment.processes.find("kafka") is None:
        raise DevenvError("Kafka does not run here; `make up` starts it, and `. .dev/env` says where it is")
    broker.check(servers)
    partition, offset = broker.send(servers, options.topic, options.key, options.value)
    print(f"sent to {options.topic}, partition {partition}, offset {offset}")
    record = Record(options.topic, "", partition, offset, 0, options.key.encode(), options.value.encode())
    if lifecycle.nobody_reads(environment, options.topic):
        print(f"note: no UpdateStream reads the topic {options.topic}: see `kubectl get us -A`", file=sys.stderr)
    elif isinstance(event := read_record(record), Rejection):
        print(
            f"note: this becomes no update, but a RejectedEvent ({event.reason.value}: {event.message})",
            file=sys.stderr,
        )
    return 0


def _validate(environment: Environment, options: argparse.Namespace) -> int:
    for path in validation.validate():
        print(f"valid: {path.relative_to(ROOT)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devenv", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="{up,down,clean,status,validate,send}")
    text = "start what is not running, and return when everything is ready"
    up = commands.add_parser("up", help=text, description=text)
    up.add_argument(
        "--bridges", type=_count, metavar="N", help="replicas of the bridge (default: as before, 1 after `down`)"
    )
    up.add_argument(
        "--controllers",
        type=_count,
        metavar="N",
        help="replicas of the controller (default: as before, 1 after `down`)",
    )
    up.add_argument("--stream", type=Path, metavar="FILE", help="apply this UpdateStream instead of the sample")
    up.add_argument(
        "--tuned",
        action=argparse.BooleanOptionalAction,
        default={"default": False, "tuned": True}.get(os.environ.get("USERUPDATES_APISERVER", "")),
        help="start kube-apiserver with flags that halve its cost (default), or with its own defaults, as "
        "USERUPDATES_APISERVER=default does",
    )
    up.set_defaults(run=_up)
    for name, run, text in (
        ("down", _down, "stop everything, and keep ports and data"),
        ("clean", _clean, "stop everything and remove ports, data and logs"),
        ("status", _status, "show what runs; the exit code is 1 if a process that should run does not"),
        ("validate", _validate, "apply all CRDs and manifests to an API server that is started only for that"),
    ):
        commands.add_parser(name, help=text, description=text).set_defaults(run=run)
    text = "produce one record to the environment's Kafka"
    send = commands.add_parser("send", help=text, description=text)
    send.add_argument("key", metavar="USER", help="the record's key")
    send.add_argument("value", metavar="VALUE", help=f"the record's value, such as '{EVENT}'")
    send.add_argument("--topic", default=broker.TOPIC, help="the topic (default: %(default)s)")
    send.set_defaults(run=_send)
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or int(text) > MAX_REPLICAS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of replicas from 0 to {MAX_REPLICAS}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
