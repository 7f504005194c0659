"""Measures how long a new cluster takes for its first event, from the topic to the end."""

from __future__ import annotations

import json
import secrets

from confluent_kafka import Producer

from devenv import broker
from devenv.kind.cluster import INSIDE, KindEnvironment
from devenv.kubectl import SAMPLE_STREAM, render

EVENT = {"profile": "dev", "permissions": "all", "resources": "all"}


def first_event(environment: KindEnvironment) -> None:
    """In a namespace, a topic and a stream of its own. Raises CommandFailed where it does not come to its end."""
    kubectl, servers = environment.kubectl, environment.bootstrap_servers
    name = f"first-{secrets.token_hex(3)}"  # a cluster that was kept has had one already
    broker.create_topic(servers, name)
    values = {"KAFKA_BOOTSTRAP_SERVERS": INSIDE.bootstrap_servers, "DOWNSTREAM_URL": INSIDE.downstream_url}
    stream = render(SAMPLE_STREAM, values).replace("user-updates", name).replace("namespace: default", "")
    kubectl("create", "namespace", name)
    kubectl("-n", name, "apply", "-f", "-", stdin=stream)
    producer = Producer({"bootstrap.servers": servers})
    producer.produce(name, json.dumps(EVENT).encode(), b"userid1")
    producer.flush(30)
    kubectl("-n", name, "wait", "--for=create", "uu", "--all", "--timeout=60s", timeout=70)
    kubectl("-n", name, "wait", "--for=condition=Succeeded", "uu", "--all", "--timeout=60s", timeout=70)
    kubectl("delete", "namespace", name, "--wait=false")
