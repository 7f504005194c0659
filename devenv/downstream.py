"""A sample downstream: a small HTTP service that misbehaves by rules and keeps a journal of all calls.

`python -m devenv.downstream --port N --data DIR [--script FILE]`

POST /profile, /permissions, /resources are the three steps. GET /journal?after=N streams what happened as JSON lines,
DELETE /journal forgets it; GET, PUT, DELETE /control/rules set the rules (`downstream_rules`); GET /stats counts.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import resource
import signal
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import uvloop
from aiohttp import web

from devenv.downstream_calls import Call, CallLog, connection_closed, read_json
from devenv.downstream_rules import STEP_NAMES, Rule, RuleError, Rules, read_rules

_STEPS = {f"/{name}": name for name in STEP_NAMES}
#: Close with a reset instead of an orderly end: SO_LINGER on, no seconds.
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Reply:
    """The bytes of an answer, and the journal's record of it."""

    status: int
    body: bytes
    shown: Any
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})

    @classmethod
    def of(cls, status: int, answer: Any, **headers: str) -> Reply:
        return cls(status, orjson.dumps(answer), answer, {"Content-Type": "application/json", **headers})


def compose(rule: Rule, answer: dict[str, Any]) -> Reply:
    """The reply to a call: the good answer, changed by a rule."""
    options = rule.options
    match rule.action:
        case "busy" | "fail" | "reject" | "redirect":
            headers = {"Retry-After": str(options["retryAfter"])} if "retryAfter" in options else {}
            if "location" in options:
                headers["Location"] = options["location"]
            fault = {"status": "NOT_READY"} if options["status"] < 300 else {"error": f"{rule.action} by {rule.name}"}
            return Reply.of(options["status"], fault, **headers)
        case "huge":
            body = orjson.dumps({**answer, "padding": "x" * options["bytes"]})
            return Reply(200, body, {"bytes": len(body)})
        case "gzip":
            headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
            return Reply(200, gzip.compress(orjson.dumps(answer)), answer, headers)
        case "notJson":
            return Reply(200, b"<html>all is well</html>", "<html>all is well</html>", {"Content-Type": "text/html"})
        case "wrongTypes":
            return Reply.of(200, {name: [7] for name in answer} or [7])
        case "missingId":
            return Reply.of(200, {"done": True})
        case "answer":
            body = options["body"].encode()
            return Reply(options["status"], body, read_json(body) or options["body"], options.get("headers", {}))
    return Reply.of(200, answer)


class SampleDownstream:
    """Routes requests; `CallLog` keeps what they did."""

    def __init__(self, data: Path, script: Path | None = None) -> None:
        self.log = CallLog(data, script)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        step = _STEPS.get(request.path)
        if step is not None and request.method == "POST":
            return await self._call(request, step)
        match request.method, request.path:
            case "GET", "/healthz":
                return web.Response(text="ok\n")
            case "GET", "/stats":
                return _json_response(self.log.stats())
            case "GET", "/journal":
                return await self._journal(request)
            case "DELETE", "/journal":
                self.log.clear()
                return web.Response(status=204)
            case "GET", "/control/rules":
                return self._rules()
            case "PUT", "/control/rules":
                return await self._put_rules(request)
            case "DELETE", "/control/rules":
                self.log.replace_rules(Rules())
                return web.Response(status=204)
        self.log.counts.strays += 1
        return _json_response({"error": f"nothing here: {request.method} {request.path}"}, status=404)

    async def _call(self, request: web.BaseRequest, step: str) -> web.StreamResponse:
        raw = await request.read()
        transport = request.transport
        call = self.log.begin(step, request.headers, raw, lambda: connection_closed(transport))
        try:
            return await self._answer(request, call)
        except asyncio.CancelledError:
            call.gone = True
            if _takes_effect(call):
                self.log.apply(call)
            self.log.end(call)
            raise

    async def _answer(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        rule = call.rule
        await self._delay(rule)
        if call.fault is not None and (rule is None or rule.applied):
            reply = Reply.of(400, {"error": call.fault})
        else:
            if _takes_effect(call):
                self.log.apply(call)
            reply = compose(rule, call.answer) if rule else Reply.of(200, call.answer)
        match rule.action if rule else None:
            case "drip":
                return await self._drip(request, call, reply)
            case "hang":
                self.log.end(call)
                return _drop(request)
            case "reset":
                self.log.end(call)
                return await _reset(request, reply, call)
        self.log.end(call, reply.status, reply.shown, reply.headers.get("Retry-After"))
        return web.Response(status=reply.status, body=reply.body, headers=reply.headers)

    async def _delay(self, rule: Rule | None) -> None:
        if rule is None or rule.action not in ("slow", "hang"):
            seconds = self.log.book.rules.latency_seconds
        elif "seconds" in rule.options:
            seconds = rule.options["seconds"]
        else:
            await asyncio.Event().wait()
        if seconds:
            await asyncio.sleep(seconds)

    async def _drip(self, request: web.BaseRequest, call: Call, reply: Reply) -> web.StreamResponse:
        assert call.rule is not None
        response = await _begin_response(request, reply)
        for index in range(len(reply.body)):
            await asyncio.sleep(call.rule.options["intervalSeconds"])
            if index == len(reply.body) - 1:
                self.log.end(call, reply.status, reply.shown)
            await response.write(reply.body[index : index + 1])
        return response

    async def _journal(self, request: web.BaseRequest) -> web.StreamResponse:
        after = request.query.get("after", "0")
        if not after.isdecimal():
            return _json_response({"error": "after must be the number of a record"}, status=422)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for chunk in self.log.journal.read(int(after)):
            await response.write(chunk)
        return response

    def _rules(self) -> web.Response:
        book = self.log.book
        return _json_response({"generation": self.log.generation, "uses": book.uses(), **book.rules.for_json()})

    async def _put_rules(self, request: web.BaseRequest) -> web.Response:
        try:
            self.log.replace_rules(read_rules(orjson.loads(await request.read())))
        except orjson.JSONDecodeError as error:
            return _json_response({"error": f"the rules are not JSON: {error}"}, status=422)
        except RuleError as error:
            return _json_response({"error": str(error)}, status=422)
        return self._rules()


def _takes_effect(call: Call) -> bool:
    """Whether the call takes effect. One that took effect already does not again when its client goes away."""
    return call.applied is None and call.fault is None and (call.rule is None or call.rule.applied)


def _json_response(value: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(value) + b"\n", content_type="application/json")


async def _begin_response(request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    response.content_length = len(reply.body)
    await response.prepare(request)
    return response


async def _reset(request: web.BaseRequest, reply: Reply, call: Call) -> web.StreamResponse:
    """Reset the TCP connection, before the answer or in the middle of its body."""
    assert call.rule is not None
    if call.rule.options["at"] == "body":
        response = await _begin_response(request, reply)
        await response.write(reply.body[: len(reply.body) // 2])
    return _drop(request)


def _drop(request: web.BaseRequest) -> web.StreamResponse:
    transport = request.transport
    if transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()
    return web.Response(status=500)


@asynccontextmanager
async def serving(downstream: SampleDownstream, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve until the block is left, and yield the URL. Port 0 stands for any free port."""
    server = web.Server(downstream.handle, handler_cancellation=True, access_log=None)
    runner = web.ServerRunner(server, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=4096)
        await site.start()
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
        downstream.log.journal.close()


async def _serve(arguments: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    downstream = SampleDownstream(arguments.data, arguments.script)
    async with serving(downstream, arguments.host, arguments.port) as url:
        print(f"sample downstream at {url}, journal in {arguments.data}", flush=True)
        await stopped.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m devenv.downstream", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="0 takes any free one")
    parser.add_argument("--data", type=Path, required=True, help="directory of the journal and the rules")
    parser.add_argument("--script", type=Path, help="JSON file of rules, read once; a changed file replaces the rules")
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        uvloop.run(_serve(arguments))
    except (RuleError, orjson.JSONDecodeError) as error:
        parser.exit(2, f"{arguments.script}: {error}\n")
    except OSError as error:
        parser.exit(1, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
