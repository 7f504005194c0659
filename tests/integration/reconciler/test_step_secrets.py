"""Credentials for downstreams from Secrets: sent, rotated without a restart, and seen nowhere else."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import trustme

from tests.conftest import StartReplica
from tests.support.controller_stream import ControllerStream
from tests.support.eventually import eventually
from tests.support.kube import MERGE_PATCH

#: A changed Secret is used after at most 10 s; what a busy machine adds.
ROTATED = 20
FIRST, SECOND = "token-of-monday-4e7c", "token-of-tuesday-91ab"


@dataclass
class Guarded:
    """A downstream that lets in who shows the token it wants, and who has a certificate of its authority."""

    server: ThreadingHTTPServer
    wanted: str = FIRST
    #: Authorization and the common name of the certificate of each call.
    seen: list[tuple[str, str]] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def guarded(request: pytest.FixtureRequest, authority: trustme.CA) -> Iterator[Guarded]:
    """Over TLS where the test's parameter says so."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            peer = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
            served.seen.append((self.headers.get("Authorization", ""), _common_name(peer or {})))
            allowed = not served.wanted or self.headers.get("Authorization") == f"Bearer {served.wanted}"
            body = json.dumps({"userId": "u", "roleId": "r"}).encode() if allowed else self.headers.as_bytes()
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    served = Guarded(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
    if getattr(request, "param", "") == "tls":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        served.server.socket = context.wrap_socket(served.server.socket, server_side=True)
        served.wanted = ""
    threading.Thread(target=served.server.serve_forever, daemon=True).start()
    yield served
    served.server.shutdown()
    served.server.server_close()


def _common_name(peer: Any) -> str:
    """Of a certificate as Python shows it; empty where there is none."""
    return str(dict(pair for part in peer.get("subject", ()) for pair in part).get("commonName", ""))


def put(stream: ControllerStream, kind: str = "Opaque", **entries: str) -> None:
    """Make or change the Secret of the stream's steps; the type is for making it."""
    path = f"/api/v1/namespaces/{stream.namespace}/secrets"
    if stream.kube.client.get(f"{path}/downstream").status_code == 404:
        stream.kube.call("POST", path, {"metadata": {"name": "downstream"}, "type": kind, "stringData": entries})
    else:
        stream.kube.call("PATCH", f"{path}/downstream", {"stringData": entries}, headers=MERGE_PATCH)


def apply(stream: ControllerStream, url: str) -> None:
    # The url of each step is replaced: these calls do not go to the sample downstream.
    retry = {"initialSeconds": 60, "maxSeconds": 60}  # a Secret that was corrected is not waited for
    stream.apply({"url": url, "secretRef": {"name": "downstream"}, "retry": retry})


def everything_told(stream: ControllerStream, *texts: str) -> str:
    """All that the API server has of this namespace but its Secrets, and `texts`."""
    kinds = "us,uu,re,ub,leases,events,events.events.k8s.io"
    return "\n".join([stream.environment.kubectl("-n", stream.namespace, "get", kinds, "-o", "json"), *texts])


def leaks(told: str, *secrets: str) -> list[str]:
    """Which of them can be read there, plain or in base64 at any alignment."""
    encoded = {
        secret: [base64.b64encode(b"x" * shift + secret.encode())[4:-4] for shift in range(3)] for secret in secrets
    }
    return [
        secret for secret, forms in encoded.items() if secret in told or any(form.decode() in told for form in forms)
    ]


def test_a_rotated_token_is_used_without_a_restart_and_told_to_nobody(
    stream: ControllerStream, guarded: Guarded, start_controller: StartReplica
) -> None:
    put(stream, Authorization=f"Bearer {FIRST}")
    apply(stream, f"http://127.0.0.1:{guarded.port}/")
    controller = start_controller("", "--log-level", "debug")
    stream.until(stream.add("ana", 1), "Succeeded")
    guarded.wanted = SECOND
    refused = stream.add("ana", 2)
    stream.until(refused, "Waiting", "StepMisconfigured")
    held = stream.add("bo", 1, suspend=True)
    stream.until(held, "Waiting", "Suspended")
    told = everything_told(stream)
    put(stream, Authorization=f"Bearer {SECOND}")
    stream.until(refused, "Succeeded", within=ROTATED)
    assert guarded.seen[0][0] == f"Bearer {FIRST}" and guarded.seen[-1][0] == f"Bearer {SECOND}"
    told += everything_told(stream, controller.log.read_text(), controller.metrics())
    assert "401 from profile" in told, "what refuses the token was looked at too"
    assert leaks(told, FIRST, SECOND) == []
    assert leaks(told + FIRST, FIRST) == [FIRST], "the search can find"


@pytest.mark.parametrize("guarded", ["tls"], indirect=True)
def test_a_rotated_client_certificate_is_used_without_a_restart(
    stream: ControllerStream, guarded: Guarded, authority: trustme.CA, start_controller: StartReplica
) -> None:
    def certificate(name: str) -> dict[str, str]:
        issued = authority.issue_cert(f"{name}.example", common_name=name)
        return {
            "tls.crt": issued.cert_chain_pems[0].bytes().decode(),
            "tls.key": issued.private_key_pem.bytes().decode(),
            "ca.crt": authority.cert_pem.bytes().decode(),
        }

    monday, tuesday = certificate("monday"), certificate("tuesday")
    combined = monday["tls.key"] + monday["tls.crt"]  # cert-manager's additionalOutputFormats
    put(stream, "kubernetes.io/tls", **monday, **{"tls-combined.pem": combined})
    apply(stream, f"https://127.0.0.1:{guarded.port}/")
    controller = start_controller("", "--log-level", "debug")
    stream.until(stream.add("ana", 1), "Succeeded")
    assert guarded.seen == [("", "monday")] * 3
    put(stream, **tuesday)

    def rotated() -> bool:
        number = len(stream.phases()) + 1
        stream.until(stream.add("ana", number), "Succeeded")
        return guarded.seen[-1] == ("", "tuesday")

    eventually(rotated, ROTATED, every=1)
    put(stream, **{"tls.key": monday["tls.key"]})

    def refused() -> bool:
        stream.add("bo", len(stream.phases()) + 1)
        return "StepMisconfigured" in {stream.reason(name) for name in stream.phases()}

    eventually(refused, ROTATED, every=1)
    told = everything_told(stream, controller.log.read_text(), controller.metrics())
    assert "no pair of a certificate and its key" in told
    assert leaks(told, *(line for key in (monday, tuesday) for line in key["tls.key"].splitlines()[1:-1])) == []
