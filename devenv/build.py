"""Build etcd, kube-apiserver and kubectl from Go modules, and fetch Kafka's jars from Maven Central; both once.

The results are in the user's cache, by version. A lock for each result keeps two checkouts from building it at the same
time. A result is moved into place as a whole, so an interrupted build leaves nothing that looks finished.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from devenv.errors import BuildFailed
from devenv.layout import cache_directory, locked
from devenv.progress import Progress

HERE = Path(__file__).resolve().parent
KUBERNETES = "1.37.2"
KUBERNETES_VERSION = (1, 37)
ETCD_RELEASE = "3.7.0"
KAFKA = "4.4.0"
#: The version of Go that the message about a missing go names.
GO_RELEASE = "1.26.8"


@dataclass(frozen=True, slots=True)
class Good:
    """A binary that is built from a Go module pinned in the `go.mod` of a folder beside this file."""

    name: str
    package: str
    version: str
    folder: str = "controlplane"

    @property
    def path(self) -> Path:
        """Where it is when it is built."""
        return cache_directory() / f"{self.name}-{self.version}" / self.name


ETCD = Good("etcd", "go.etcd.io/etcd/server/v3", ETCD_RELEASE)
APISERVER = Good("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", KUBERNETES)
KUBECTL = Good("kubectl", "k8s.io/kubernetes/cmd/kubectl", KUBERNETES)
SETUP_ENVTEST = Good("setup-envtest", "sigs.k8s.io/controller-runtime/tools/setup-envtest", "0.25.1", "gotools")
ACTIONLINT = Good("actionlint", "github.com/rhysd/actionlint/cmd/actionlint", "1.7.12", "gotools")


def binary(good: Good) -> Path:
    """The binary, built now unless the cache has it. Raises BuildFailed."""
    if good.path.exists():
        return good.path
    folder = good.path.parent
    with locked(folder.with_name(folder.name + ".lock"), what=f"builds {good.name}"):
        if not good.path.exists():
            temporary = folder.with_name(f"{folder.name}.{os.getpid()}")
            try:
                _compile(good, temporary / good.name)
                folder.mkdir(exist_ok=True)
                (temporary / good.name).replace(good.path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return good.path


def kafka_path() -> Path:
    """The folder of Kafka's jars when they are fetched. `kafka-4.4.0` of an older checkout lacks the tools."""
    return cache_directory() / f"kafka-{KAFKA}-tools"


def kafka_jars() -> Path:
    """The folder of Kafka's jars, fetched now unless the cache has them. Raises BuildFailed."""
    folder = kafka_path()
    if folder.exists():
        return folder
    with locked(folder.with_name(folder.name + ".lock"), what="fetches Kafka"):
        if not folder.exists():
            temporary = folder.with_name(f"{folder.name}.{os.getpid()}")
            command = ["mvn", "-B", "-f", str(HERE / "kafka" / "pom.xml"), "dependency:copy-dependencies"]
            command += ["-DincludeScope=runtime", f"-DoutputDirectory={temporary}"]
            try:
                _run(f"Kafka {KAFKA} from Maven Central", command, cwd=HERE, unit="files fetched", total=None)
                temporary.replace(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _compile(good: Good, target: Path) -> None:
    major, minor = good.version.split(".")[:2]
    flags = "-s -w"  # without symbols: a third smaller
    for key, value in (("gitVersion", f"v{good.version}"), ("gitMajor", major), ("gitMinor", minor)):
        flags += f" -X k8s.io/component-base/version.{key}={value}"
    folder = HERE / good.folder
    settings = {"CGO_ENABLED": "0", "GOWORK": "off"}
    package = ["-mod=readonly", "-trimpath", "-buildvcs=false"]
    listing = ["go", "list", "-deps", *package[:1], good.package]
    title = f"{good.name} {good.version} from source"
    total = _run(f"{title}: modules", listing, cwd=folder, unit="modules fetched", total=None, settings=settings)
    command = ["go", "build", "-v", *package, "-ldflags", flags, "-o", str(target), good.package]
    _run(title, command, cwd=folder, unit="packages compiled", total=total, settings=settings)


def _run(
    title: str,
    command: list[str],
    *,
    cwd: Path,
    unit: str,
    total: int | None,
    settings: Mapping[str, str] | None = None,
) -> int:
    """Run a build command with a progress display. Returns the number of lines that it printed."""
    progress = Progress(f"building {title}", unit, total)
    environment = {**os.environ, **(settings or {})}
    log: deque[str] = deque(maxlen=30)
    if shutil.which(command[0]) is None:
        raise BuildFailed(f"{title}: {command[0]} is not installed")
    with subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        out, err = _Lines(process.stdout, log), _Lines(process.stderr, log)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                progress.show(out.fetched + err.count)
        except BaseException:
            process.terminate()
            raise
        out.join()
        err.join()
    if process.returncode != 0:
        said = "\n".join("  " + line for line in log)
        raise BuildFailed(f"{title}: `{' '.join(command)}` failed with {process.returncode}.\n{said}")
    progress.done(out.fetched + err.count)
    return out.count


class _Lines(threading.Thread):
    """Reads a pipe to its end, counts the lines and keeps the last ones."""

    def __init__(self, pipe: IO[str], log: deque[str]) -> None:
        super().__init__(daemon=True)
        self._pipe, self._log = pipe, log
        self.count = 0
        #: Lines that tell of a fetched file (Maven writes them to its standard output).
        self.fetched = 0
        self.start()

    def run(self) -> None:
        for line in self._pipe:
            self.count += 1
            self.fetched += "Downloaded from" in line
            self._log.append(line.rstrip())
