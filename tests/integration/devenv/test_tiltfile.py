"""The Tiltfile is Starlark, and each path, resource, container and module that it names is there."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from typing import Any

import pytest
import yaml

from devenv import manifests
from devenv.layout import ROOT

starlark = pytest.importorskip("starlark", reason="it has no wheel for this Python on this machine")
from tests.support.tiltfile import Tiltfile  # noqa: E402

TEXT = (ROOT / "Tiltfile").read_text()


@cache
def tiltfile() -> Tiltfile:
    return Tiltfile.read(TEXT)


@cache
def documents() -> list[dict[str, Any]]:
    """What it gives to Kubernetes."""
    found: list[dict[str, Any]] = []
    for call in tiltfile().calls["k8s_yaml"]:
        given = call.arguments[0]
        (what,) = given["arguments"]
        text = manifests.kustomize(ROOT / what) if given["builtin"] == "kustomize" else what
        found += yaml.safe_load_all(text)
    return found


def workloads() -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in documents() if each["kind"] in ("Deployment", "StatefulSet")}


def dependencies() -> dict[str, set[str]]:
    """What each resource waits for."""
    calls = [*tiltfile().calls["k8s_resource"], *tiltfile().calls["local_resource"]]
    return {call.name: set(call.options.get("resource_deps", ())) for call in calls}


def test_what_tilt_does_not_have_is_an_error() -> None:
    with pytest.raises(starlark.StarlarkError):
        Tiltfile.read(TEXT + "\nk8s_resorce('bridge')\n")


def test_every_path_is_there() -> None:
    calls = tiltfile().calls
    paths = [call.arguments[0] for name in ("kustomize", "sync") for call in calls[name]]
    paths += [path for call in calls["local_resource"] for path in call.options.get("deps", ())]
    paths += [path for call in calls["docker_build"] for path in call.options["only"]]
    paths += [path for call in calls["fall_back_on"] for path in call.arguments[0]]
    assert len(paths) >= 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_resource_is_there() -> None:
    objects = {
        f"{each['metadata']['name']}:{each['kind'].lower()}:{each['metadata'].get('namespace')}" for each in documents()
    }
    for call in tiltfile().calls["k8s_resource"]:
        if "objects" in call.options:
            assert set(call.options["objects"]) <= objects
        else:
            assert call.name in workloads()
    assert {"bridge", "controller", "broker", "downstream"} <= dependencies().keys()


def test_everything_waits_for_what_it_needs() -> None:
    def all_before(name: str) -> set[str]:
        return dependencies()[name].union(*map(all_before, dependencies()[name]))

    for name in dependencies():
        assert all_before(name) <= dependencies().keys()
    for name in ("bridge", "controller"):
        assert {"crds", "broker", "downstream"} <= all_before(name)
    assert {"bridge", "controller", "topic"} <= all_before("stream")


def test_a_changed_source_gets_into_the_process() -> None:
    """The image is the one that the pods run, and what is synced is what they watch."""
    (image,) = tiltfile().calls["docker_build"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f" AS {image.options['target']}\n" in dockerfile
    (sync,) = tiltfile().calls["sync"]
    for name in ("bridge", "controller"):
        (container,) = workloads()[name]["spec"]["template"]["spec"]["containers"]
        assert container["image"] == image.arguments[0]
        # Not an empty `args`: Tilt's apply would leave there what another overlay has set.
        assert container["command"] == ["watchfiles"] and container["args"][-1] == sync.arguments[1]
        assert not container["securityContext"]["readOnlyRootFilesystem"]


def test_it_reads_no_source_and_updates_the_product_alone() -> None:
    assert [call.arguments for call in tiltfile().calls["read_file"]] == [("deploy/sample/stream.yaml",)]
    assert [call.arguments for call in tiltfile().calls["sync"]] == [("controller", "/src/controller")]


def test_every_port_is_one_of_the_pods() -> None:
    forwards = {call.name: call.options.get("port_forwards", []) for call in tiltfile().calls["k8s_resource"]}
    here = [forward.partition(":")[0] for each in forwards.values() for forward in each]
    assert len(set(here)) == len(here) >= 4
    for name, each in forwards.items():
        for forward in each:
            (container,) = workloads()[name]["spec"]["template"]["spec"]["containers"]
            assert int(forward.partition(":")[2]) in {port["containerPort"] for port in container["ports"]}
    linked = [
        link["arguments"][0] for call in tiltfile().calls["k8s_resource"] for link in call.options.get("links", ())
    ]
    assert len(linked) == 2 and all(re.search(r":(\d+)/metrics$", url)[1] in here for url in linked)  # type: ignore[index]


def test_every_button_does_something_that_is_there() -> None:
    commands = {call.name: call for call in tiltfile().calls["cmd"]}
    buttons = tiltfile().calls["ui_button"]
    assert {button.options["text"] for button in buttons} >= {
        "produce the demo records",
        "make the downstream busy",
        "kill the controller",
    }
    for button in buttons:
        assert button.options["location"]["component_id"] in dependencies()
        command = commands[button.name]
        assert command.options["start_on"] == {"ui_buttons": [button.name]}
        argv = command.options["args"]
        if argv[1] == "-m":
            assert importlib.util.find_spec(argv[2])
        else:
            assert argv[0] == "kubectl"
            labels = dict([argv[argv.index("-l") + 1].split("=")])
            assert labels.items() <= workloads()["controller"]["spec"]["template"]["metadata"]["labels"].items()
