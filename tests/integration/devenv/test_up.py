"""`python -m devenv` as a developer uses it: an environment of its own, a real bridge and controller."""

from __future__ import annotations

import json
import os
import signal
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from devenv import broker, lifecycle
from devenv.__main__ import EVENT
from devenv.environment import INFRASTRUCTURE, Environment
from devenv.errors import CommandFailed
from tests.support.eventually import eventually
from tests.support.manifests import UPDATE
from tests.support.transcripts import PAGES, README, blocks

STREAM = """\
apiVersion: enrichment.dev/v1alpha1
kind: UpdateStream
metadata: {name: other}
spec:
  kafka: {bootstrapServers: "${KAFKA_BOOTSTRAP_SERVERS}", topic: other}
  steps:
    profile: {url: "${DOWNSTREAM_URL}/profile"}
    permissions: {url: "${DOWNSTREAM_URL}/permissions"}
    resources: {url: "${DOWNSTREAM_URL}/resources"}
"""


class Checkout:
    """The command line, and the environment that it works on."""

    def __init__(self, directory: Path) -> None:
        self.environment = Environment(directory)
        # As a developer's shell has them: what `make test` tells a make below it changes what that prints.
        inherited = {
            name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")
        }
        self.variables = {**inherited, "USERUPDATES_DEV_DIR": str(directory)}

    def spawn(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "devenv", *arguments]
        return subprocess.Popen(command, env=self.variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        with self.spawn(*arguments) as process:
            out, err = process.communicate(timeout=120)
            return process.returncode, out, err

    def up(self, *arguments: str) -> str:
        code, out, err = self.run("up", *arguments)
        assert code == 0, out + err
        return out

    def pids(self) -> dict[str, int]:
        processes = self.environment.processes
        return {name: found.pid for name in processes.names() if (found := processes.find(name)) is not None}

    def shell(self, command: str) -> str:
        """What a command prints in a shell that has sourced the environment's `env`."""
        script = f". {self.environment.layout.env} && {command}"
        shell = ["sh", "-e", "-c", script]
        return subprocess.run(
            shell, check=True, capture_output=True, text=True, env=self.variables, cwd=README.parent
        ).stdout


def typed(start: str) -> list[str]:
    """The commands of the README's block that begins with this one."""
    block = next(each for each in blocks("console", README.read_text()) if each.startswith(f"$ {start}"))
    return [line.removeprefix("$ ") for line in block.splitlines()]


#: The UpdateStreams that pages show, with the page.
STREAMS = [
    pytest.param(block, id=f"{page.stem}, {number}")
    for page in PAGES
    for number, block in enumerate(blocks("yaml", page.read_text()), 1)
    if "kind: UpdateStream" in block
]


def within(given: Any, stored: Any) -> bool:
    """Whether everything that is given is stored; the rest are defaults."""
    if isinstance(given, dict):
        return all(key in stored and within(value, stored[key]) for key, value in given.items())
    return bool(given == stored)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    checkout = Checkout(tmp_path_factory.mktemp("checkout") / "dev")
    try:
        yield checkout
    finally:
        lifecycle.clean(checkout.environment)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts its background jobs with SIGINT ignored, and what they start inherits that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_interrupted_up_is_finished_by_the_next(checkout: Checkout) -> None:
    with checkout.spawn("up") as first:
        eventually(lambda: "apiserver" in checkout.pids(), within=60)
        first.send_signal(signal.SIGINT)
        _, err = first.communicate(timeout=30)
    assert first.returncode == 130
    assert "Traceback" not in err
    checkout.up()
    assert set(checkout.pids()) == {*INFRASTRUCTURE, "bridge", "controller"}


def test_up_twice_at_once_starts_everything_once(checkout: Checkout) -> None:
    with checkout.spawn("up") as first, checkout.spawn("up") as second:
        assert [process.communicate(timeout=120) and process.returncode for process in (first, second)] == [0, 0]
    before = checkout.pids()
    assert "started" not in checkout.up()
    assert checkout.pids() == before
    assert checkout.run("status")[0] == 0


def test_everything_killed_comes_back_on_the_same_ports_and_data(checkout: Checkout) -> None:
    checkout.up("--bridges", "2")
    ports, pids = checkout.environment.ports.known(), checkout.pids()
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not checkout.pids())
    assert checkout.run("status")[0] == 1
    checkout.up()
    assert set(checkout.pids()) == set(pids)
    assert not set(checkout.pids().values()) & set(pids.values())
    assert ports.items() <= checkout.environment.ports.known().items()


def test_surplus_replicas_are_stopped(checkout: Checkout) -> None:
    checkout.up("--bridges", "2")
    before = checkout.pids()
    checkout.up("--bridges", "1")
    assert before.keys() - checkout.pids().keys() == {"bridge-2"}
    assert checkout.pids().items() <= before.items()


def test_sourced_env_has_all_that_a_shell_needs(checkout: Checkout) -> None:
    checkout.up()
    assert "user-updates" in checkout.shell("kubectl get us")
    assert checkout.shell("kubectl auth can-i '*' '*'").strip() == "yes"
    assert checkout.shell("kubectl config view --minify -o jsonpath='{..namespace}'") == "default"
    exported = json.loads(checkout.shell(f"{sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"))
    for name in ("DOWNSTREAM_URL", "METRICS_BRIDGE_URL", "METRICS_CONTROLLER_URL"):
        assert exported[name].startswith("http://127.0.0.1:")
    assert exported["KAFKA_BOOTSTRAP_SERVERS"] == checkout.environment.bootstrap_servers


def test_the_readmes_first_event_takes_its_commands_as_typed(checkout: Checkout) -> None:
    """An event, one that the downstream keeps waiting, and the end of both, in one shell."""
    checkout.up()
    commands = typed("make up")
    assert commands[:2] == ["make up", ". .dev/env"]
    said = checkout.shell("\n".join(commands[2:]))
    assert "sent to user-updates, partition 0, offset 1" in said
    assert said.count("condition met") == 2


def test_the_readmes_own_topic_takes_its_commands_as_typed(checkout: Checkout, tmp_path: Path) -> None:
    checkout.up()
    path = tmp_path / "stream.yaml"
    (manifest,) = blocks("yaml", README.read_text())
    path.write_text(manifest)
    said = checkout.shell("\n".join(typed("kafka-topics.sh")).replace("stream.yaml", str(path)))
    assert "accounts: ready" in said
    assert "sent to accounts, partition" in said
    kubectl = checkout.environment.kubectl
    kubectl("wait", "--for=condition=Succeeded", "uu", "-l", "enrichment.dev/user=ana", "--timeout=30s")
    kubectl("delete", "us", "accounts")


def test_make_send_says_how_it_is_used(checkout: Checkout) -> None:
    """A user of the shell's own, as a login shell has it, is not taken for the record's."""
    done = subprocess.run(
        ["make", "send", "VALUE={}"],
        capture_output=True,
        text=True,
        env={**checkout.variables, "USER": "root"},
        cwd=README.parent,
    )
    assert done.returncode == 2
    assert done.stdout.startswith("usage: make send USER=userid1 VALUE=")


def test_what_is_sent_where_no_kafka_runs_is_refused_readably(tmp_path: Path) -> None:
    code, _, err = Checkout(tmp_path / "dev").run("send", "userid1", "{}")
    assert (code, err) == (
        1,
        "error: Kafka does not run here; `make up` starts it, and `. .dev/env` says where it is\n",
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(("", EVENT), "a RejectedEvent (NoKey: ", id="no user"),
        pytest.param(("ana", "{profile: dev}"), "a RejectedEvent (NotJSON: ", id="no JSON"),
        pytest.param(("ana", EVENT, "--topic", "acounts"), "no UpdateStream reads the topic acounts", id="topic"),
    ],
)
def test_a_record_that_becomes_no_update_is_sent_with_a_note(
    checkout: Checkout, arguments: tuple[str, ...], said: str
) -> None:
    checkout.up()
    code, out, err = checkout.run("send", *arguments)
    assert (code, out[:8]) == (0, "sent to ")
    assert err.startswith("note: ")
    assert said in err


@pytest.mark.parametrize("manifest", STREAMS)
def test_the_streams_of_the_pages_are_applied_as_they_stand(checkout: Checkout, tmp_path: Path, manifest: str) -> None:
    checkout.up()
    environment = checkout.environment
    given = yaml.safe_load(string.Template(manifest).substitute(environment.variables()))
    name, spec = given["metadata"]["name"], given["spec"]
    broker.create_topic(environment.bootstrap_servers, spec["kafka"]["topic"])
    path = tmp_path / "stream.yaml"
    path.write_text(manifest)
    assert f"{name}: ready" in checkout.up("--stream", str(path))
    assert within(spec, environment.kubectl.json("get", "us", name)["spec"])
    if name != "user-updates":
        environment.kubectl("delete", "us", name)


def test_policies_are_in_force_as_in_a_cluster(checkout: Checkout) -> None:
    checkout.up()
    kubectl = checkout.environment.kubectl
    kubectl("create", "-f", "-", stdin=UPDATE)

    def said() -> str:
        try:
            return kubectl("annotate", "uu", "by-hand", "--dry-run=server", "enrichment.dev/request=retyr")
        except CommandFailed as refused:
            return str(refused)

    eventually(lambda: "'retyr' is not a request" in said(), 60)


def test_sample_stays_as_the_person_made_it(checkout: Checkout) -> None:
    checkout.up()
    kubectl = checkout.environment.kubectl
    kubectl("patch", "us", "user-updates", "--type=merge", "-p", '{"spec": {"limits": {"maxObjects": 7}}}')
    checkout.up()
    assert kubectl.json("get", "us", "user-updates")["spec"]["limits"]["maxObjects"] == 7
    kubectl("delete", "us", "user-updates")
    checkout.up()
    assert kubectl("get", "us", "-o", "name") == ""


def test_down_and_up_keep_what_was_there(checkout: Checkout) -> None:
    checkout.up()
    checkout.environment.kubectl("create", "configmap", "kept")
    ports = checkout.environment.ports.known()
    assert checkout.run("down")[0] == 0
    assert checkout.pids() == {}
    assert checkout.run("down")[1] == "nothing was running\n"
    checkout.up()
    assert checkout.environment.kubectl("get", "configmap", "kept", "-o", "name").strip() == "configmap/kept"
    assert checkout.environment.ports.known() == ports


def test_own_stream_gets_the_addresses_of_this_environment(checkout: Checkout, tmp_path: Path) -> None:
    path = tmp_path / "stream.yaml"
    path.write_text(STREAM)
    assert "make send TOPIC=other USER=" in checkout.up("--stream", str(path))
    spec = checkout.environment.kubectl.json("get", "us", "other")["spec"]
    assert spec["kafka"]["bootstrapServers"] == checkout.environment.bootstrap_servers
    assert spec["steps"]["profile"]["url"] == f"{checkout.environment.downstream_url}/profile"
    checkout.environment.kubectl("delete", "us", "other")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("kind: UpdateStream\nspec: {a: [}\n", "stream.yaml:2:12: this is not YAML", id="broken"),
        pytest.param("kind: ConfigMap\nmetadata: {name: a}\n", "holds no UpdateStream, but ConfigMap", id="other kind"),
        pytest.param("just a word", "each document in it must be a Kubernetes object", id="no object"),
        pytest.param(STREAM.replace("topic: other", "topic: [1]"), "spec.kafka.topic", id="wrong type"),
        pytest.param(STREAM.replace("  steps:", "  spets: 1\n  steps:"), 'unknown field "spec.spets"', id="misspelt"),
    ],
)
def test_stream_that_is_no_stream_is_refused_readably(checkout: Checkout, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "stream.yaml"
    path.write_text(text)
    code, _, err = checkout.run("up", "--stream", str(path))
    assert code == 1
    assert said in err
    assert str(path) in err
    assert "Traceback" not in err


def test_clean_leaves_nothing_running_and_no_data(checkout: Checkout) -> None:
    checkout.up()
    assert checkout.run("clean")[0] == 0
    assert checkout.pids() == {}
    assert sorted(path.name for path in checkout.environment.layout.directory.iterdir()) == ["lock"]
