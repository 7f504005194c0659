"""What a stream may configure of the Kafka client."""

from __future__ import annotations

from pathlib import Path

import confluent_kafka as ck
import pytest
import yaml

from controller.kafka import KafkaError, client_config
from controller.kafka.admin import explained
from controller.kafka.config import BRIDGE_CONFIG, CONFIGURABLE, SECRETS, queue_size
from controller.streams import KafkaSpec

CRD = Path(__file__).parents[2] / "crds" / "updatestreams.yaml"


def make_spec(**config: str) -> KafkaSpec:
    return KafkaSpec("127.0.0.1:9092", "events", "group", {key.replace("_", "."): v for key, v in config.items()}, "s")


def test_what_is_allowed_is_passed_on() -> None:
    config = client_config(make_spec(isolation_level="read_uncommitted"), {"sasl.password": "x"})
    assert config["isolation.level"] == "read_uncommitted"
    assert config["sasl.password"] == "x"
    assert config["bootstrap.servers"] == "127.0.0.1:9092"


def test_where_to_begin_is_not_librdkafkas_decision() -> None:
    assert "auto.offset.reset" not in client_config(make_spec(auto_offset_reset="latest"), {})
    assert BRIDGE_CONFIG["auto.offset.reset"] == "error"


@pytest.mark.parametrize("name", ["plugin.library.paths", "ssl.key.location", "sasl.oauthbearer.config", "group.id"])
def test_other_properties_are_refused_by_name(name: str) -> None:
    with pytest.raises(KafkaError, match=name.replace(".", r"\.")) as refused:
        client_config(make_spec(**{name.replace(".", "_"): "/etc/passwd"}), {})
    assert refused.value.reason == "ConfigRefused"
    with pytest.raises(KafkaError, match=name.replace(".", r"\.")):
        client_config(make_spec(), {name: "/etc/passwd"})


def test_a_stream_cannot_change_what_the_bridge_rests_on() -> None:
    assert not CONFIGURABLE & (BRIDGE_CONFIG.keys() - {"auto.offset.reset"})
    assert not CONFIGURABLE & SECRETS


def test_the_crd_has_the_same_list() -> None:
    rules = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"][
        "properties"
    ]["kafka"]["properties"]["config"]["x-kubernetes-validations"]
    assert all(f"'{name}'" in rules[0]["rule"] for name in CONFIGURABLE)
    assert rules[0]["rule"].count("'") == 2 * len(CONFIGURABLE)


@pytest.mark.parametrize(
    "attempt",
    ["", " (after 302ms in state AUTH_REQ)", " (after 2ms in state AUTH_REQ, 7 identical error(s) suppressed)"],
)
def test_a_condition_does_not_change_with_each_attempt_to_connect(attempt: str) -> None:
    told = explained(ck.KafkaError(ck.KafkaError._AUTHENTICATION, f"b:9092: wrong password{attempt}"), "events")
    assert (told.reason, str(told)) == ("NotAuthenticated", "b:9092: wrong password: see spec.kafka and its Secret")


@pytest.mark.parametrize(("share", "want"), [(1.0, 4096), (0.25, 1024), (0.001, 64)])
def test_the_queue_is_a_share_and_never_nothing(share: float, want: int) -> None:
    assert queue_size(4 << 20, share) == want
