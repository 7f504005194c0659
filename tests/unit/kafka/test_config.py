"""What a stream may configure of the Kafka client."""

from __future__ import annotations

import re

import confluent_kafka as ck
import pytest

from controller.api.update_stream import KafkaSpec
from controller.kafka import KafkaError, client_config
from controller.kafka.config import (
    BRIDGE_CONFIG,
    ENUM_PROPERTIES,
    NUMERIC_PROPERTIES,
    SECRET_PROPERTIES,
    STREAM_PROPERTIES,
    create_client,
    queue_kbytes,
)
from tests.support.schemas import schema


def make_spec(**config: str) -> KafkaSpec:
    return KafkaSpec("127.0.0.1:9092", "events", "group", {key.replace("_", "."): v for key, v in config.items()}, "s")


def test_what_is_allowed_is_passed_on() -> None:
    config = client_config(make_spec(isolation_level="read_uncommitted"), {"sasl.password": "x"})
    assert config["isolation.level"] == "read_uncommitted"
    assert config["sasl.password"] == "x"
    assert config["bootstrap.servers"] == "127.0.0.1:9092"


def test_numbers_are_decimal_to_librdkafka_too() -> None:
    """It reads 01000000 as octal, which is less than it takes."""
    given = {"fetch_max_bytes": "01000000", "fetch_wait_max_ms": "0100", "socket_send_buffer_bytes": "00"}
    config = client_config(make_spec(**given), {})
    assert (config["fetch.wait.max.ms"], config["socket.send.buffer.bytes"]) == ("100", "0")
    create_client(ck.Consumer, config | {"group.id": "group"}).close()


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
    assert not STREAM_PROPERTIES & (BRIDGE_CONFIG.keys() - {"auto.offset.reset"})
    assert not STREAM_PROPERTIES & SECRET_PROPERTIES


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"fetch.max.bytes": "1000"}, "fetch.max.bytes must be a whole number from 1000000 to 8388608, and is '1000'"),
        ({"fetch.message.max.bytes": "1000000000"}, "fetch.message.max.bytes must be a whole number from 1 to 8388608"),
        ({"socket.timeout.ms": "0x1000"}, "socket.timeout.ms must be a whole number"),
        ({"isolation.level": "dirty"}, "isolation.level must be one of read_committed, read_uncommitted"),
        ({"security.protocol": "SASL_SSL"}, "sasl.mechanism is missing, one of PLAIN"),
    ],
)
def test_what_was_stored_before_there_were_bounds_is_refused_by_name(config: dict[str, str], told: str) -> None:
    with pytest.raises(KafkaError, match=re.escape(f"spec.kafka.config: {told}")) as refused:
        client_config(KafkaSpec("127.0.0.1:9092", "events", "group", config, None), {})
    assert refused.value.reason == "ConfigRefused"


@pytest.mark.parametrize("servers", ["kafka", "kafka:99999", "a:9092,kafka:0", "kafka:", "[::1]", "a:1,"])
def test_brokers_without_a_port_are_refused(servers: str) -> None:
    with pytest.raises(KafkaError, match="is not HOST:PORT"):
        client_config(KafkaSpec(servers, "events", "group", {}, None), {})
    assert client_config(KafkaSpec("a:9092,[::1]:65535", "events", "group", {}, None), {})


def test_the_crd_has_the_same_list() -> None:
    config = schema("updatestreams")["properties"]["spec"]["properties"]["kafka"]["properties"]["config"]
    rule = config["x-kubernetes-validations"][0]["rule"]
    assert all(f"'{name}'" in rule for name in STREAM_PROPERTIES)
    assert rule.count("'") == 2 * len(STREAM_PROPERTIES)
    explained = dict(
        line.split(": ", 1) for line in config["description"].splitlines() if re.match(r"[a-z.]+[.:,]", line)
    )
    for name, (least, most) in NUMERIC_PROPERTIES.items():
        (text,) = (text for names, text in explained.items() if name in names.split(", "))
        assert str(least) in text and str(most) in text, name
    for name, words in ENUM_PROPERTIES.items():
        assert all(word in explained[name] for word in words), name


@pytest.mark.parametrize(("share", "want"), [(1.0, 4096), (0.25, 1024), (0.001, 64)])
def test_the_queue_is_a_share_and_never_nothing(share: float, want: int) -> None:
    assert queue_kbytes(4 << 20, share) == want
