"""The client and the sample downstream over real sockets: each way in which a downstream misbehaves."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from controller.devenv.downstream import SampleDownstream, serving
from controller.downstream import Downstream
from controller.outcomes import Busy, Done, Misconfigured, Outcome, Rejected, Retry
from controller.steps import PERMISSIONS, PROFILE, RESOURCES, STEPS, Step
from controller.streams import StepSpec
from controller.updates import Source, Status, StepRecord, UpdateSpec, UserUpdate

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
TOPIC_ID = "AAAAAAAAAAAAAAAAAAAAAQ"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def make_update(
    user: str = "userid1", sequence: int = 42, results: dict[str, str] | None = None, traceparent: str | None = None
) -> UserUpdate:
    source = Source("user-updates", TOPIC_ID, 0, sequence, NOW, traceparent)
    records = (StepRecord("earlier", results, 1, NOW, NOW),) if results else ()
    return UserUpdate(
        "default",
        f"user-updates-{sequence}",
        "uid",
        1,
        NOW,
        UpdateSpec("user-updates", user, sequence, "dev", "all", "some", source=source),
        Status(steps=records),
    )


async def eventually(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        await asyncio.sleep(0.005)


class Wire:
    """A client and an in-process sample downstream between which real sockets lie."""

    def __init__(self, client: Downstream, sample: SampleDownstream, url: str) -> None:
        self.client, self.sample, self.url = client, sample, url

    async def call(
        self, step: Step = PROFILE, update: UserUpdate | None = None, key: str = "k", timeout: float = 5.0
    ) -> Outcome:
        endpoint = StepSpec(f"{self.url}/{step.name}", timeout_seconds=timeout)
        update = update or make_update(results={"userId": "u-0", "roleId": "r-0"})
        return await self.client.call(step, endpoint, update, key)

    async def rules(self, *rules: dict[str, Any]) -> None:
        async with aiohttp.ClientSession() as session:
            async with session.put(f"{self.url}/control/rules", json=list(rules)) as response:
                assert response.status == 200, await response.text()

    def records(self, kind: str | None = None) -> list[dict[str, Any]]:
        lines = b"".join(self.sample.log.journal.read()).splitlines()
        return [record for record in map(orjson.loads, lines) if kind in (None, record["kind"])]


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    sample = SampleDownstream(tmp_path)
    async with serving(sample) as url, Downstream() as client:
        yield Wire(client, sample, url)


async def test_three_steps_pass_on_what_they_were_given(wire: Wire) -> None:
    results: dict[str, str] = {}
    for step in STEPS:
        outcome = await wire.call(step, make_update(results=results), key=f"k/{step.name}")
        assert isinstance(outcome, Done)
        results.update(outcome.result)
    assert results == {"userId": "u-2", "roleId": "r-4"}
    assert [record["body"] for record in wire.records("begin")] == [
        {"user": "userid1", "profile": "dev"},
        {"userId": "u-2", "permissions": "all"},
        {"userId": "u-2", "roleId": "r-4", "resources": "some"},
    ]


async def test_headers_say_whose_call_it_is(wire: Wire) -> None:
    await wire.call(update=make_update("Zoë/ 🦉\n", 7, traceparent=TRACEPARENT), key="default/name/profile/0")
    begin = wire.records("begin")[0]
    want = {
        "stream": "user-updates",
        "user": "Zoë/ 🦉\n",
        "sequence": 7,
        "source": f"{TOPIC_ID}/0",
        "key": "default/name/profile/0",
        "traceparent": TRACEPARENT,
    }
    assert {name: begin[name] for name in want} == want


@pytest.mark.parametrize("traceparent", ["nonsense", "00-1-2-01", f"{TRACEPARENT}\r\nX-Injected: 1"])
async def test_a_traceparent_that_is_none_is_not_sent(wire: Wire, traceparent: str) -> None:
    assert isinstance(await wire.call(update=make_update(traceparent=traceparent)), Done)
    assert wire.records("begin")[0]["traceparent"] is None


async def test_a_repeated_key_gets_the_first_answer_and_is_done_once(wire: Wire) -> None:
    first, repeat, other = await wire.call(key="a"), await wire.call(key="a"), await wire.call(key="b")
    assert first == repeat != other
    assert [record["replayed"] for record in wire.records("end")] == [False, True, False]
    assert wire.sample.log.stats()["applied"]["profile"] == 2


@pytest.mark.parametrize(
    ("rule", "want"),
    [
        ({"action": "busy"}, Busy("503 from profile")),
        ({"action": "busy", "status": 429, "retryAfter": 7}, Busy("429 from profile", 7.0)),
        ({"action": "busy", "status": 200, "retryAfter": "-3"}, Busy("NOT_READY from profile")),
        ({"action": "busy", "retryAfter": "Mon, 23 Nov 2099 12:00:00 GMT"}, Busy("503 from profile", 300.0)),
        ({"action": "fail", "status": 502}, Retry("502 from profile")),
        ({"action": "reject"}, Rejected("422 from profile")),
        ({"action": "reject", "status": 401}, Misconfigured("401 from profile: check the step's url and credentials")),
        ({"action": "reject", "status": 404}, Misconfigured("404 from profile: check the step's url and credentials")),
        ({"action": "reset"}, Retry("connection to profile broke off in the middle of the answer")),
        ({"action": "reset", "at": "answer"}, Retry("connection reset by profile")),
        ({"action": "huge"}, Retry("200 from profile, but the answer is longer than 64 KiB")),
        ({"action": "notJson"}, Retry("200 from profile, but the answer is not JSON")),
        ({"action": "missingId"}, Retry("200 from profile, but without userId")),
        (
            {"action": "wrongTypes"},
            Retry("200 from profile, but userId is no text of 1 to 1,024 characters"),
        ),
        ({"action": "gzip"}, Done({"userId": "u-2"})),
        ({"action": "drip", "intervalSeconds": 0.001}, Done({"userId": "u-2"})),
        ({"action": "slow", "seconds": 0.05}, Done({"userId": "u-2"})),
        ({"action": "hang", "seconds": 0.05}, Retry("connection reset by profile")),
        ({"action": "answer", "status": 408, "body": "x"}, Retry("408 from profile")),
        (
            {"action": "answer", "headers": {"Content-Encoding": "gzip"}, "body": '{"userId": "u"}'},
            Done({"userId": "u"}),
        ),
        (
            {"action": "answer", "headers": {"Content-Encoding": "br"}, "body": "??"},
            Retry("200 from profile, but the answer is not JSON"),
        ),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
async def test_misbehaviour_is_an_outcome(wire: Wire, rule: dict[str, Any], want: Outcome) -> None:
    await wire.rules(rule)
    assert await wire.call() == want
    await wire.rules()
    assert isinstance(await wire.call(key="next"), Done)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(wire: Wire, status: int) -> None:
    await wire.rules({"action": "redirect", "status": status})
    assert isinstance(await wire.call(), Misconfigured)
    assert wire.sample.log.stats()["strays"] == 0


@pytest.mark.parametrize(
    "rule",
    [{"action": "hang"}, {"action": "slow", "seconds": 30}, {"action": "drip", "intervalSeconds": 0.05}],
    ids=lambda rule: rule["action"],
)
async def test_a_time_out_is_that_of_the_whole_call_and_closes_the_connection(wire: Wire, rule: dict[str, Any]) -> None:
    await wire.rules(rule)
    started = time.monotonic()
    assert await wire.call(timeout=0.2) == Retry("no answer from profile within 0.2 s")
    assert 0.2 <= time.monotonic() - started < 2.0
    await eventually(lambda: [record["gone"] for record in wire.records("end")] == [True])


@pytest.mark.parametrize("action", ["hang", "drip"])
async def test_cancelling_closes_the_connection(wire: Wire, action: str) -> None:
    await wire.rules({"action": action, **({"intervalSeconds": 0.1} if action == "drip" else {})})
    task = asyncio.create_task(wire.call(timeout=60))
    await eventually(lambda: len(wire.records("begin")) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: [record["gone"] for record in wire.records("end")] == [True])


async def test_closing_the_client_ends_calls_in_flight(wire: Wire) -> None:
    await wire.rules({"action": "hang"})
    task = asyncio.create_task(wire.call(timeout=60))
    await eventually(lambda: len(wire.records("begin")) == 1)
    await wire.client.aclose()
    assert isinstance(await task, Retry)


async def test_work_that_was_cut_off_is_done_once(wire: Wire) -> None:
    await wire.rules({"action": "slow", "seconds": 30, "count": 1})
    assert isinstance(await wire.call(timeout=0.1), Retry)
    await eventually(lambda: len(wire.records("end")) == 1)
    assert await wire.call() == Done({"userId": "u-2"})
    assert [(record["applied"], record["replayed"]) for record in wire.records("end")] == [
        ({"userId": "u-2"}, False),
        (None, True),
    ]


async def test_hanging_users_keep_nobody_waiting(wire: Wire) -> None:
    await wire.rules({"action": "hang", "user": "stuck-*"})
    stuck = [asyncio.create_task(wire.call(update=make_update(f"stuck-{n}"), timeout=60)) for n in range(400)]
    await eventually(lambda: wire.sample.log.stats()["inFlight"] == 400, seconds=10)
    started = time.monotonic()
    assert isinstance(await wire.call(update=make_update("free"), key="free"), Done)
    assert time.monotonic() - started < 1.0
    for task in stuck:
        task.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)


async def test_connection_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with Downstream() as client:
            endpoint = StepSpec(f"http://127.0.0.1:{unused.getsockname()[1]}/profile")
            outcome = await client.call(PROFILE, endpoint, make_update(), "k")
    assert outcome == Retry("connection refused by profile")


@pytest.mark.parametrize(
    ("url", "want"),
    [
        ("http://no-such-host.invalid/", Retry("no address found for no-such-host.invalid, the host of profile")),
        ("ftp://127.0.0.1/", Misconfigured),
        ("nonsense", Misconfigured),
        ("http://127.0.0.1:99999/", Misconfigured),
    ],
)
async def test_urls_that_cannot_work(url: str, want: Any) -> None:
    async with Downstream() as client:
        outcome = await client.call(PROFILE, StepSpec(url), make_update(), "k")
    assert outcome == want if isinstance(want, Retry) else isinstance(outcome, want)


@asynccontextmanager
async def raw_server(*chunks: bytes) -> AsyncIterator[str]:
    """Answers each connection with these bytes and closes it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for chunk in chunks:
            writer.write(chunk)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@pytest.mark.parametrize(
    ("sent", "want"),
    [
        (b"", "connection closed by profile before it answered"),
        (b"220 mail.example ESMTP\r\n", "the answer of profile is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", "the answer of profile is not HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{",
            "connection to profile broke off in the middle of the answer",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "the answer of profile is not HTTP",
        ),
        (b"HTTP/1.1 777 Odd\r\nContent-Length: 0\r\n\r\n", "777 from profile"),
        (
            b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (1 << 20),
            "200 from profile, but the answer is longer than 64 KiB",
        ),
    ],
    ids=["nothing", "not-http", "huge-header", "cut-off", "bad-chunk", "odd-status", "endless"],
)
async def test_bytes_that_no_http_server_sends(sent: bytes, want: str) -> None:
    async with raw_server(sent) as url, Downstream() as client:
        outcome = await client.call(PROFILE, StepSpec(url, timeout_seconds=5), make_update(), "k")
    assert outcome == Retry(want)


async def test_https_to_a_plain_server_is_a_failure_with_a_cause(wire: Wire) -> None:
    endpoint = StepSpec(wire.url.replace("http:", "https:"), timeout_seconds=5)
    outcome = await wire.client.call(PROFILE, endpoint, make_update(), "k")
    assert outcome == Retry("no TLS connection to profile: does its url say https where it speaks http?")


async def test_cookies_of_one_user_do_not_reach_the_next(wire: Wire) -> None:
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(
            b'HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 14\r\nConnection: close\r\n\r\n{"userId": "u"}'[:-1]
        )
        writer.close()

    server = await asyncio.start_server(answer, "localhost", 0, family=socket.AF_INET)
    async with server:
        endpoint = StepSpec(f"http://localhost:{server.sockets[0].getsockname()[1]}/")
        for key in ("a", "b"):
            await wire.client.call(PROFILE, endpoint, make_update(), key)
    assert len(seen) == 2
    assert b"cookie" not in b"".join(seen).lower()


@asynccontextmanager
async def process(data: Path, port: int = 0) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    arguments = ("-m", "controller.devenv.downstream", "--port", str(port), "--data", str(data))
    started = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    assert started.stdout is not None
    line = (await asyncio.wait_for(started.stdout.readline(), 20)).decode()
    try:
        yield started, line.split()[3].rstrip(",")
    finally:
        if started.returncode is None:
            started.terminate()
        await started.wait()


async def test_a_killed_downstream_knows_what_it_did(tmp_path: Path) -> None:
    """Keys, answers, the journal, the rules and their uses survive SIGKILL."""
    rules = [{"name": "two", "user": "b", "action": "fail", "count": 2}, {"user": "c", "action": "hang"}]
    async with Downstream() as client, aiohttp.ClientSession() as session:
        async with process(tmp_path) as (sample, url):
            endpoint = StepSpec(f"{url}/profile")
            async with session.put(f"{url}/control/rules", json=rules) as response:
                assert response.status == 200
            first = await client.call(PROFILE, endpoint, make_update("a"), "a")
            assert isinstance(await client.call(PROFILE, endpoint, make_update("b"), "b"), Retry)
            hanging = asyncio.create_task(client.call(PROFILE, endpoint, make_update("c"), "c"))
            await eventually(lambda: b'"user":"c"' in (tmp_path / "journal.jsonl").read_bytes())
            sample.send_signal(signal.SIGKILL)
            assert isinstance(await hanging, Retry)
        async with process(tmp_path) as (sample, url):
            endpoint = StepSpec(f"{url}/profile")
            assert await client.call(PROFILE, endpoint, make_update("a"), "a") == first
            assert isinstance(await client.call(PROFILE, endpoint, make_update("b"), "b"), Retry)
            assert isinstance(await client.call(PROFILE, endpoint, make_update("b"), "b"), Done)
            async with session.get(f"{url}/journal") as response:
                records = [orjson.loads(line) for line in (await response.read()).splitlines()]
            sample.terminate()
            assert await sample.wait() == 0
    assert [record["n"] for record in records] == list(range(1, len(records) + 1))
    kinds = "start begin end begin end begin start begin end begin end begin end".split()
    assert [record["kind"] for record in records] == kinds


async def test_permissions_and_resources_can_be_ruled_apart(wire: Wire) -> None:
    await wire.rules({"step": "permissions", "sequence": 42, "action": "reject", "count": 1})
    assert isinstance(await wire.call(PROFILE), Done)
    assert isinstance(await wire.call(PERMISSIONS, key="p"), Rejected)
    assert isinstance(await wire.call(PERMISSIONS, key="p"), Done)
    assert isinstance(await wire.call(RESOURCES, key="r"), Done)
