"""Where Tilt is installed: the Tiltfile brings everything up in the cluster, and changed sources get into the pods."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from devenv.errors import CommandFailed
from devenv.kind.cluster import KindEnvironment
from devenv.layout import ROOT
from tests.support.eventually import eventually

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("tilt") is None, reason="Tilt is not installed, see https://docs.tilt.dev/install"),
]

#: What the Tiltfile names.
SOURCES = (
    "Tiltfile",
    "Dockerfile",
    "pyproject.toml",
    "uv.lock",
    "README.md",
    "LICENSE",
    "controller",
    "devenv",
    "crds",
    "deploy",
)
#: Seconds from a saved file to the process that runs it.
LIVE_SECONDS = 10


@pytest.fixture(scope="module")
def checkout(environment: KindEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy that may be changed. Tilt begins with nothing; what the other tests use is put back at the end."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    tilt(environment, folder, "down")
    yield folder
    tilt(environment, folder, "down")
    environment.install()


def test_tilt_ci_brings_everything_up(environment: KindEnvironment, checkout: Path) -> None:
    began = time.monotonic()
    tilt(environment, checkout, "ci", "--port=0", "--timeout=10m")
    print(f"tilt ci: {time.monotonic() - began:.1f} s")
    assert ready(environment, "bridge") and ready(environment, "controller")


def test_a_changed_source_runs_in_the_pods_in_under_ten_seconds(environment: KindEnvironment, checkout: Path) -> None:
    mark = f"changed-{uuid.uuid4().hex[:8]}"
    with tilt_up(environment, checkout):
        resources = [f"uiresource/{name}" for name in ("bridge", "controller")]
        port = f"--port={environment.ports.get('tilt')}"
        eventually(lambda: tilt(environment, checkout, "get", port, *resources), 60, every=1)
        tilt(environment, checkout, "wait", port, "--for=condition=Ready", "--timeout=300s", *resources)
        main = checkout / "controller" / "__main__.py"
        main.write_text(f'print("{mark}", flush=True)\n{main.read_text()}')
        began = time.monotonic()
        for workload in ("statefulset/bridge", "deployment/controller"):
            eventually(partial(says, environment, workload, mark), 60, every=0.2)
            print(f"{workload} runs a changed source after {time.monotonic() - began:.1f} s")
        assert time.monotonic() - began < LIVE_SECONDS


def ready(environment: KindEnvironment, role: str) -> bool:
    return environment.processes.all_ready(role)


def says(environment: KindEnvironment, workload: str, mark: str) -> bool:
    try:
        return mark in environment.kubectl("-n", "enrichment-system", "logs", workload, "--tail=200")
    except CommandFailed:  # between two pods
        return False


def tilt(environment: KindEnvironment, checkout: Path, *command: str) -> bool:
    done = subprocess.run(["tilt", *command], cwd=checkout, env=variables(environment), capture_output=True, text=True)
    said = "\n".join((done.stdout + done.stderr).splitlines()[-60:])
    assert done.returncode == 0, said
    return True


@contextmanager
def tilt_up(environment: KindEnvironment, checkout: Path) -> Iterator[None]:
    command = ["tilt", "up", "--stream", f"--port={environment.ports.get('tilt')}"]
    with (checkout / "tilt.log").open("w") as file:
        process = subprocess.Popen(command, cwd=checkout, env=variables(environment), stdout=file, stderr=file)
    try:
        yield
    except BaseException:
        print((checkout / "tilt.log").read_text()[-8000:])
        raise
    finally:
        process.terminate()
        process.wait(30)


def variables(environment: KindEnvironment) -> dict[str, str]:
    path = f"{environment.binary.parent}:{os.environ['PATH']}"  # the Tiltfile calls kubectl
    return {**os.environ, "PATH": path, "KUBECONFIG": str(environment.kubeconfig), "DO_NOT_TRACK": "1"}
