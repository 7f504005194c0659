"""Finds the binaries: those that the person names, then `KUBEBUILDER_ASSETS` and the PATH, then the cache.

Binaries that the cache lacks are fetched by setup-envtest, or else built from source. Every tool that is missing for
this is named before anything is fetched or built.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from devenv import build, envtest
from devenv.errors import DevenvError, MissingTools, NotFetched
from devenv.versions import version_of

#: The oldest kube-apiserver with everything that the CRDs use (selectable fields are stable since then).
OLDEST_KUBERNETES = (1, 32)
OLDEST_JAVA = 17
OLDEST_GO = (1, 26)
#: Before this one, go cannot fetch the toolchain that go.mod asks for.
OLDEST_GO_THAT_UPDATES_ITSELF = (1, 21)


@dataclass(frozen=True, slots=True)
class Sources:
    """The programs that the environment is made of."""

    kubectl: Path
    #: None with a cluster of the person's own.
    etcd: Path | None = None
    apiserver: Path | None = None
    existing_kubeconfig: Path | None = None
    #: None with a Kafka of the person's own.
    java: Path | None = None
    kafka_jars: Path | None = None
    existing_bootstrap_servers: str | None = None


def existing_kubeconfig(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The kubeconfig of a cluster that the person wants to use instead of an embedded one.

    Raises DevenvError where `USE_EXISTING_CLUSTER=1` is set without a readable `KUBECONFIG`.
    """
    if environment.get("USE_EXISTING_CLUSTER", "").lower() not in ("1", "true"):
        return None
    path = environment.get("KUBECONFIG", "")
    if not path or not Path(path).is_file():
        raise DevenvError(
            f"USE_EXISTING_CLUSTER=1 needs KUBECONFIG to name one readable file, and it is {path!r}. "
            f"Set it, or unset USE_EXISTING_CLUSTER to use an embedded API server."
        )
    return Path(path).absolute()


def existing_bootstrap_servers(environment: Mapping[str, str] = os.environ) -> str | None:
    """The Kafka that the person wants to use instead of an embedded one.

    An environment's own `env` file exports the variable too, next to a copy: while both are equal it is not the
    person's choice, and a `make up` after `. .dev/env` still starts the embedded broker.
    """
    servers = environment.get("KAFKA_BOOTSTRAP_SERVERS") or None
    return None if servers == environment.get("USERUPDATES_EMBEDDED_KAFKA") else servers


def resolve(environment: Mapping[str, str] = os.environ) -> Sources:
    """Find, fetch or build everything.

    Raises MissingTools, BuildFailed, and DevenvError where what the person points to cannot be used.
    """
    kubeconfig = existing_kubeconfig(environment)
    servers = existing_bootstrap_servers(environment)
    etcd = apiserver = None
    if kubeconfig is None:
        etcd, apiserver = _found("etcd", environment), _found("kube-apiserver", environment)
        server = version_of([str(apiserver), "--version"]) if apiserver else build.KUBERNETES_VERSION
    else:
        server = _cluster_version(kubeconfig)
    kubectl = _fitting_kubectl(server, environment)
    own_kafka = servers is None
    goods = [
        *([build.ETCD] if kubeconfig is None and etcd is None else []),
        *([build.KUBECTL] if kubectl is None else []),
        *([build.APISERVER] if kubeconfig is None and apiserver is None else []),
    ]
    made = _make(goods, kafka=own_kafka)
    java = shutil.which("java")
    return Sources(
        kubectl=kubectl or made[build.KUBECTL],
        etcd=etcd or made.get(build.ETCD),
        apiserver=apiserver or made.get(build.APISERVER),
        existing_kubeconfig=kubeconfig,
        java=Path(java) if own_kafka and java else None,
        kafka_jars=build.kafka_jars() if own_kafka else None,
        existing_bootstrap_servers=servers,
    )


def kubectl(environment: Mapping[str, str] = os.environ) -> Path:
    """A kubectl that fits the embedded API server, for what needs no server. Raises MissingTools, BuildFailed."""
    found = _fitting_kubectl(build.KUBERNETES_VERSION, environment)
    return found or _make([build.KUBECTL], kafka=False)[build.KUBECTL]


def _make(goods: list[build.Good], *, kafka: bool) -> dict[build.Good, Path]:
    """Each binary: the built one of the cache, else one that was fetched before, else fetched now, else built now."""
    lacking = [good for good in goods if not good.path.exists()]
    folder = envtest.cached() if lacking else None
    _require_tools(go=bool(lacking) and folder is None, kafka=kafka)
    if lacking and folder is None:
        try:
            folder = envtest.fetch()
        except NotFetched as reason:
            print(
                f"No kube-apiserver to fetch: {reason}. It is built from source, which takes minutes.", file=sys.stderr
            )
    return {good: folder / good.name if folder and good in lacking else build.binary(good) for good in goods}


def _found(name: str, environment: Mapping[str, str]) -> Path | None:
    """A binary of `KUBEBUILDER_ASSETS` or the PATH; None where it has to be built."""
    assets = environment.get("KUBEBUILDER_ASSETS")
    if assets:
        path = Path(assets) / name
        if not os.access(path, os.X_OK):
            raise DevenvError(
                f"KUBEBUILDER_ASSETS={assets} holds no executable {name}. "
                f"Unset it to use the built one, or fill it by `setup-envtest use -p path`."
            )
    else:
        on_path = shutil.which(name, path=environment.get("PATH"))
        if on_path is None:
            return None
        path = Path(on_path)
    if name == "kube-apiserver":
        version = version_of([str(path), "--version"])
        if version is None or version < OLDEST_KUBERNETES:
            said = "says no version" if version is None else "is {}.{}".format(*version)
            wanted = "{}.{}".format(*OLDEST_KUBERNETES)
            if assets:
                raise DevenvError(f"{path} {said}; {wanted} or newer is needed. Unset KUBEBUILDER_ASSETS to build one.")
            print(f"{path} {said}; {wanted} or newer is needed: using the built one", file=sys.stderr)
            return None
    return path.absolute()


def _fitting_kubectl(server: tuple[int, int] | None, environment: Mapping[str, str]) -> Path | None:
    """A kubectl within one minor version of the server, asked by running it: some are dispatchers to an older one."""
    candidates = [Path(environment["KUBEBUILDER_ASSETS"]) / "kubectl"] if environment.get("KUBEBUILDER_ASSETS") else []
    on_path = shutil.which("kubectl", path=environment.get("PATH"))
    candidates += [_behind_link(Path(on_path))] if on_path else []
    for path in candidates:
        version = version_of([str(path), "version", "--client"])
        if version and server and version[0] == server[0] and abs(version[1] - server[1]) <= 1:
            return path.absolute()
    return None


def _behind_link(path: Path) -> Path:
    """The target of an environment's `bin/kubectl`, which is on the PATH after `. .dev/env`."""
    ours = path.is_symlink() and (path.parent.parent / "ports.json").exists()
    return path.readlink() if ours else path


def _cluster_version(kubeconfig: Path) -> tuple[int, int] | None:
    """The version of the person's own cluster, by whatever kubectl there is; None where none can tell."""
    for kubectl in (shutil.which("kubectl"), str(build.KUBECTL.path)):
        command = [kubectl or "", "--kubeconfig", str(kubeconfig), "version", "-o", "json"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
            version = json.loads(done.stdout)["serverVersion"]["gitVersion"]
        except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
            continue
        found = re.match(r"v(\d+)\.(\d+)", version)
        if found:
            return int(found[1]), int(found[2])
    return None


def _require_tools(*, go: bool, kafka: bool) -> None:
    missing = []
    if go:
        missing += _missing_go()
    if kafka:
        java = version_of(["java", "-version"])
        if java is None or java[0] < OLDEST_JAVA:
            missing.append(("java", f"{OLDEST_JAVA} or newer, runs Kafka", _install("java")))
        if shutil.which("mvn") is None and not build.kafka_path().exists():
            missing.append(("mvn", "fetches Kafka's jars", _install("mvn")))
    if missing:
        lines = [f"  {tool:<5} ({why}): {command}" for tool, why, command in missing]
        raise MissingTools("Missing tools; nothing was built. Install them and run this again:\n" + "\n".join(lines))


def _missing_go() -> list[tuple[str, str, str]]:
    why = f"{OLDEST_GO[0]}.{OLDEST_GO[1]} or newer, fetches or builds etcd, kube-apiserver and kubectl"
    go = version_of(["go", "env", "GOVERSION"])
    if go is None or go < OLDEST_GO_THAT_UPDATES_ITSELF:
        return [("go", why, _install("go"))]
    if go < OLDEST_GO:
        told = subprocess.run(["go", "env", "GOTOOLCHAIN"], capture_output=True, text=True).stdout.strip()
        if told == "local":
            return [("go", why + "; GOTOOLCHAIN=local keeps it from updating itself", "go env -w GOTOOLCHAIN=auto")]
    return []


def _install(tool: str) -> str:
    """The command that installs a tool on this system."""
    brew = {"go": "brew install go", "java": "brew install openjdk@17", "mvn": "brew install maven"}
    apt = {"java": "sudo apt-get install -y default-jre-headless", "mvn": "sudo apt-get install -y maven"}
    dnf = {"java": "sudo dnf install -y java-latest-openjdk-headless", "mvn": "sudo dnf install -y maven"}
    if sys.platform == "darwin":
        return brew[tool]
    if tool == "go":
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
        archive = f"https://go.dev/dl/go{build.GO_RELEASE}.linux-{machine}.tar.gz"
        return f"curl -fsSL {archive} | sudo tar -C /usr/local -xz && export PATH=$PATH:/usr/local/go/bin"
    return (dnf if shutil.which("dnf") else apt)[tool]
