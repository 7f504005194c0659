"""Downstreams that misbehave, each in a way of its own and towards users of their own, for what others feel of it."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import trustme

from devenv.journal import STEPS
from tests.chaos.nameserver import DOWNSTREAM
from tests.support.eventually import eventually
from tests.support.pipeline import Pipeline
from tests.support.replicas import Link
from tests.support.wire import tls_server

#: Users whose calls meet one of them at a time.
USERS = 10
#: Of all streams: each of these users is called again every few seconds, for as long as a misbehaviour lasts.
PATIENCE = {"timeoutSeconds": 5, "busyDelaySeconds": 2, "retry": {"initialSeconds": 2, "maxSeconds": 2}}


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """One way to misbehave; from `begin` to `end`."""

    name: str
    #: The stream of its users.
    pipeline: Pipeline
    begin: Callable[[], None]
    end: Callable[[], None]
    #: Whether a status tells that a call has met it.
    felt: Callable[[dict[str, Any]], bool]

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Beside the block; AssertionError where one of its users felt nothing of it."""
        users = [f"{self.name} {number}" for number in range(USERS)]
        self.begin()
        self.pipeline.produce(users, 1)
        yield
        met = {each["spec"]["user"]: each.get("status", {}) for each in self.pipeline.ingested.unfinished()}
        missing = [user for user in users if user not in met or not self.felt(met[user])]
        assert missing == [], f"{self.name} was not met by {missing}: {met}"
        self.end()
        eventually(lambda: self.pipeline.unfinished() == 0, 60)


def answering(pipeline: Pipeline, name: str, **rule: Any) -> Misbehaviour:
    """The sample downstream by a rule, on the stream of everybody."""
    busy = rule["action"] == "answer"
    return Misbehaviour(
        name,
        pipeline,
        lambda: pipeline.processing.rules({"name": name, "user": f"{name} *", **rule}),
        lambda: pipeline.processing.rules(),
        lambda status: bool(status.get("busyCount" if busy else "attempts")),
    )


def of_one_stream(pipeline: Pipeline) -> list[Misbehaviour]:
    """Those that one downstream can have towards some of its users."""
    headers = {"Retry-After": "2"}
    return [
        answering(pipeline, "big headers", action="answer", status=503, headers={"X-Big": "x" * 60_000, **headers}),
        answering(pipeline, "byte order mark", action="answer", body='\ufeff{"status": "NOT_READY"}'),
        answering(pipeline, "closed connection", action="reset", at="answer", applied=False),
        answering(pipeline, "403 with Retry-After", action="answer", status=403, headers=headers),
    ]


def hanging_name(pipeline: Pipeline, link: Link) -> Misbehaviour:
    """A stream whose downstream's name the nameserver behind the link does not resolve."""
    port = pipeline.processing.environment.downstream_url.rpartition(":")[2]
    apply(pipeline, f"http://{DOWNSTREAM}:{port}")
    return Misbehaviour(
        "hanging name", pipeline, link.hold, lambda: link.hold(False), lambda status: bool(status.get("attempts"))
    )


@contextmanager
def missing_certificate(pipeline: Pipeline) -> Iterator[Misbehaviour]:
    """A stream that shows no client certificate to a downstream that wants one, by TLS 1.3."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    stream = pipeline.ingested
    data = {"ca.crt": base64.b64encode(authority.cert_pem.bytes()).decode()}
    secrets = f"/api/v1/namespaces/{stream.namespace}/secrets"
    stream.kube.call("POST", secrets, {"metadata": {"name": "trusted"}, "data": data})

    def drop() -> None:
        for update in stream.unfinished():
            stream.kube.delete(stream.namespace, "userupdates", update["metadata"]["name"])

    def felt(status: dict[str, Any]) -> bool:
        return any(each["reason"] == "StepMisconfigured" for each in status.get("conditions", ()))

    with tls_server(context) as url:
        apply(pipeline, url.rstrip("/"), secretRef={"name": "trusted"})
        yield Misbehaviour("missing certificate", pipeline, lambda: None, drop, felt)


def apply(pipeline: Pipeline, url: str, **step: Any) -> None:
    """Create the stream, with that url in front of each step's name."""
    pipeline.ingested.apply(steps={name: {"url": f"{url}/{name}", **PATIENCE, **step} for name in STEPS})
