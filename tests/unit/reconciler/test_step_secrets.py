"""Secrets of steps: one request for all who want the same one; which entries are headers, and which cannot be."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Any, cast

import pytest

from controller import errors
from controller.core.outcomes import NotCalled
from controller.reconciler import step_secrets
from controller.reconciler.step_secrets import CallCredentials, StepSecrets
from tests.support.eventually import Stopwatch

BODY: dict[str, Any] = {
    "metadata": {"name": "token"},
    "data": {"Authorization": base64.b64encode(b"Bearer x\n").decode()},
}


class Server:
    """Answers a GET on the loop's next turns, or when the test says so."""

    def __init__(self, answer: dict[str, Any] | Exception) -> None:
        self.answer = answer
        self.asked = 0
        self.answering = asyncio.Event()
        self.answering.set()

    async def get(self, *_: Any) -> dict[str, Any]:
        self.asked += 1
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        await self.answering.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def read_by(server: Server, workers: int, secrets: StepSecrets | None = None) -> list[Any]:
    secrets = secrets or StepSecrets(cast(Any, server), "default")
    return list(await asyncio.gather(*(secrets.read("token") for _ in range(workers)), return_exceptions=True))


@pytest.mark.parametrize("answer", [BODY, errors.NotFound("no such Secret"), errors.Forbidden("no right")])
async def test_a_thousand_lanes_ask_once(answer: dict[str, Any] | Exception) -> None:
    server = Server(answer)
    found = await read_by(server, 1000)
    assert server.asked == 1
    wanted = CallCredentials({"Authorization": "Bearer x"}) if answer is BODY else None
    assert found == [wanted] * 1000


async def test_a_thousand_lanes_have_one_error_together() -> None:
    """The calls asked one after the other, each for as long as a request takes to fail."""
    server = Server(errors.Unavailable("away"))
    secrets = StepSecrets(cast(Any, server), "default")
    found = await read_by(server, 1000, secrets)
    assert server.asked == 1
    assert {type(each) for each in found} == {errors.Unavailable}
    server.answer = BODY
    assert await read_by(server, 1, secrets) == [CallCredentials({"Authorization": "Bearer x"})]


async def test_what_was_known_serves_while_the_api_server_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_secrets, "FRESH_SECONDS", 0.0)
    server = Server(BODY)
    secrets = StepSecrets(cast(Any, server), "default")
    before = await read_by(server, 1, secrets)
    server.answer = errors.Unavailable("away")
    assert await read_by(server, 1, secrets) == before


async def test_what_was_known_serves_while_an_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call waits as long as a slow API server takes."""
    monkeypatch.setattr(step_secrets, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(step_secrets, "PATIENCE_SECONDS", 0.01)
    server = Server(BODY)
    secrets = StepSecrets(cast(Any, server), "default")
    before = await read_by(server, 1, secrets)
    server.answering.clear()
    watch = Stopwatch()
    assert await asyncio.wait_for(read_by(server, 1000, secrets), 60) == before * 1000
    assert watch.seconds < 5
    assert server.asked == 2
    server.answering.set()
    server.answer = {**BODY, "data": {}}
    assert await read_by(server, 1, secrets) == [CallCredentials({})]


async def test_one_who_gives_up_ends_the_read_of_nobody_else() -> None:
    server = Server(BODY)
    server.answering.clear()
    secrets = StepSecrets(cast(Any, server), "default")
    first, second = (asyncio.create_task(secrets.read("token")) for _ in range(2))
    await asyncio.wait({first, second}, timeout=0.01)
    first.cancel()
    server.answering.set()
    assert await second == CallCredentials({"Authorization": "Bearer x"})
    assert server.asked == 1


async def test_one_that_comes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_secrets, "MISSING_SECONDS", 0.0)
    server = Server(errors.NotFound("no such Secret"))
    secrets = StepSecrets(cast(Any, server), "default")
    assert await read_by(server, 1, secrets) == [None]
    server.answer = BODY
    assert await read_by(server, 1, secrets) != [None]


def secret(kind: str, entries: Mapping[str, str | bytes]) -> dict[str, Any]:
    raw = {name: value if isinstance(value, bytes) else value.encode() for name, value in entries.items()}
    data = {name: base64.b64encode(value).decode() for name, value in raw.items()}
    return {"metadata": {"name": "downstream"}, "type": kind, "data": data}


KEY = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n"
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
PAIR: dict[str, str | bytes] = {"tls.crt": PEM, "tls.key": KEY, "ca.crt": PEM}
FILES: dict[str, str | bytes] = {"tls-combined.pem": KEY + PEM, "key.der": b"\x30\x82", "keystore.p12": b"\x30\xff"}


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer x"}])
def test_the_further_files_of_a_tls_secret_are_no_headers(headers: dict[str, str]) -> None:
    """cert-manager writes such entries if a Certificate asks for other formats."""
    found = CallCredentials.of(secret("kubernetes.io/tls", {**PAIR, **FILES, **headers}))
    assert isinstance(found, CallCredentials)
    assert found.headers == headers
    assert found.tls and found.tls.key == KEY.strip()


@pytest.mark.parametrize(
    ("entry", "value", "fault"),
    [
        ("client.pem", KEY, "is a private key"),
        ("client.pem", KEY.replace("\n", " "), "is a private key"),
        ("chain", PEM, "holds characters"),
        ("keystore.p12", b"\x30\x82\x00\xff", "holds characters"),
        ("X-Name", "Zo\u00eb", "holds characters"),
    ],
)
@pytest.mark.parametrize("more", [{}, PAIR], ids=["alone", "beside a pair"])
def test_what_cannot_be_a_header_is_named_and_not_sent(
    entry: str, value: str | bytes, fault: str, more: dict[str, str | bytes]
) -> None:
    found = CallCredentials.of(secret("Opaque", {entry: value, "Authorization": "Bearer x", **more}))
    assert isinstance(found, NotCalled)
    assert f"the entry {entry} of Secret downstream cannot be sent as a header, as it {fault}" in found.message
    assert "MC4CAQ" not in found.message and "Bearer" not in found.message


@pytest.mark.parametrize(
    "kind", ["kubernetes.io/basic-auth", "kubernetes.io/ssh-auth", "kubernetes.io/dockerconfigjson"]
)
def test_secrets_of_other_types_of_kubernetes_are_not_sent(kind: str) -> None:
    found = CallCredentials.of(secret(kind, {"username": "me", "password": "secret"}))
    assert isinstance(found, NotCalled)
    assert kind in found.message and "downstream" in found.message


@pytest.mark.parametrize("kind", ["", "Opaque", "example.com/token"])
def test_each_entry_of_any_other_secret_is_a_header(kind: str) -> None:
    found = CallCredentials.of(secret(kind, {"Authorization": "Bearer x\n", "X.Tenant": "a"}))
    assert found == CallCredentials({"Authorization": "Bearer x", "X.Tenant": "a"})
