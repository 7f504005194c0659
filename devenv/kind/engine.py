"""Runs Docker and kind: checks whether they are there, makes images and the cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from devenv.errors import CommandFailed, MissingTools
from devenv.layout import ROOT, write_atomically

#: Seconds that building an image, or a cluster, may take.
BUILD_SECONDS = 900.0
#: Node ports of the sample overlay (`deploy/sample`), by the name of their port here.
NODE_PORTS = {"kafka": 30092, "downstream": 30080}


@dataclass(frozen=True, slots=True)
class Images:
    """Names of images that are made or loaded, all of them changeable for machines without a registry."""

    kafka: str
    #: The image that our own images are built from.
    python: str
    #: None: what this version of kind asks for, from its registry.
    node: str | None

    @classmethod
    def resolve(cls, environment: Mapping[str, str] = os.environ) -> Images:
        """`KAFKA_IMAGE`, `PYTHON_IMAGE`, `KIND_NODE_IMAGE`; for the last one, an image of its name that is here.

        Raises MissingTools.
        """
        require()
        node = environment.get("KIND_NODE_IMAGE") or _local_node_image()
        return cls(
            kafka=environment.get("KAFKA_IMAGE") or "apache/kafka:4.1.0",
            python=environment.get("PYTHON_IMAGE") or "python:3.12-slim",
            node=node,
        )


def require() -> None:
    """Raises MissingTools, in one line, where there is no engine or no kind."""
    if shutil.which("docker") is None:
        raise MissingTools("no container engine: docker is not installed, and kind needs it")
    try:
        run("docker", "version", "--format", "{{.Server.Version}}", seconds=20)
    except CommandFailed as failed:
        raise MissingTools(f"no container engine answers: {str(failed).splitlines()[-1]}") from failed
    if shutil.which("kind") is None:
        raise MissingTools("kind is not installed: go install sigs.k8s.io/kind@latest, or see its site")


def available() -> bool:
    """Whether a cluster can be made here at all."""
    try:
        require()
    except MissingTools:
        return False
    return True


def run(*command: str, seconds: float = 60.0, stdin: str | None = None) -> str:
    """Run a command and return its standard output. Raises CommandFailed with the end of its standard error."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds, cwd=ROOT)
    except OSError as failed:
        raise CommandFailed(f"{command[0]} cannot be run: {failed.strerror}") from failed
    except subprocess.TimeoutExpired as late:
        raise CommandFailed(f"{' '.join(command)} took over {seconds:.0f} s") from late
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise CommandFailed(f"{' '.join(command)}:\n{said}")
    return done.stdout


def pull(image: str) -> None:
    """Pull an image unless it is here. Raises CommandFailed, in one line."""
    try:
        run("docker", "image", "inspect", image)
    except CommandFailed:
        try:
            run("docker", "pull", "--quiet", image, seconds=BUILD_SECONDS)
        except CommandFailed as failed:
            raise CommandFailed(f"there is no image {image} here, and it cannot be pulled: {_last(failed)}") from failed


def build(images: Images) -> dict[str, str]:
    """Build ours; (name, tag) by their contents, so that a changed one is rolled out. Raises CommandFailed."""
    pull(images.python)
    return {name: _build(name, images.python, *target) for name, target in _TARGETS.items()}


def clusters() -> list[str]:
    return run("kind", "get", "clusters").split()


def create(name: str, images: Images, kubeconfig: Path, ports: Mapping[str, int]) -> None:
    """Make the cluster; its node ports are those ports of this machine. Raises CommandFailed."""
    mappings = [
        {"containerPort": NODE_PORTS[part], "hostPort": port, "listenAddress": "127.0.0.1"}
        for part, port in ports.items()
    ]
    nodes = [{"role": "control-plane", "extraPortMappings": mappings}]
    config = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": nodes}
    path = kubeconfig.with_name("kind.json")
    write_atomically(path, json.dumps(config, indent=1) + "\n")
    image = ("--image", images.node) if images.node else ()
    command = ("kind", "create", "cluster", "--name", name, "--config", str(path), "--kubeconfig", str(kubeconfig))
    run(*command, *image, "--wait", "180s", seconds=BUILD_SECONDS)


def load(name: str, images: list[str]) -> None:
    """Bring images of this machine to the node. Raises CommandFailed."""
    run("kind", "load", "docker-image", *images, "--name", name, seconds=BUILD_SECONDS)


def delete(name: str) -> None:
    run("kind", "delete", "cluster", "--name", name, seconds=120)


def on_node(name: str, *command: str) -> str:
    """Run it in the node of a cluster. Raises CommandFailed."""
    return run("docker", "exec", f"{name}-control-plane", *command)


_TARGETS: dict[str, tuple[str, ...]] = {"userupdates": (), "userupdates-dev": ("--target", "dev")}


def _build(name: str, python: str, *target: str) -> str:
    tag = f"{name}:local"
    run("docker", "build", "--tag", tag, "--build-arg", f"PYTHON={python}", *target, ".", seconds=BUILD_SECONDS)
    version = run("docker", "image", "inspect", "--format", "{{.Id}}", tag).strip().removeprefix("sha256:")[:12]
    run("docker", "tag", tag, f"{name}:{version}")
    return version


def _local_node_image() -> str | None:
    """The newest kindest/node that is here already."""
    found = run("docker", "image", "ls", "kindest/node", "--format", "{{.Repository}}:{{.Tag}}").split()
    return next((image for image in found if not image.endswith(":<none>")), None)


def _last(failed: CommandFailed) -> str:
    return str(failed).splitlines()[-1]
