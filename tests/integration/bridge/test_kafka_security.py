"""A broker that wants TLS and a password: credentials come from a Secret, wrong ones are told of, new ones act."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from devenv import broker
from devenv.environment import Environment
from devenv.layout import HOST
from tests.conftest import StartReplica
from tests.support.bridge_stream import BridgeStream, good
from tests.support.eventually import eventually
from tests.support.kube import MERGE_PATCH

SECRET = "kafka-credentials"
USER, PASSWORD = "bridge", "pa55-of-monday"
NEXT_PASSWORD = "pa55-of-tuesday"


@dataclass(frozen=True, slots=True)
class Secured:
    """The session's broker with a second listener, and what a client needs for it."""

    environment: Environment
    authority: trustme.CA
    folder: Path

    def listen(self, password: str, *, certificates: bool = False) -> None:
        """Start the broker anew so that it takes that password and no other, and asks for a certificate or not."""
        keystore, clients = self.folder / "broker.pem", self.folder / "authority.pem"
        issued = self.authority.issue_cert(HOST)
        chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
        keystore.write_bytes(_pkcs8(issued) + chain)
        self.authority.cert_pem.write_to_path(clients)
        ports = self.environment.ports
        command = broker.with_passwords(
            self.environment.command("kafka"), ports, keystore, {USER: password}, clients if certificates else None
        )
        command = broker.with_rules(command)
        self.environment.processes.start(command)
        self.environment.processes.wait_ready(command)

    @property
    def kafka(self) -> dict[str, Any]:
        """What the stream says."""
        return {
            "bootstrapServers": f"{HOST}:{self.environment.ports.get('kafka-secured')}",
            "config": {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN"},
            "secretRef": {"name": SECRET},
        }

    def credentials(self, password: str, authority: trustme.CA | None = None) -> dict[str, str]:
        """What the Secret says."""
        pem = (authority or self.authority).cert_pem.bytes().decode()
        return {"sasl.username": USER, "sasl.password": password, "ssl.ca.pem": pem}


@pytest.fixture
def secured(environment: Environment, tmp_path: Path) -> Iterator[Secured]:
    yield Secured(environment, trustme.CA(), tmp_path)
    environment.start("kafka")  # without the second listener


def put_secret(ingested: BridgeStream, data: dict[str, str]) -> None:
    path = f"/api/v1/namespaces/{ingested.namespace}/secrets"
    if ingested.kube.client.get(f"{path}/{SECRET}").is_success:
        ingested.kube.call("PATCH", f"{path}/{SECRET}", {"stringData": data}, headers=MERGE_PATCH)
    else:
        ingested.kube.call("POST", path, {"metadata": {"name": SECRET}, "stringData": data})


def test_a_rotated_password_goes_on_without_a_restart(
    ingested: BridgeStream, start_bridge: StartReplica, secured: Secured
) -> None:
    bridge = start_bridge()
    secured.listen(PASSWORD)
    put_secret(ingested, secured.credentials(PASSWORD))
    ingested.apply(kafka=secured.kafka)
    ingested.produce(good(["ana"]))
    ingested.positioned(1, 30)

    secured.listen(NEXT_PASSWORD)
    ingested.produce(good(["bo"]))
    ingested.reason("NotAuthenticated", 60)
    assert "Invalid username or password" in ingested.condition()["message"]
    put_secret(ingested, secured.credentials(NEXT_PASSWORD))
    ingested.positioned(2, 60)
    eventually(lambda: ingested.condition()["status"] == "True")
    ingested.has_made([(0, 0), (0, 1)])
    assert bridge.running
    assert "pa55" not in bridge.log.read_text()


def test_wrong_credentials_are_told_of_until_they_are_right(
    ingested: BridgeStream, start_bridge: StartReplica, secured: Secured
) -> None:
    """An authority that nobody vouched for, then a wrong password; the right ones come from an editor's files."""
    bridge = start_bridge()
    secured.listen(PASSWORD, certificates=True)
    ingested.produce(good(["ana"]))
    put_secret(ingested, secured.credentials(PASSWORD, authority=trustme.CA()))
    ingested.apply(kafka=secured.kafka)
    told(ingested, "certificate")
    issued = secured.authority.issue_cert("bridge.test")
    certificate = {
        "ssl.certificate.pem": issued.cert_chain_pems[0].bytes().decode(),
        "ssl.key.pem": _pkcs8(issued).decode(),
    }
    put_secret(ingested, secured.credentials("wrong") | certificate)
    told(ingested, "Invalid username or password")
    put_secret(ingested, as_files(secured.credentials(PASSWORD) | certificate))
    ingested.positioned(1, 30)
    ingested.has_made([(0, 0)])
    assert bridge.running
    assert bridge.log.stat().st_size < 10_000, "a line for each attempt"


def test_a_client_without_the_certificate_that_is_wanted_is_not_let_in(
    ingested: BridgeStream, start_bridge: StartReplica, secured: Secured
) -> None:
    start_bridge()
    secured.listen(PASSWORD, certificates=True)
    put_secret(ingested, secured.credentials(PASSWORD))
    ingested.apply(kafka=secured.kafka)
    eventually(lambda: ingested.condition().get("status") == "False", 30)
    assert ingested.condition()["reason"] in ("NotAuthenticated", "BrokerUnreachable")


def test_a_group_that_may_not_be_used_is_told_of(
    ingested: BridgeStream, start_bridge: StartReplica, secured: Secured
) -> None:
    secured.listen(PASSWORD)
    put_secret(ingested, secured.credentials(PASSWORD))
    with denied(ingested, ResourceType.GROUP):
        start_bridge()
        ingested.apply(kafka=secured.kafka)
        ingested.reason("NotAuthorized", 30)
        assert "Group authorization failed" in ingested.condition()["message"]
    ingested.produce(good(["ana"]))
    ingested.positioned(1, 30)


def test_a_topic_that_may_be_read_again_is_told_of_without_a_record(
    ingested: BridgeStream, start_bridge: StartReplica, secured: Secured
) -> None:
    start_bridge()
    secured.listen(PASSWORD)
    put_secret(ingested, secured.credentials(PASSWORD))
    ingested.apply(kafka=secured.kafka)
    ingested.produce(good(["ana"]))
    ingested.positioned(1, 30)
    for seen in (False, True):
        with denied(ingested, ResourceType.TOPIC, seen=seen):
            ingested.reason("NotAuthorized", 30)
        eventually(lambda: ingested.condition()["status"] == "True", 20)


@contextmanager
def denied(ingested: BridgeStream, kind: Any, *, seen: bool = False) -> Iterator[None]:
    """The bridge may not read the topic, or use the group of the same name; `seen`: but know of it."""
    client = AdminClient({"bootstrap.servers": ingested.bootstrap})
    rules = [(AclOperation.READ, AclPermissionType.DENY)]
    rules += [(AclOperation.DESCRIBE, AclPermissionType.ALLOW)] if seen else []
    whole = [(kind, ingested.topic, ResourcePatternType.LITERAL, f"User:{USER}", "*", *rule) for rule in rules]
    for made in client.create_acls([AclBinding(*rule) for rule in whole]).values():
        made.result(60)
    yield
    for gone in client.delete_acls([AclBindingFilter(*rule) for rule in whole]).values():
        gone.result(60)


def told(ingested: BridgeStream, word: str) -> None:
    """Wait until the condition blames the credentials and says that."""
    ingested.reason("NotAuthenticated", 30)
    eventually(lambda: word in ingested.condition()["message"], 30)


def as_files(entries: dict[str, str]) -> dict[str, str]:
    """As `kubectl create secret --from-file` takes them from a system whose editors end lines with CR LF."""
    files = {name: text.replace("\n", "\r\n").rstrip() for name, text in entries.items()}
    for name in ("sasl.username", "sasl.password"):
        files[name] += "\r\n"
    return {name: f"\ufeff{text}" for name, text in files.items()} | {"ssl.key.password": "\n"}


def _pkcs8(issued: trustme.LeafCert) -> bytes:
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
