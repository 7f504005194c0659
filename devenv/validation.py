"""Check the CRDs and manifests of the checkout against a real API server that lives just for that."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

import yaml

from devenv import apiserver, kubectl, manifests, sources
from devenv.environment import Environment
from devenv.errors import DevenvError
from devenv.layout import ROOT

_EXAMPLE = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092", "DOWNSTREAM_URL": "http://127.0.0.1:8080"}


def validate() -> list[Path]:
    """Apply every CRD, overlay and sample, and refuse unknown fields and warnings. Returns the files.

    A dry run would not do: it does not see what an earlier document of the same file creates, such as a namespace.
    Raises DevenvError, also where `install.yaml` differs from what the production overlay renders.
    """
    if manifests.INSTALL.read_text(encoding="utf-8") != manifests.install():
        raise DevenvError(f"{manifests.INSTALL} is not current: run `make manifests`")
    with tempfile.TemporaryDirectory(prefix="userupdates-validate-") as directory:
        environment = Environment(Path(directory))
        environment.sources = sources.resolve({**os.environ, "USE_EXISTING_CLUSTER": ""})
        try:
            for name in ("etcd", "apiserver"):
                environment.start(name)
            apiserver.write_kubeconfigs(environment.layout, environment.ports)
            kubectl.install(environment.kubectl)
            for path, text in _manifests():
                for namespace in _of_others(text):
                    manifest = f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n"
                    kubectl.apply(environment.kubectl, path, manifest)
                kubectl.apply(environment.kubectl, path, text, "--warnings-as-errors")
        finally:
            for name in ("apiserver", "etcd"):
                environment.processes.kill(name)
    return [path for path, _ in _manifests()]


def _of_others(text: str) -> set[str]:
    """The namespaces in which a manifest puts objects without creating them: those of people's streams."""
    found = [document for document in yaml.safe_load_all(text) if document]
    made = {document["metadata"]["name"] for document in found if document["kind"] == "Namespace"}
    return {document["metadata"].get("namespace", "default") for document in found} - made - {"default"}


@cache
def _manifests() -> list[tuple[Path, str]]:
    """Each file or overlay, with the documents to apply; CRDs first."""
    crds = [(path, path.read_text(encoding="utf-8")) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    overlays = [(path, manifests.kustomize(path)) for path in manifests.overlays()]
    return [*crds, *overlays, (kubectl.SAMPLE_STREAM, kubectl.render(kubectl.SAMPLE_STREAM, _EXAMPLE))]
