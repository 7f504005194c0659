"""The downstream that docs/downstream.md shows, run as it is printed there, with the real controller."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from socket import create_connection, create_server

import pytest

from controller.api import timestamps
from devenv.layout import ROOT
from tests.conftest import StartReplica
from tests.support.controller_stream import ControllerStream
from tests.support.eventually import eventually
from tests.support.manifests import STREAM, Applier
from tests.support.replicas import Replica

pytestmark = pytest.mark.timeout(120)

PAGE = (ROOT / "docs" / "downstream.md").read_text()
(PROGRAM,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
#: The port that the page's commands name.
PORT = "8090"
STEPS = ["/profile", "/permissions", "/resources"]


@dataclass(frozen=True, slots=True)
class Documented:
    """The program of the page while it runs."""

    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def done(self) -> list[str]:
        """The steps that it has done, as it prints them."""
        return [line.split()[0] for line in self.log.read_text().splitlines() if line.startswith("/")]

    def calls(self, step: str) -> int:
        """Requests for a step that it has answered, as Python's server logs them."""
        return self.log.read_text().count(f'"POST {step} HTTP/1.1"')

    def serves(self, stream: ControllerStream) -> None:
        """Apply the stream with this downstream."""
        stream.apply(**{step.removeprefix("/"): {"url": f"{self.url}{step}"} for step in STEPS})


@pytest.fixture
def documented(tmp_path: Path) -> Iterator[Documented]:
    """Started, and killed at the end."""
    program, log = tmp_path / "downstream.py", tmp_path / "downstream.log"
    program.write_text(PROGRAM)
    with closing(create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, program, str(port)], stdout=file, stderr=file)
    try:
        eventually(lambda: listening(port), 20)
        yield Documented(port, log)
    finally:
        process.kill()
        process.wait()


def listening(port: int) -> bool:
    try:
        create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_updates_are_applied(stream: ControllerStream, start_controller: StartReplica, documented: Documented) -> None:
    documented.serves(stream)
    start_controller()
    status = stream.until(stream.add("ana", 1), "Succeeded")
    assert [step["result"] for step in status["steps"]] == [{"userId": "u-ana"}, {"roleId": "r-1"}, {}]
    assert documented.done == STEPS
    first = '/profile {"user": "ana", "profile": "dev"}'
    assert documented.log.read_text().splitlines()[0] == first


def test_a_repeated_call_is_done_once(
    stream: ControllerStream, start_controller: StartReplica, documented: Documented
) -> None:
    """The controller is killed when the downstream has answered and nothing is recorded yet."""
    documented.serves(stream)
    controller: Replica = start_controller("controller-documented", wait=False)
    controller.kill()
    name = stream.add("ana", 1)
    controller.start_with_failpoint("controller.answered")
    eventually(lambda: not controller.running, 30)
    assert documented.done == STEPS[:1]
    controller.start()
    stream.until(name, "Succeeded")
    assert documented.calls("/profile") == 2
    assert documented.done == STEPS


def test_a_busy_answer_keeps_its_user_waiting_and_nobody_else(
    stream: ControllerStream, start_controller: StartReplica, documented: Documented
) -> None:
    documented.serves(stream)
    start_controller()
    busy = stream.add("ana", 1, profile="not-ready")
    eventually(lambda: stream.reason(busy) == "DownstreamBusy", 20)
    stream.until(stream.add("bo", 1), "Succeeded")
    status = stream.status(busy)
    delay = timestamps.from_text(status["nextAttemptTime"]) - timestamps.from_text(status["startTime"])
    assert 5 <= delay.total_seconds() < 10, "Retry-After says 5"
    assert not status.get("attempts")


def test_the_commands_of_the_page(
    api: Applier, start_controller: StartReplica, documented: Documented, tmp_path: Path
) -> None:
    (update,) = re.findall(r"^```yaml\n(apiVersion: .*?kind: UserUpdate\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "by-hand-1.yaml").write_text(update)
    start_controller()
    api.apply(STREAM)
    commands = [line[2:] for line in PAGE.splitlines() if line.startswith("$ kubectl") and "create secret" not in line]
    assert [shlex.split(command)[1] for command in commands] == ["patch", "apply", "wait"]
    for command in commands:
        said = command.replace(PORT, str(documented.port)).replace("by-hand-1.yaml", str(tmp_path / "by-hand-1.yaml"))
        api(*shlex.split(said)[1:])
    assert documented.done == STEPS
