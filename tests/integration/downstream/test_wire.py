"""The client over real sockets: each way in which a downstream or the network misbehaves."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api.update_stream import StepSpec
from controller.clients.downstream import Downstream
from controller.core.outcomes import Busy, Done, Misconfigured, NotCalled, Outcome, Rejected, Retry
from controller.core.steps import PROFILE, STEPS
from devenv.environment import Environment
from tests.support.eventually import Stopwatch
from tests.support.records import TOPIC_ID, TRACEPARENT
from tests.support.wire import Wire, made


async def test_three_steps_pass_on_what_they_were_given(wire: Wire) -> None:
    results: dict[str, str] = {}
    for step in STEPS:
        outcome = await wire.call(step, made(results=results), key=f"k/{step.name}")
        assert isinstance(outcome, Done)
        results.update(outcome.result)
    assert results == {"userId": "u-2", "roleId": "r-4"}
    assert [record["body"] for record in wire.records("begin")] == [
        {"user": "userid1", "profile": "dev"},
        {"userId": "u-2", "permissions": "all"},
        {"userId": "u-2", "roleId": "r-4", "resources": "some"},
    ]


@pytest.mark.parametrize("status", [400, 401, 500])
async def test_what_a_downstream_shows_of_its_credentials_is_in_no_message(wire: Wire, status: int) -> None:
    """Some answer with the request that they refuse; a message is in statuses and Events, and cut short after 200."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        said = b"x" * 150 + b"".join(line for line in lines if line.lower().startswith((b"a:", b"x-api-key:")))
        writer.write(b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n%b" % (status, len(said), said))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    endpoint = StepSpec(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    secret = {"A": "Bearer eyJhbGciOi.eyJzdWI", "X-Api-Key": "0123456789abcdef" * 8}
    async with server:
        outcome = await wire.client.call(PROFILE, endpoint, made(), "k", secret)
    assert isinstance(outcome, Rejected | Misconfigured | Retry)
    assert f"{status} from profile" in outcome.message and "xxx" in outcome.message
    for words in ("eyJ", "0123456"):
        assert words not in outcome.message, outcome.message


async def test_headers_say_whose_call_it_is(wire: Wire) -> None:
    await wire.call(update=made("Zoë/ 🦉\n", 7, traceparent=TRACEPARENT), key="default/name/profile/0")
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
    assert isinstance(await wire.call(update=made(traceparent=traceparent)), Done)
    assert wire.records("begin")[0]["traceparent"] is None


@pytest.mark.parametrize(
    ("rule", "want"),
    [
        ({"action": "busy"}, Busy("503 from profile")),
        ({"action": "busy", "status": 429, "retryAfter": 7}, Busy("429 from profile", 7.0)),
        ({"action": "busy", "status": 200, "retryAfter": "-3"}, Busy("NOT_READY from profile")),
        ({"action": "busy", "retryAfter": "Mon, 23 Nov 2099 12:00:00 GMT"}, Busy("503 from profile", 300.0)),
        ({"action": "fail", "status": 502}, Retry('502 from profile: {"error":"fail by rule-1"}')),
        ({"action": "reject"}, Rejected('422 from profile: {"error":"reject by rule-1"}')),
        (
            {"action": "reject", "status": 401},
            Misconfigured('401 from profile: check the step\'s url and credentials: {"error":"reject by rule-1"}'),
        ),
        (
            {"action": "reject", "status": 404},
            Misconfigured('404 from profile: check the step\'s url and credentials: {"error":"reject by rule-1"}'),
        ),
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
        ({"action": "answer", "status": 408, "body": "x"}, Retry("408 from profile: x")),
        ({"action": "answer", "status": 403, "headers": {"Retry-After": "7"}}, Busy("403 from profile", 7.0)),
        (
            {"action": "answer", "status": 422, "body": "no\r\n\x1b[31m such\tuser"},
            Rejected("422 from profile: no [31m such user"),
        ),
        ({"action": "answer", "status": 500, "body": "x" * 300}, Retry(f"500 from profile: {'x' * 200}")),
        ({"action": "answer", "body": '\ufeff{"userId": "u"}'}, Done({"userId": "u"})),
        ({"action": "answer", "body": '\ufeff{"status": "NOT_READY"}'}, Busy("NOT_READY from profile")),
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
    started, watch = time.monotonic(), Stopwatch()
    assert await wire.call(timeout=0.2) == Retry("no answer from profile within 0.2 s")
    assert 0.2 <= time.monotonic() - started
    assert watch.seconds < 2.0
    await wire.until(lambda: [record["gone"] for record in wire.records("end")] == [True])


@pytest.mark.parametrize("action", ["hang", "drip"])
async def test_cancelling_closes_the_connection(wire: Wire, action: str) -> None:
    await wire.rules({"action": action, **({"intervalSeconds": 0.1} if action == "drip" else {})})
    task = asyncio.create_task(wire.call(timeout=60))
    await wire.until(lambda: len(wire.records("begin")) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wire.until(lambda: [record["gone"] for record in wire.records("end")] == [True])


async def test_closing_the_client_ends_calls_in_flight(wire: Wire) -> None:
    await wire.rules({"action": "hang"})
    task = asyncio.create_task(wire.call(timeout=60))
    await wire.until(lambda: len(wire.records("begin")) == 1)
    await wire.client.aclose()
    assert isinstance(await task, Retry)


async def test_hanging_users_keep_nobody_waiting(wire: Wire) -> None:
    await wire.rules({"action": "hang", "user": "stuck-*"})
    stuck = [asyncio.create_task(wire.call(update=made(f"stuck-{n}"), timeout=60)) for n in range(400)]
    await wire.until(lambda: wire.sample.log.stats()["inFlight"] == 400, within=10)
    watch = Stopwatch()
    assert isinstance(await wire.call(update=made("free"), key="free"), Done)
    assert watch.seconds < 1.0
    for task in stuck:
        task.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)


async def test_connection_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with Downstream() as client:
            endpoint = StepSpec(f"http://127.0.0.1:{unused.getsockname()[1]}/profile")
            outcome = await client.call(PROFILE, endpoint, made(), "k")
    assert outcome == Retry("connection refused by profile")


@pytest.mark.parametrize(
    ("url", "want"),
    [
        ("http://no-such-host.invalid/", Retry("no address found for no-such-host.invalid, the host of profile")),
        ("ftp://127.0.0.1/", NotCalled),
        ("nonsense", NotCalled),
        ("http://127.0.0.1:99999/", NotCalled),
    ],
)
async def test_urls_that_cannot_work(url: str, want: Any) -> None:
    async with Downstream() as client:
        outcome = await client.call(PROFILE, StepSpec(url), made(), "k")
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
        (b"220 mail.example ESMTP\r\n", "the answer of profile is not HTTP (Bad status line)"),
        (
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
            "the answer of profile is not HTTP (Got more than 65536 bytes when reading)",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
            "the answer of profile is not HTTP (Duplicate Content-Length)",
        ),
        (
            b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"x" * 10_000 + b"\r\n") * 7 + b"Content-Length: 0\r\n\r\n",
            "200 from profile, but its headers are longer than 64 KiB",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{",
            "connection to profile broke off in the middle of the answer",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "the answer of profile is not HTTP (Invalid character in chunk size)",
        ),
        (b"HTTP/1.1 777 Odd\r\nContent-Length: 0\r\n\r\n", "777 from profile"),
        (
            b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (1 << 20),
            "200 from profile, but the answer is longer than 64 KiB",
        ),
    ],
    ids=[
        "nothing",
        "not-http",
        "huge-header",
        "two-lengths",
        "huge-headers",
        "cut-off",
        "bad-chunk",
        "odd-status",
        "endless",
    ],
)
async def test_bytes_that_no_http_server_sends(sent: bytes, want: str) -> None:
    async with raw_server(sent) as url, Downstream() as client:
        outcome = await client.call(PROFILE, StepSpec(url, timeout_seconds=5), made(), "k")
    assert outcome == Retry(want)


BEGINNINGS = (
    b"",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n",
    b"HTTP/1.1 503\r\nRetry-After: ",
)


@settings(max_examples=150)
@given(st.sampled_from(BEGINNINGS), st.lists(st.binary(max_size=60), max_size=3))
async def test_any_bytes_that_a_server_sends_are_an_outcome(beginning: bytes, rest: list[bytes]) -> None:
    async with raw_server(beginning, *rest) as url, Downstream() as client:
        outcome = await client.call(PROFILE, StepSpec(url, timeout_seconds=2), made(), "k")
    assert isinstance(outcome, get_args(Outcome))
    if isinstance(outcome, Busy):
        assert outcome.retry_after is None or 1 <= outcome.retry_after <= 300


@pytest.mark.parametrize(
    "headers",
    [b"X: " + b"x" * 60_000 + b"\r\n", b"".join(b"X-%d: y\r\n" % number for number in range(900))],
    ids=["one of 60 KB", "nine hundred"],
)
async def test_headers_of_up_to_64_kib_are_read(headers: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\n" + headers + b'Content-Length: 15\r\n\r\n{"userId": "u"}'
    async with raw_server(answer) as url, Downstream() as client:
        outcome = await client.call(PROFILE, StepSpec(url, timeout_seconds=5), made(), "k")
    assert outcome == Done({"userId": "u"})


GOOD = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"userId": "u"}'


@asynccontextmanager
async def forgetful(answers: int) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Keeps each connection for so many answers without saying so, and closes it when the next request comes."""
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(answers):
            seen.append(await reader.readuntil(b"}"))
            writer.write(GOOD)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", seen


async def test_a_kept_connection_that_is_closed_is_made_good_on_a_new_one() -> None:
    async with forgetful(1) as (url, seen), Downstream() as client:
        outcomes = [await client.call(PROFILE, StepSpec(url), made(), f"k{number}") for number in range(20)]
    assert outcomes == [Done({"userId": "u"})] * 20
    keys = [next(line for line in each.split(b"\r\n") if b"dempotency" in line).split()[1] for each in seen]
    assert keys == [b"k%d" % number for number in range(20)], "each with its key, and answered once"


async def test_a_call_is_not_made_anew_where_something_else_is_to_be_done_by_then() -> None:
    async with forgetful(1) as (url, seen), Downstream() as client:
        await client.call(PROFILE, StepSpec(url), made(), "a")
        outcome = await client.call(PROFILE, StepSpec(url), made(), "b", may_repeat=lambda: False)
    assert isinstance(outcome, Retry)
    assert len(seen) == 1


async def test_a_call_is_made_anew_once_and_no_more() -> None:
    """A server that closes new connections as well is at fault."""
    async with forgetful(1) as (url, _), Downstream() as client:
        await client.call(PROFILE, StepSpec(url), made(), "a")
        async with forgetful(0) as (other, seen):
            assert isinstance(await client.call(PROFILE, StepSpec(other), made(), "b"), Retry)
    assert seen == []


async def test_https_to_a_plain_server_is_a_failure_with_a_cause(wire: Wire) -> None:
    endpoint = StepSpec(wire.url.replace("http:", "https:"), timeout_seconds=5)
    outcome = await wire.client.call(PROFILE, endpoint, made(), "k")
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
            await wire.client.call(PROFILE, endpoint, made(), key)
    assert len(seen) == 2
    assert b"cookie" not in b"".join(seen).lower()


async def test_a_certificate_that_nobody_vouches_for_is_not_trusted(environment: Environment) -> None:
    """The API server's own will do: it signed it itself."""
    endpoint = StepSpec(environment.url("apiserver").replace("http:", "https:"), timeout_seconds=5)
    async with Downstream() as client:
        outcome = await client.call(PROFILE, endpoint, made(), "k")
    assert isinstance(outcome, Retry)
    assert outcome.message.startswith("certificate of profile is not trusted: ")
