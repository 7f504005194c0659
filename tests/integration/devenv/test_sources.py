"""Where binaries come from: what is pointed to first, nothing too old, and everything that is missing named at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from devenv import sources
from devenv.environment import Environment
from devenv.errors import DevenvError, MissingTools


def tool(folder: Path, name: str, says: str) -> Path:
    """An executable that prints a version, as an old or dispatching binary on somebody's PATH does."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine with an empty cache and nothing on its PATH but a shell."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    for name, value in {"PATH": str(folder), "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    for name in ("KUBEBUILDER_ASSETS", "USE_EXISTING_CLUSTER", "KAFKA_BOOTSTRAP_SERVERS"):
        monkeypatch.delenv(name, raising=False)
    return {"PATH": str(folder)}


def test_all_missing_tools_are_named_with_what_installs_them(bare: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(MissingTools) as missing:
        sources.resolve(bare)
    lines = [line.split() for line in str(missing.value).splitlines()[1:]]
    assert [line[0] for line in lines] == ["go", "java", "mvn"]
    assert all("install" in line or "tar" in line for line in lines)
    assert not (tmp_path / "cache").exists()


def test_missing_tools_end_the_command_with_an_error(bare: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "devenv", "up"],
        env={**os.environ, "USERUPDATES_DEV_DIR": str(tmp_path / "dev")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: Missing tools; nothing was built.")
    assert "Traceback" not in done.stderr


def test_kafka_of_the_person_needs_no_java(bare: dict[str, str]) -> None:
    with pytest.raises(MissingTools) as missing:
        sources.resolve({**bare, "KAFKA_BOOTSTRAP_SERVERS": "broker:9092"})
    assert "java" not in str(missing.value)


def test_old_java_counts_as_missing(bare: dict[str, str]) -> None:
    tool(Path(bare["PATH"]), "java", 'openjdk version "11.0.2"')
    with pytest.raises(MissingTools, match=r"java +\(17 or newer"):
        sources.resolve(bare)


def test_exported_address_of_the_embedded_broker_is_no_choice() -> None:
    assert sources.existing_bootstrap_servers({"KAFKA_BOOTSTRAP_SERVERS": "a:1"}) == "a:1"
    exported = {"KAFKA_BOOTSTRAP_SERVERS": "a:1", "USERUPDATES_EMBEDDED_KAFKA": "a:1"}
    assert sources.existing_bootstrap_servers(exported) is None


def test_existing_cluster_without_kubeconfig_is_refused() -> None:
    with pytest.raises(DevenvError, match="KUBECONFIG"):
        sources.resolve({**os.environ, "USE_EXISTING_CLUSTER": "1", "KUBECONFIG": "/nowhere"})


def test_assets_come_before_the_path(environment: Environment, tmp_path: Path) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    made = environment.sources
    for name, path in (("etcd", made.etcd), ("kube-apiserver", made.apiserver), ("kubectl", made.kubectl)):
        assert path is not None
        (assets / name).symlink_to(path)
    found = sources.resolve({**os.environ, "KUBEBUILDER_ASSETS": str(assets)})
    assert [found.etcd, found.apiserver, found.kubectl] == [
        assets / name for name in ("etcd", "kube-apiserver", "kubectl")
    ]


def test_incomplete_or_old_assets_are_refused(environment: Environment, tmp_path: Path) -> None:
    with pytest.raises(DevenvError, match="holds no executable etcd"):
        sources.resolve({**os.environ, "KUBEBUILDER_ASSETS": str(tmp_path)})
    tool(tmp_path / "assets", "etcd", "etcd Version: 3.5.0")
    tool(tmp_path / "assets", "kube-apiserver", "Kubernetes v1.31.4")
    with pytest.raises(DevenvError, match=r"is 1\.31; 1\.32 or newer is needed"):
        sources.resolve({**os.environ, "KUBEBUILDER_ASSETS": str(tmp_path / "assets")})


@pytest.mark.parametrize("says", ["Client Version: v1.32.4-dispatcher", "Kubernetes v1.31.4", "command not found"])
def test_unfit_binaries_on_the_path_are_passed_by(environment: Environment, tmp_path: Path, says: str) -> None:
    for name in ("kubectl", "kube-apiserver"):
        tool(tmp_path / "bin", name, says)
    if "dispatcher" in says:
        (tmp_path / "bin" / "kube-apiserver").unlink()
    found = sources.resolve({**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    assert found.apiserver == environment.sources.apiserver
    assert found.kubectl == environment.sources.kubectl


def test_kubectl_of_a_sourced_environment_does_not_link_to_itself(environment: Environment) -> None:
    found = sources.resolve({**os.environ, "PATH": f"{environment.layout.bin}:{os.environ['PATH']}"})
    assert found.kubectl == environment.sources.kubectl
    assert not found.kubectl.is_relative_to(environment.layout.directory)
