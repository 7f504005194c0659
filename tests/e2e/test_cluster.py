"""What only a cluster has: the demo in pods, policies and roles in force, rolling restarts, replicas that take over."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import httpx
import pytest

from demo.__main__ import perform
from demo.scenario import NAMESPACE as DEMO_NAMESPACE
from demo.screen import Screen
from demo.verdict import judge
from devenv.errors import CommandFailed
from devenv.kind.cluster import KindEnvironment
from tests.support.eventually import eventually
from tests.support.kube import Kube
from tests.support.manifests import SOURCE, UPDATE, changed
from tests.support.pipeline import Pipeline

pytestmark = pytest.mark.timeout(600)
USERS = [f"user{number:02d}" for number in range(40)]


def test_the_demo_holds_its_guarantees_in_pods(
    environment: KindEnvironment, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same play and the same verdict as `make demo`."""
    monkeypatch.setenv("KUBECONFIG", str(environment.kubeconfig))
    for path in ("journal", "control/rules"):
        httpx.delete(f"{environment.downstream_url}/{path}", trust_env=False).raise_for_status()
    environment.apply_sample()
    try:
        evidence = asyncio.run(perform(environment, Screen()))
    finally:
        kube.empty(DEMO_NAMESPACE)
    verdicts = judge(evidence)
    assert len(verdicts) == 6
    assert [verdict for verdict in verdicts if not verdict.holds] == []


def test_the_policies_are_in_force(environment: KindEnvironment, namespace: str) -> None:
    forged = json.dumps(changed(UPDATE, {"spec.source": SOURCE}))
    environment.kubectl("-n", namespace, "create", "rolebinding", "forger", "--clusterrole=admin", "--user=forger")
    with pytest.raises(CommandFailed, match="set by the bridge alone"):
        environment.kubectl("-n", namespace, "create", "-f", "-", "--as=forger", stdin=forged)
    with pytest.raises(CommandFailed, match="put streams into a namespace of their own"):
        environment.kubectl("-n", "enrichment-system", "create", "-f", "-", stdin=json.dumps(changed(UPDATE, {})))


@pytest.mark.parametrize(
    ("role", "may", "may_not"),
    [
        ("view", "list uu", "patch uu"),
        ("edit", "patch uu", "patch uu --subresource=status"),
        ("admin", "create us", "update uu --subresource=status"),
    ],
)
def test_people_have_their_part_by_the_built_in_roles(
    environment: KindEnvironment, namespace: str, role: str, may: str, may_not: str
) -> None:
    kubectl = environment.kubectl
    kubectl("-n", namespace, "create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}-person")

    def allowed(what: str) -> bool:
        try:
            return "yes" in kubectl("auth", "can-i", *what.split(), "-n", namespace, f"--as={role}-person")
        except CommandFailed:  # exit code 1: no
            return False

    eventually(lambda: allowed(may))
    assert not allowed(may_not)


def test_rolling_restarts_under_load_lose_and_repeat_nothing(pipeline: Pipeline, environment: KindEnvironment) -> None:
    """Not even the call in flight: it gets a second to end."""
    pipeline.apply()
    pipeline.processing.rules(latency=0.05)
    count = pipeline.produce(USERS, 25)
    for share, role in ((0.1, "controller"), (0.4, "bridge")):
        pipeline.done(int(count * share), within=120)
        began = time.monotonic()
        environment.processes.restart(role)
        print(f"rolling restart of the {role}: {time.monotonic() - began:.1f} s, {pipeline.finished()} of {count} done")
    pipeline.done(count, within=180)
    pipeline.all_recorded(count)
    assert pipeline.ingested.offsets() == [(0, offset) for offset in range(count)]
    wanted = [(user, index) for index, user in enumerate(user for _ in range(25) for user in USERS)]
    assert pipeline.processing.violations(finished=wanted, only=wanted) == []


@pytest.fixture
def replicated(environment: KindEnvironment) -> Iterator[KindEnvironment]:
    """Three controllers and two bridges, as in production."""
    for role, count in (("controller", 3), ("bridge", 2)):
        environment.processes.scale(role, count)
    for role in ("controller", "bridge"):
        environment.wait_ready(role)
    yield environment
    for role in ("controller", "bridge"):
        environment.processes.scale(role, 1)


def test_another_controller_takes_over_from_one_that_is_gone(pipeline: Pipeline, replicated: KindEnvironment) -> None:
    pipeline.apply()
    pipeline.processing.rules(latency=0.05)
    count = pipeline.produce(USERS, 25)
    pipeline.done(count // 5, within=120)
    holder = pipeline.processing.lease()["holderIdentity"]
    assert holder in {pod["metadata"]["name"] for pod in replicated.processes.pods("controller")}
    killed = replicated.processes.kill_pod("controller", holder)
    eventually(lambda: pipeline.processing.lease()["holderIdentity"] not in ("", holder), 30)
    pipeline.done(count, within=180)
    pipeline.all_recorded(count)
    first = min(call.time_ns for call in pipeline.processing.calls() if call.time_ns > killed + 10**9)
    print(f"first call of the successor {(first - killed) / 1e9:.1f} s after SIGKILL and deletion of {holder}")
    assert first - killed < 20 * 10**9
    assert pipeline.processing.violations(crashes=[killed]) == []


SBOM = """
import importlib.metadata, json
with open("/app/sbom.cdx.json") as file:
    listed = {(part["name"], part["version"]) for part in json.load(file)["components"]}
parts = importlib.metadata.distributions()
found = {(part.name.lower().replace("_", "-").replace(".", "-"), part.version) for part in parts}
print(sorted(found - listed - {("userupdates", importlib.metadata.version("userupdates"))}))
"""


def test_the_bill_of_materials_lists_all_that_is_in_the_image(environment: KindEnvironment) -> None:
    said = environment.kubectl("-n", "enrichment-system", "exec", "bridge-0", "--", "python", "-c", SBOM)
    assert said.strip() == "[]"


def test_the_processes_can_write_nothing_and_are_nobody(environment: KindEnvironment) -> None:
    code = (
        "import os; print(os.getuid(), os.access('/', os.W_OK), os.access('/tmp', os.W_OK), os.access('/app', os.W_OK))"
    )
    for workload in ("bridge-0", "deploy/controller"):
        said = environment.kubectl("-n", "enrichment-system", "exec", workload, "--", "python", "-c", code)
        assert said.split() == ["65532", "False", "False", "False"]


def test_the_requests_are_what_a_thousand_updates_take(
    pipeline: Pipeline, environment: KindEnvironment, kube: Kube
) -> None:
    """Memory requested is enough for a steady load, and not twice of it; floods are what the limit is for."""
    pipeline.apply()
    count = pipeline.produce(USERS, 25)
    pipeline.done(count, within=180)
    for role in ("bridge", "controller"):
        (pod,) = environment.processes.pods(role)
        name, (container,) = pod["metadata"]["name"], pod["spec"]["containers"]
        text = kube.client.get(f"/api/v1/namespaces/enrichment-system/pods/{name}:8080/proxy/metrics").text
        lines = (line.split() for line in text.splitlines() if not line.startswith("#") and len(line.split()) == 2)
        resident = next(float(value) for key, value in lines if key == "process_resident_memory_bytes") / 2**20
        requested = int(container["resources"]["requests"]["memory"].removesuffix("Mi"))
        print(f"{role}: {resident:.0f} MiB resident after {count} updates, {requested} MiB requested")
        assert requested / 2 < resident < requested
