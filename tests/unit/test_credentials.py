"""Secrets of steps: one request for all who want the same one, whether it is there or not."""

from __future__ import annotations

import asyncio
import base64
from typing import Any, cast

import pytest

from controller import errors
from controller.engine import credentials
from controller.engine.credentials import CallCredentials, Credentials

BODY = {"data": {"Authorization": base64.b64encode(b"Bearer x\n").decode()}}


class Server:
    """Answers a GET on the loop's next turns."""

    def __init__(self, answer: dict[str, Any] | Exception) -> None:
        self.answer = answer
        self.asked = 0

    async def get(self, *_: Any) -> dict[str, Any]:
        self.asked += 1
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def read_by(server: Server, lanes: int, secrets: Credentials | None = None) -> list[CallCredentials | None]:
    secrets = secrets or Credentials(cast(Any, server), "default")
    return list(await asyncio.gather(*(secrets.read("token") for _ in range(lanes))))


@pytest.mark.parametrize("answer", [BODY, errors.NotFound("no such Secret"), errors.Forbidden("no right")])
async def test_a_thousand_lanes_ask_once(answer: dict[str, Any] | Exception) -> None:
    server = Server(answer)
    found = await read_by(server, 1000)
    assert server.asked == 1
    wanted = CallCredentials({"Authorization": "Bearer x"}) if answer is BODY else None
    assert found == [wanted] * 1000


async def test_what_was_known_serves_while_the_api_server_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "FRESH_SECONDS", 0.0)
    server = Server(BODY)
    secrets = Credentials(cast(Any, server), "default")
    before = await read_by(server, 1, secrets)
    server.answer = errors.Unavailable("away")
    assert await read_by(server, 1, secrets) == before
    with pytest.raises(errors.Unavailable):
        await read_by(server, 1)


async def test_one_that_comes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "MISSING_SECONDS", 0.0)
    server = Server(errors.NotFound("no such Secret"))
    secrets = Credentials(cast(Any, server), "default")
    assert await read_by(server, 1, secrets) == [None]
    server.answer = BODY
    assert await read_by(server, 1, secrets) != [None]
