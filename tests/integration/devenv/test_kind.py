"""What is needed for a kind cluster is named in one line where it is missing; the cluster itself is for `make e2e`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from devenv.errors import CommandFailed, MissingTools
from devenv.kind import engine
from devenv.kind.choice import choose
from devenv.kind.cluster import KindEnvironment

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """A machine with nothing but a shell, and what this installs: scripts in place of commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("KUBEBUILDER_ASSETS", "USE_EXISTING_CLUSTER", "KAFKA_BOOTSTRAP_SERVERS", "KIND_NODE_IMAGE"):
        monkeypatch.delenv(name, raising=False)

    def script(name: str, body: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    return script


def e2e(directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "USERUPDATES_DEV_DIR": str(directory)}
    command = [sys.executable, "-m", "devenv.kind", "e2e"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("docker", "says"),
    [
        (None, "error: no container engine: docker is not installed, and kind needs it"),
        (
            "echo 'Cannot connect to the daemon' >&2; exit 1",
            "error: no container engine answers: Cannot connect to the daemon",
        ),
        ("echo 27.0", "error: kind is not installed: go install sigs.k8s.io/kind@latest, or see its site"),
    ],
    ids=["no docker", "no daemon", "no kind"],
)
def test_what_is_missing_is_said_in_one_line(install: Install, tmp_path: Path, docker: str | None, says: str) -> None:
    if docker:
        install("docker", docker)
    done = e2e(tmp_path / "dev")
    assert (done.returncode, done.stderr.splitlines(), done.stdout) == (1, [says], "")


def test_an_image_that_is_nowhere_is_named(install: Install) -> None:
    install("docker", "echo 'pull access denied' >&2; exit 1")
    with pytest.raises(
        CommandFailed, match=r"no image apache/kafka:9 here, and it cannot be pulled: pull access denied"
    ):
        engine.pull("apache/kafka:9")


def test_a_node_image_that_is_here_is_used(install: Install) -> None:
    install("docker", "echo kindest/node:v9-local")
    install("kind", "")
    assert engine.Images.resolve({}).node == "kindest/node:v9-local"
    assert engine.Images.resolve({"KIND_NODE_IMAGE": "other"}).node == "other"
    install("docker", "")
    assert engine.Images.resolve({}).node is None, "kind takes its own"


def test_without_go_and_java_a_machine_with_docker_gets_pods(install: Install, tmp_path: Path) -> None:
    with pytest.raises(MissingTools, match="Or install Docker and kind"):
        choose(tmp_path, "some-cluster", progress=print)
    install("docker", "echo 27.0")
    install("kind", "")
    install("kubectl", "echo v1.20.0")
    chosen = choose(tmp_path, "some-cluster", progress=print)
    assert isinstance(chosen, KindEnvironment)
    assert chosen.kubectl.binary == Path(os.environ["PATH"]) / "kubectl", "whatever its version is"
