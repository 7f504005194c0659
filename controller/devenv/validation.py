"""Check the CRDs and manifests of the checkout against a real API server that lives just for that."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from controller.devenv import apiserver, kubectl, sources
from controller.devenv.environment import Environment
from controller.devenv.layout import ROOT

_EXAMPLE = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092", "DOWNSTREAM_URL": "http://127.0.0.1:8080"}


def validate() -> list[Path]:
    """Apply every CRD, manifest and sample for real, unknown fields refused; the files. Raises DevenvError.

    Not a dry run: that cannot see what an earlier document of the same file creates, as a namespace.
    """
    with tempfile.TemporaryDirectory(prefix="userupdates-validate-") as directory:
        environment = Environment(Path(directory))
        environment.sources = sources.resolve({**os.environ, "USE_EXISTING_CLUSTER": ""})
        try:
            for name in ("etcd", "apiserver"):
                environment.start(name)
            apiserver.write_kubeconfigs(environment.layout, environment.ports)
            kubectl.install(environment.kubectl)
            checked = list(_manifests())
            for path in checked:
                kubectl.apply(environment.kubectl, path, kubectl.render(path, _EXAMPLE))
        finally:
            for name in ("apiserver", "etcd"):
                environment.processes.kill(name)
    return checked


def _manifests() -> Iterator[Path]:
    """CRDs first; in `deploy/` every file whose documents are all objects of an API server."""
    yield from sorted((ROOT / "crds").glob("*.yaml"))
    for path in sorted((ROOT / "deploy").rglob("*.yaml")):
        documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
        if all("metadata" in document and "kind" in document for document in documents):
            yield path
    yield kubectl.SAMPLE_STREAM
