"""kubectl with the administrator's rights, and the manifests that an environment starts with."""

from __future__ import annotations

import json
import string
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from controller.api import names
from devenv.errors import CommandFailed
from devenv.layout import ROOT

CRDS = ROOT / "crds"
BASE = ROOT / "deploy" / "base"
#: The bridge's and the controller's accounts with their rights; no Deployment, as they run as processes here.
RBAC = BASE / "rbac.yaml"
#: Admission policies, for rules that roles cannot express.
POLICIES = BASE / "admission.yaml"
SAMPLE_STREAM = ROOT / "deploy" / "sample" / "stream.yaml"


@dataclass(frozen=True, slots=True)
class Kubectl:
    """A kubectl bound to one kubeconfig."""

    binary: Path
    kubeconfig: Path

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        """Run it and return its standard output. Raises CommandFailed with what it said."""
        command = [str(self.binary), "--kubeconfig", str(self.kubeconfig), *arguments]
        try:
            done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout)
        except OSError as failed:
            raise CommandFailed(f"{self.binary} cannot be run: {failed.strerror}") from failed
        except subprocess.TimeoutExpired as late:
            raise CommandFailed(f"kubectl {' '.join(arguments)} took over {timeout:.0f} s") from late
        if done.returncode != 0:
            raise CommandFailed(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """The JSON that `kubectl ... -o json` prints."""
        return json.loads(self(*arguments, "-o", "json"))


def install(kubectl: Kubectl) -> None:
    """Apply the CRDs and the accounts; returns when the API server serves the kinds."""
    files = [part for path in (CRDS, BASE / "namespace.yaml", RBAC) for part in ("-f", str(path))]
    kubectl("apply", "--server-side", "--force-conflicts", *files)
    kubectl("wait", "--for=condition=Established", "-f", str(CRDS), "--timeout=30s")
    for path in sorted(CRDS.glob("*.yaml")):
        # Established, a kind still answers 429 until its watch cache is filled; kubectl repeats those.
        kubectl("get", "--raw", f"/apis/{names.GROUP}/{names.VERSION}/{path.stem}?limit=1")


def install_policies(kubectl: Kubectl) -> None:
    """Apply the admission policies; they act some seconds later, when the API server has compiled them."""
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(POLICIES))


def render(path: Path, values: Mapping[str, str]) -> str:
    """A manifest with `${NAME}` replaced. Raises CommandFailed naming file and line where it is not YAML."""
    try:
        text = string.Template(path.read_text(encoding="utf-8")).safe_substitute(values)
        found = [document for document in yaml.safe_load_all(text) if document is not None]
    except OSError as unreadable:
        raise CommandFailed(f"{path} cannot be read: {unreadable.strerror}") from unreadable
    except UnicodeDecodeError as binary:
        raise CommandFailed(f"{path} is not UTF-8 text: {binary}") from binary
    except yaml.MarkedYAMLError as broken:
        mark = broken.problem_mark
        line = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise CommandFailed(f"{line}: this is not YAML: {broken.problem}") from broken
    except yaml.YAMLError as broken:
        raise CommandFailed(f"{path}: this is not YAML: {broken}") from broken
    if not found or not all(isinstance(document, dict) and "kind" in document for document in found):
        raise CommandFailed(f"{path}: each document in it must be a Kubernetes object with apiVersion and kind")
    return text


def render_stream(path: Path, values: Mapping[str, str]) -> str:
    """The same of a manifest with at least one UpdateStream; what else is in it, such as its Secret, comes with it."""
    text = render(path, values)
    kinds = [str(document["kind"]) for document in yaml.safe_load_all(text) if document is not None]
    if "UpdateStream" not in kinds:
        raise CommandFailed(f"{path} holds no UpdateStream, but {', '.join(kinds)}")
    return text


def topic(path: Path) -> str | None:
    """The topic of the first UpdateStream in a manifest that was applied; None where a pipe gives nothing more."""
    found = [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document is not None]
    return next((doc["spec"]["kafka"]["topic"] for doc in found if doc["kind"] == "UpdateStream"), None)


def apply(kubectl: Kubectl, path: Path, text: str, *options: str) -> str:
    """Apply a rendered manifest, unknown fields refused; what kubectl said. Raises CommandFailed naming the file."""
    arguments = ("apply", "--validate=strict", *options, "-f", "-")
    try:
        return kubectl(*arguments, stdin=text).strip()
    except CommandFailed as refused:
        message = str(refused).removeprefix(f"kubectl {' '.join(arguments)}: ")
        raise CommandFailed(f"{path} was refused by the API server:\n  " + message.replace("\n", "\n  ")) from refused
