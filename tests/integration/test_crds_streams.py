"""The API server's own judgement on good and bad UpdateStreams: what passes, what is refused, and in which words."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Consumer

from controller.devenv.environment import Environment
from controller.kafka.config import CONFIGURABLE
from tests.applying import ABSENT, SOURCE, STREAM, Applier, Refused
from tests.kube import Kube
from tests.schemas import schema


@pytest.fixture
def api(environment: Environment, kube: Kube, namespace: str) -> Applier:
    return Applier(kube, environment.kubectl, namespace)


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
BAD_STREAMS = [
    ("name with a dot", {"metadata.name": "user.updates"}, "must be a DNS label"),
    ("long name", {"metadata.name": "a" * 64}, "must be a DNS label"),
    ("no steps", {"spec.steps": ABSENT}, "spec.steps: Required value"),
    ("two steps", {"spec.steps.resources": ABSENT}, "spec.steps.resources: Required value"),
    ("a fourth step", {"spec.steps.more": {"url": "http://a/"}}, 'unknown field "spec.steps.more"'),
    ("brokers with a scheme", {"spec.kafka.bootstrapServers": "SSL://kafka:9092"}, "with no spaces and no scheme"),
    ("brokers without a port", {"spec.kafka.bootstrapServers": "kafka"}, "must be host:port"),
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


ALLOWED = """
auto.offset.reset=latest isolation.level=read_committed client.rack=a security.protocol=plaintext sasl.mechanism=PLAIN
fetch.min.bytes=1 fetch.max.bytes=1000000 fetch.message.max.bytes=1000000 fetch.wait.max.ms=500
fetch.queue.backoff.ms=1000 fetch.error.backoff.ms=500 socket.timeout.ms=60000
socket.connection.setup.timeout.ms=30000 socket.keepalive.enable=true socket.nagle.disable=true socket.max.fails=1
socket.send.buffer.bytes=0 socket.receive.buffer.bytes=0 socket.blocking.max.ms=1000
"""


def test_the_allowed_properties_are_librdkafkas(api: Applier) -> None:
    allowed = dict(entry.split("=") for entry in ALLOWED.split())
    assert api.tried(STREAM, {CONFIG: allowed})
    description = schema("updatestreams")["properties"]["spec"]["properties"]["kafka"]["properties"]["config"][
        "description"
    ]
    assert set(allowed) == CONFIGURABLE == {word.strip(",;.") for word in description.split(": ")[1].split()}
    Consumer({"group.id": "g", **allowed}, logger=None).close()


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
