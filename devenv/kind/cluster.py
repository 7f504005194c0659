"""The environment in a kind cluster, with the interface of `environment.Environment`."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from controller.api import names
from devenv import broker, manifests, sources
from devenv.environment import Addresses, Environment
from devenv.errors import CommandFailed, MissingTools, StartFailed
from devenv.kind import engine
from devenv.kind.pods import NAMESPACE, WORKLOADS, Pods
from devenv.kubectl import CRDS, SAMPLE_STREAM, Kubectl, apply, render_stream
from devenv.layout import HOST, write_atomically
from devenv.processes import Command

#: Names the directory of a cluster that tests are to use.
KIND = "USERUPDATES_KIND"
SAMPLE_NAMESPACE = "enrichment-sample"
#: Where pods reach Kafka and the downstream of the sample overlay.
INSIDE = Addresses(f"broker.{SAMPLE_NAMESPACE}.svc:9092", f"http://downstream.{SAMPLE_NAMESPACE}.svc:8080")
ROLLOUTS = {
    SAMPLE_NAMESPACE: ("statefulset/broker", "deployment/downstream"),
    NAMESPACE: tuple(WORKLOADS.values()),
}


class KindEnvironment(Environment):
    """Its processes are pods (`pods.Pods`). Kafka and the downstream are reached by ports of this machine."""

    def __init__(self, cluster: str, directory: Path, *, progress: Callable[[str], None] = lambda line: None) -> None:
        super().__init__(directory, progress=progress)
        self.cluster = cluster
        self.processes: Pods = Pods(self.layout, cluster, lambda: self.kubectl)

    @classmethod
    def attach(cls, directory: Path) -> KindEnvironment:
        """The environment that was started in that directory, which has the cluster's name."""
        return cls(directory.name, directory)

    @cached_property
    def binary(self) -> Path:
        """A kubectl near the cluster's version; where none can be built, the one that is here."""
        try:
            return sources.kubectl()
        except MissingTools:
            found = shutil.which("kubectl")
            if found is None:
                raise
            return Path(found)

    @property
    def kubectl(self) -> Kubectl:
        return Kubectl(self.binary, self.kubeconfig)

    @property
    def bootstrap_servers(self) -> str:
        return f"{HOST}:{self.ports.get('kafka')}"

    @property
    def inside(self) -> Addresses:
        return INSIDE

    def replica(self, role: str, name: str, *options: str) -> Command:
        """The command of a replica. Options do not apply to pods, whose command lines are those of the manifests."""
        return Command(name=role, argv=(), probe=lambda: None, ready_within=90.0)

    def command(self, name: str) -> Command:
        return self.replica(name.partition("-")[0], name)

    def running(self, name: str) -> bool:
        return bool(self.processes.pods(name))

    # As a whole

    def up(self) -> None:
        """Start the cluster with images and manifests, and wait until all is ready. Keeps what is there already.

        Raises DevenvError.
        """
        self.layout.make()
        images = engine.Images.resolve()
        self._note("images", lambda: self._build(images))
        self._note("cluster", lambda: self._create(images))
        self._note("images loaded", lambda: engine.load(self.cluster, self._loaded(images)))
        self._write_overlay(images)
        self._note("manifests applied", self._apply)
        self._note("everything ready", self._wait)

    def install(self) -> None:
        """Apply CRDs and manifests, as `up` did last, and wait until all is ready. Raises DevenvError."""
        self._apply()
        self._wait()

    def down(self) -> None:
        """Delete the cluster with everything in it. Raises CommandFailed."""
        engine.delete(self.cluster)

    def apply_sample(self) -> None:
        """The topic and the UpdateStream of the demo."""
        self.apply_stream(SAMPLE_STREAM)

    def apply_stream(self, manifest: Path) -> None:
        """The sample's topic, and an UpdateStream whose addresses are those of this cluster. Raises CommandFailed."""
        broker.create_topic(self.bootstrap_servers, broker.TOPIC)
        values = {"KAFKA_BOOTSTRAP_SERVERS": INSIDE.bootstrap_servers, "DOWNSTREAM_URL": INSIDE.downstream_url}
        self.progress(apply(self.kubectl, manifest, render_stream(manifest, values)))

    def variables(self) -> dict[str, str]:
        """The variables that `.dev/env` exports, except PATH: addresses of this machine."""
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "DOWNSTREAM_URL": self.downstream_url,
        }

    def collect_logs(self, directory: Path) -> None:
        """Collect the logs of all pods, and their descriptions, for a person who looks at a failure."""
        directory.mkdir(parents=True, exist_ok=True)
        for namespace in (NAMESPACE, SAMPLE_NAMESPACE):
            asked: list[tuple[str, tuple[str, ...]]] = [
                ("pods.txt", ("describe", "pods")),
                ("events.txt", ("get", "events", "--sort-by=.lastTimestamp")),
            ]
            for pod in self.kubectl.json("-n", namespace, "get", "pods")["items"]:
                name = pod["metadata"]["name"]
                asked += [(f"{name}.log", ("logs", name)), (f"{name}.before.log", ("logs", name, "--previous"))]
            for file, arguments in asked:
                try:
                    said = self.kubectl("-n", namespace, *arguments)
                except CommandFailed as failed:
                    said = f"{failed}\n"
                (directory / f"{namespace}.{file}").write_text(said, encoding="utf-8")
        objects = self.kubectl("get", "us,uu,re,ub", "-A", "-o", "yaml", timeout=120)
        (directory / "objects.yaml").write_text(objects, encoding="utf-8")

    def _note(self, what: str, act: Callable[[], None]) -> None:
        started = time.monotonic()
        act()
        self.progress(f"{what:<18} {time.monotonic() - started:6.1f} s")

    def _build(self, images: engine.Images) -> None:
        self._tags = engine.build(images)
        engine.pull(images.kafka)

    def _loaded(self, images: engine.Images) -> list[str]:
        return [*(f"{name}:{tag}" for name, tag in self._tags.items()), images.kafka]

    def _create(self, images: engine.Images) -> None:
        if self.cluster not in engine.clusters():
            engine.create(
                self.cluster, images, self.kubeconfig, {part: self.ports.get(part) for part in engine.NODE_PORTS}
            )

    def _apply(self) -> None:
        """CRDs first, as on any cluster; then the overlay with the images' tags and the ports of this machine."""
        self.kubectl("apply", "--server-side", "-f", str(CRDS))
        self.kubectl("wait", "--for=condition=Established", "-f", str(CRDS), "--timeout=30s")
        for path in sorted(CRDS.glob("*.yaml")):
            self.kubectl("get", "--raw", f"/apis/{names.GROUP}/{names.VERSION}/{path.stem}?limit=1")
        self.kubectl("apply", "--server-side", "-k", str(self._overlay))

    @property
    def _overlay(self) -> Path:
        return self.layout.etc / "kind"

    def _write_overlay(self, images: engine.Images) -> None:
        folder = self._overlay
        folder.mkdir(exist_ok=True)
        kafka, _, tag = images.kafka.rpartition(":")
        outside = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "outside", "namespace": SAMPLE_NAMESPACE},
            "data": {"kafka": self.bootstrap_servers},
        }
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            # An absolute path is taken for a URL.
            "resources": [os.path.relpath(manifests.OVERLAYS / "kind", folder)],
            "images": [
                *({"name": name, "newTag": tag} for name, tag in self._tags.items()),
                {"name": "apache/kafka", "newName": kafka, "newTag": tag},
            ],
            "patches": [{"patch": json.dumps(outside)}],
        }
        write_atomically(folder / "kustomization.yaml", json.dumps(kustomization, indent=1) + "\n")

    def _wait(self) -> None:
        for namespace, workloads in ROLLOUTS.items():
            for workload in workloads:
                try:
                    self.kubectl("-n", namespace, "rollout", "status", workload, "--timeout=180s", timeout=200)
                except CommandFailed as failed:
                    raise StartFailed(f"{workload} does not become ready: {failed}") from failed
