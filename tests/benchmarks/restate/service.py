"""The three steps as a handler of Restate's Python SDK, after its example of event processing from Kafka.

The key is the user, so one event of a user runs at a time; each step is a `ctx.run_typed`, journaled before the next
one begins; a busy downstream is asked again after `ctx.sleep`. `hypercorn tests.benchmarks.restate.service:app`.
"""

from __future__ import annotations

import os
from datetime import timedelta
from functools import cache
from typing import Any

import aiohttp
import orjson
import restate

BUSY = "NOT_READY"
BUSY_SECONDS = 5
_DOWNSTREAM = os.environ.get("DOWNSTREAM_URL", "")


@cache
def session() -> aiohttp.ClientSession:
    """One pool for all calls, without a limit: made by the first call, on the loop that serves."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
    )


async def call(step: str, key: str, body: dict[str, str]) -> dict[str, str]:
    """One call; `{"status": "NOT_READY"}` where the downstream is busy. Raises what Restate tries again."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    async with session().post(f"{_DOWNSTREAM}/{step}", data=orjson.dumps(body), headers=headers) as response:
        raw = await response.read()
        if response.status in (429, 503):
            return {"status": BUSY}
        response.raise_for_status()
        answer: dict[str, str] = orjson.loads(raw)
        return answer


async def execute(ctx: Any, event: dict[str, str]) -> None:
    """One event of the user `ctx.key()`."""
    key = ctx.request().id
    body = {"user": ctx.key(), "profile": event["profile"]}
    profile = await patiently(ctx, "profile", key, body)
    body = {"userId": profile["userId"], "permissions": event["permissions"]}
    permissions = await patiently(ctx, "permissions", key, body)
    body = {"userId": profile["userId"], "roleId": permissions["roleId"], "resources": event["resources"]}
    await patiently(ctx, "resources", key, body)


async def patiently(ctx: Any, step: str, key: str, body: dict[str, str]) -> dict[str, str]:
    while True:
        answer: dict[str, str] = await ctx.run_typed(step, call, step=step, key=f"{key}/{step}", body=body)
        if answer.get("status") != BUSY:
            return answer
        await ctx.sleep(timedelta(seconds=BUSY_SECONDS))


updates = restate.VirtualObject("UserUpdates")
updates.handler("execute")(execute)
app = restate.app([updates])
