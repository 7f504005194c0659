"""The API server's own judgement on good and bad UpdateStreams: what passes, what is refused, and in which words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import pytest
from confluent_kafka import Consumer

from controller.api.names import UID_ANNOTATION
from controller.api.update_stream import KafkaSpec
from controller.kafka import KafkaError, client_config
from controller.kafka.config import (
    BRIDGE_CONFIG,
    ENUM_PROPERTIES,
    FETCH_DEFAULTS,
    NUMERIC_PROPERTIES,
    STREAM_PROPERTIES,
)
from tests.support.eventually import eventually
from tests.support.kube import Kube
from tests.support.manifests import ABSENT, SOURCE, STREAM, Applier, Refused
from tests.support.schemas import nodes

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/updatestreams.enrichment.dev"


GOOD_STREAMS = [
    ("no group", {"spec.kafka.groupId": ABSENT}),
    ("a name of 63 characters", {"metadata.name": "a" * 63}),
    ("several brokers", {"spec.kafka.bootstrapServers": "kafka-0.kafka:9092,[::1]:9093"}),
    ("URL without a path", {"spec.steps.profile.url": "https://downstream"}),
    ("URL with a query", {"spec.steps.profile.url": "https://[::1]:8443/a/b%20c?step=profile&at=@"}),
    ("fractions of seconds", {"spec.steps.profile.timeoutSeconds": 0.25, "spec.steps.profile.busyDelaySeconds": 1.5}),
    ("retry", {"spec.steps.profile.retry": {"initialSeconds": 0.1, "maxSeconds": 2, "factor": 1.5, "maxAttempts": 3}}),
    ("policies", {"spec.onRejected": "Hold", "spec.onExhausted": "Continue", "spec.checkpoints": "Coalesced"}),
    ("as many calls as shards", {"spec.shards": 16, "spec.steps.resources.concurrency": 16}),
    (
        "the first and the last port",
        {"spec.steps.profile.url": "http://a:1/", "spec.kafka.bootstrapServers": "a:65535,b:1"},
    ),
    ("the whole of a name", {"spec.steps.profile.url": "http://a_b.svc.cluster.local./x/%C3%A9/é?a=$1&b=(c);d"}),
    ("an address", {"spec.steps.profile.url": "http://10.0.0.1", "spec.kafka.bootstrapServers": "10.0.0.1:9092"}),
    ("a Secret's name", {"spec.steps.profile.secretRef": {"name": "a.b-c.0"}}),
    ("few objects", {"spec.limits": {"maxObjects": 1}}),
    ("short delays", {"spec.steps.profile.retry": {"maxSeconds": 0.5}}),
    ("one delay", {"spec.steps.profile.retry": {"initialSeconds": 300, "maxSeconds": 300}}),
    ("suspended", {"spec.suspend": {"ingest": True, "processing": True, "users": ["a", "b"]}}),
    ("Kafka's log-in", {"spec.kafka.config": {"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512"}}),
]


@pytest.mark.parametrize("changes", [pytest.param(changes, id=name) for name, changes in GOOD_STREAMS])
def test_a_good_stream_passes(api: Applier, changes: dict[str, Any]) -> None:
    assert api.tried(STREAM, changes)


def test_a_stream_is_filled_with_the_defaults(api: Applier) -> None:
    spec = api.tried(STREAM, {})["spec"]
    retry = {"initialSeconds": 1, "maxSeconds": 60, "factor": 2, "maxAttempts": 0}
    url = "http://127.0.0.1:8080/profile"
    assert spec["steps"]["profile"] == {"url": url, "timeoutSeconds": 30, "busyDelaySeconds": 5, "retry": retry}
    assert {name: value for name, value in spec.items() if name not in ("kafka", "steps")} == {
        "shards": 1,
        "checkpoints": "EveryStep",
        "onRejected": "Continue",
        "onExhausted": "Hold",
        "limits": {"maxObjects": 1000, "maxPerUser": 5},
        "retention": {"succeededSeconds": 3600, "failedSeconds": 604800, "maxFinished": 5000},
        "suspend": {"ingest": False, "processing": False, "users": []},
    }


CONFIG = "spec.kafka.config"
URL = "spec.steps.profile.url"
SERVERS = "spec.kafka.bootstrapServers"
NOT_AN_ADDRESS = "its host must be a name or an IP address"
BAD_STREAMS = [
    ("name with a dot", {"metadata.name": "user.updates"}, "must be a DNS label"),
    ("long name", {"metadata.name": "a" * 64}, "must be a DNS label"),
    ("no steps", {"spec.steps": ABSENT}, "spec.steps: Required value"),
    ("two steps", {"spec.steps.resources": ABSENT}, "spec.steps.resources: Required value"),
    ("a fourth step", {"spec.steps.more": {"url": "http://a/"}}, 'unknown field "spec.steps.more"'),
    ("brokers with a scheme", {"spec.kafka.bootstrapServers": "SSL://kafka:9092"}, "with no spaces and no scheme"),
    ("brokers without a port", {"spec.kafka.bootstrapServers": "kafka"}, "must be host:port"),
    ("an invalid port", {"spec.kafka.bootstrapServers": "a:1,kafka:65536"}, "each port must be from 1 to 65535"),
    ("port 0", {"spec.kafka.bootstrapServers": "kafka:0,a:1"}, "each port must be from 1 to 65535"),
    ("login without its way", {CONFIG: {"security.protocol": "SASL_SSL"}}, "sasl.mechanism is missing"),
    ("topic pattern", {"spec.kafka.topic": "^user.*"}, "patterns are not supported"),
    ("code to load", {CONFIG: {"plugin.library.paths": "/tmp/x.so"}}, "plugin.library.paths may not be set here"),
    ("a file to read", {CONFIG: {"ssl.key.location": "/etc/passwd"}}, "ssl.key.location may not be set here"),
    ("a command", {CONFIG: {"sasl.kerberos.kinit.cmd": "id"}}, "sasl.kerberos.kinit.cmd may not be set here"),
    ("a property of ours", {CONFIG: {"enable.auto.commit": "true"}}, "enable.auto.commit may not be set here"),
    ("hidden among good ones", {CONFIG: {"fetch.min.bytes": "1", "fetch.x": "1"}}, "fetch.x may not be set here"),
    ("number for text", {CONFIG: {"fetch.min.bytes": 5}}, "fetch.min.bytes in body must be of type string"),
    ("offset reset", {CONFIG: {"auto.offset.reset": "none"}}, "auto.offset.reset must be earliest or latest"),
    ("isolation", {CONFIG: {"isolation.level": "x"}}, "isolation.level must be read_committed or"),
    ("protocol", {CONFIG: {"security.protocol": "tls"}}, "security.protocol must be plaintext, ssl"),
    ("Kerberos", {CONFIG: {"sasl.mechanism": "GSSAPI"}}, "sasl.mechanism must be PLAIN, SCRAM-SHA-256"),
    ("password in the URL", {URL: "http://u:p@a/b"}, "must not carry credentials"),
    ("name in the URL", {URL: "http://u@a"}, "must not carry credentials"),
    ("URL of another scheme", {URL: "file:///etc/passwd"}, "must be an http:// or https:// URL with a host"),
    ("URL without a host", {URL: "http:///a"}, "must be an http:// or https:// URL with a host"),
    ("URL with a space", {URL: "http://a/b c"}, "without spaces or '#'"),
    ("URL with a fragment", {URL: "http://a/b#c"}, "without spaces or '#'"),
    ("URL with a space beyond ASCII", {URL: "http://a/b\u3000c"}, "without spaces or '#'"),
    ("URL with a control character", {URL: "http://a/b\x7f"}, "without spaces or '#'"),
    ("URL with a hole in its host", {URL: "http://a..b/"}, "must be an http:// or https:// URL with a host"),
    ("URL of a long name", {URL: f"http://{'a' * 64}/"}, "must be an http:// or https:// URL with a host"),
    ("URL whose port is too high", {URL: "http://a:99999/"}, "its port must be from 1 to 65535"),
    ("URL whose port is just too high", {URL: "http://a:65536"}, "its port must be from 1 to 65535"),
    ("URL of port 0", {URL: "http://[::1]:0?a"}, "its port must be from 1 to 65535"),
    ("URL of a huge port", {URL: "http://a:1234567/"}, "its port must be from 1 to 65535"),
    ("URL of half an address", {URL: "http://10.0.1/"}, NOT_AN_ADDRESS),
    ("URL of a number", {URL: "http://2130706433/"}, NOT_AN_ADDRESS),
    ("URL of no address", {URL: "https://256.1.1.1/"}, NOT_AN_ADDRESS),
    ("URL of no IPv6 address", {URL: "https://[::1::]:1/"}, NOT_AN_ADDRESS),
    ("URL with a placeholder", {URL: "http://a/{user}"}, "placeholders such as {user} or %s are not filled in"),
    ("URL with another placeholder", {URL: "http://a/%s/profile"}, "placeholders such as {user} or %s"),
    ("URL with half an escape", {URL: "http://a/?b=%2"}, "placeholders such as {user} or %s"),
    ("URL with a backslash", {URL: "http://a/b\\c"}, "must be a URL as it is called"),
    ("brokers with a hole", {SERVERS: "a..b:9092"}, "must be host:port"),
    ("brokers and a comma", {SERVERS: "a:9092,"}, "must be host:port"),
    (
        "a Secret's name",
        {"spec.kafka.secretRef": {"name": "My_Secret"}},
        "must be the name of a Secret in the stream's",
    ),
    ("a path for a Secret", {"spec.steps.profile.secretRef": {"name": "a/b"}}, "must be the name of a Secret in"),
    (
        "delays that begin above the longest",
        {"spec.steps.resources.retry": {"initialSeconds": 100, "maxSeconds": 10}},
        "spec.steps.resources.retry.initialSeconds: Invalid value: initialSeconds must be at most maxSeconds",
    ),
    (
        "delays that begin above the default",
        {"spec.steps.profile.retry": {"initialSeconds": 61}},
        "raise maxSeconds (60 where it is not given) as well",
    ),
    (
        "more for a user than for all",
        {"spec.limits": {"maxObjects": 10, "maxPerUser": 11}},
        "spec.limits.maxPerUser: Invalid value: maxPerUser must be at most maxObjects",
    ),
    ("a user whom no record has", {"spec.suspend.users": ["é" * 513]}, "no user is longer than 1,024 bytes"),
    ("no time", {"spec.steps.profile.timeoutSeconds": 0}, "timeoutSeconds in body should be greater than 0"),
    ("next to no time", {"spec.steps.profile.busyDelaySeconds": 1e-9}, "busyDelaySeconds in body should be greater"),
    ("retry at once", {"spec.steps.profile.retry": {"initialSeconds": 0}}, "initialSeconds in body should be greater"),
    ("shrinking delay", {"spec.steps.profile.retry": {"factor": 0.5}}, "retry.factor in body should be greater than"),
    ("policy", {"spec.onExhausted": "Retry"}, 'supported values: "Hold", "Continue"'),
    (
        "no objects",
        {"spec.limits.maxObjects": 0},
        "spec.limits.maxObjects in body should be greater than or equal to 1",
    ),
    ("no shards", {"spec.shards": 0}, "spec.shards in body should be greater than or equal to 1"),
    ("many shards", {"spec.shards": 17}, "spec.shards in body should be less than or equal to 16"),
    (
        "fewer calls than shards",
        {"spec.shards": 4, "spec.steps.permissions.concurrency": 3},
        "spec.shards: Invalid value: the concurrency of a step is divided among the shards",
    ),
    ("user twice", {"spec.suspend.users": ["a", "a"]}, "spec.suspend.users[1]: Duplicate value"),
    ("too many suspended", {"spec.suspend.users": [str(n) for n in range(1001)]}, "must have at most 1000 items"),
]


@pytest.mark.parametrize(("changes", "want"), [pytest.param(*case[1:], id=case[0]) for case in BAD_STREAMS])
def test_a_bad_stream_is_refused_by_field(api: Applier, changes: dict[str, Any], want: str) -> None:
    with pytest.raises(Refused) as refused:
        api.tried(STREAM, changes)
    assert want in str(refused.value)


def test_topic_and_group_of_a_stream_cannot_be_changed(api: Applier) -> None:
    api.apply(STREAM)
    with pytest.raises(Refused, match=r"spec\.kafka\.topic: .*topic cannot be changed"):
        api.apply(STREAM, {"spec.kafka.topic": "other"})
    for group in ("other", ABSENT):
        with pytest.raises(Refused, match=r"spec\.kafka\.groupId: .*groupId cannot be changed, added or removed"):
            api.apply(STREAM, {"spec.kafka.groupId": group})
    api.apply(STREAM, {"metadata.name": "no-group", "spec.kafka.groupId": ABSENT})
    with pytest.raises(Refused, match="groupId cannot be changed, added or removed"):
        api.apply(STREAM, {"metadata.name": "no-group"})
    assert api.apply(STREAM, {"spec.kafka.bootstrapServers": "elsewhere:9092", "spec.limits.maxObjects": 10})


def spec(config: dict[str, str]) -> KafkaSpec:
    return KafkaSpec("127.0.0.1:9092", "events", "group", config, None)


def passes(api: Applier, changes: dict[str, Any]) -> bool:
    try:
        api.tried(STREAM, {**changes, "metadata.name": "another"})
    except Refused:
        return False
    return True


@contextmanager
def without_rules(kube: Kube) -> Iterator[None]:
    """The CRD of a version that knew no rules beyond types and bounds."""
    whole = kube.call("GET", CRD)["spec"]["versions"]
    bare = deepcopy(whole)
    for _, node in nodes(bare[0]["schema"]["openAPIV3Schema"], ""):
        node.pop("x-kubernetes-validations", None)

    def change(versions: list[Any]) -> None:
        patch = [{"op": "replace", "path": "/spec/versions", "value": versions}]
        kube.call("PATCH", CRD, patch, headers={"Content-Type": "application/json-patch+json"})

    change(bare)
    try:
        yield
    finally:
        change(whole)


def test_every_value_within_the_bounds_of_a_property_passes_and_none_beyond(api: Applier) -> None:
    """The API server and the bridge draw the same line."""
    login = {"sasl.mechanism": "PLAIN"}  # goes with any protocol
    within: dict[str, tuple[str, ...]] = {name: tuple(map(str, bounds)) for name, bounds in NUMERIC_PROPERTIES.items()}
    within |= ENUM_PROPERTIES
    assert within.keys() | {"client.rack"} == STREAM_PROPERTIES
    for name, value in ((name, value) for name, values in within.items() for value in values):
        assert api.tried(STREAM, {CONFIG: login | {name: value}})
        client_config(spec(login | {name: value}), {})
    beyond: dict[str, tuple[str, ...]] = {
        name: (str(least - 1), str(most + 1), "0x10", "+10", "10 ", "ten")
        for name, (least, most) in NUMERIC_PROPERTIES.items()
    }
    beyond |= dict.fromkeys(ENUM_PROPERTIES, ("maybe",))
    for name, value in ((name, value) for name, values in beyond.items() for value in values):
        with pytest.raises(Refused, match=rf"{name} must be "):
            api.tried(STREAM, {CONFIG: login | {name: value}})
        with pytest.raises(KafkaError, match=rf"spec\.kafka\.config: {name} must be ") as refused:
            client_config(spec(login | {name: value}), {})
        assert refused.value.reason == "ConfigRefused"


def test_librdkafka_takes_every_combination_of_bounds() -> None:
    lowest = {name: str(least) for name, (least, _) in NUMERIC_PROPERTIES.items()}
    highest = {name: str(most) for name, (_, most) in NUMERIC_PROPERTIES.items()}
    mixed = [
        one | {name: other[name]}
        for one, other in ((lowest, highest), (highest, lowest))
        for name in NUMERIC_PROPERTIES
    ]
    for config in (lowest, highest, *mixed):
        words = {"socket.keepalive.enable": "true", "socket.nagle.disable": "true", "client.rack": "a"}
        whole = FETCH_DEFAULTS | client_config(spec(config | words), {}) | BRIDGE_CONFIG
        Consumer({**whole, "group.id": "g", "group.instance.id": "i", "log_level": 0}).close()


#: What was taken before there was a rule for it.
STORED: dict[str, Any] = {
    CONFIG: {"fetch.wait.max.ms": "0"},
    SERVERS: "kafka:99999",
    URL: "http://a..b:99999/{user}",
    "spec.steps.permissions.url": "http://256.1.1.1/",
    "spec.steps.resources.retry": {"initialSeconds": 100, "maxSeconds": 10},
    "spec.steps.resources.secretRef": {"name": "My_Secret"},
    "spec.limits": {"maxObjects": 10, "maxPerUser": 11},
    "spec.suspend.users": ["é" * 513],
}


def test_what_was_stored_before_there_were_rules_can_be_written(api: Applier, kube: Kube, namespace: str) -> None:
    """The processes refuse it, and say so: the status of such a stream, and the rest of its spec, may be changed."""
    with without_rules(kube):
        eventually(lambda: passes(api, STORED), 20)  # a changed CRD takes a moment
        api.apply(STREAM, STORED)
    eventually(lambda: not passes(api, STORED), 20)
    api.status("updatestreams", "user-updates", {"partitions": [partition(10)]})
    for change in (
        {"spec": {"suspend": {"processing": True}}},
        {"metadata": {"annotations": {UID_ANNOTATION: "x"}}},
        {"spec": {"steps": {"profile": {"concurrency": 5}, "resources": {"timeoutSeconds": 3}}}},
    ):
        kube.patch(namespace, "updatestreams", "user-updates", change)
    with pytest.raises(Refused, match="placeholders such as"):
        api.apply(STREAM, STORED | {URL: "http://a:1/{user}"})
    assert api.apply(STREAM, STORED | {URL: "http://a:1/"})


def partition(position: int, **changes: Any) -> dict[str, Any]:
    return {"topicId": SOURCE["topicId"], "partition": 0, "position": position} | changes


def test_a_position_never_goes_back(api: Applier) -> None:
    api.apply(STREAM)
    api.status("updatestreams", "user-updates", {"partitions": [partition(10)]})
    api.status("updatestreams", "user-updates", {"partitions": [partition(10), partition(3, partition=1)]})
    api.status(
        "updatestreams", "user-updates", {"partitions": [partition(11, committed=9, lag=2), partition(3, partition=1)]}
    )
    with pytest.raises(Refused, match="position cannot go back"):
        api.status("updatestreams", "user-updates", {"partitions": [partition(10), partition(3, partition=1)]})
    anew = partition(0, topicId="another")
    api.status("updatestreams", "user-updates", {"partitions": [anew, partition(3, partition=1), partition(11)]})
    with pytest.raises(Refused, match="Duplicate value"):
        api.status("updatestreams", "user-updates", {"partitions": [anew, anew]})
