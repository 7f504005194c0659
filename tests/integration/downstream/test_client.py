"""The client's logic against a server in the same process; what downstreams and networks do besides is in
`test_downstream_wire`.
"""

from __future__ import annotations

import asyncio
import gzip
import ssl
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import get_args

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDictProxy
from yarl import URL

from controller.api.update_stream import StepSpec
from controller.api.user_update import UserUpdate
from controller.api.user_update_status import Status
from controller.clients.downstream import MAX_ANSWER, Downstream
from controller.core.outcomes import Busy, Done, NotCalled, Outcome, Rejected, Retry
from controller.core.steps import PERMISSIONS, PROFILE, RESOURCES, Step
from tests.support.builders import NOW, make_step_record, make_update

ENDPOINT = StepSpec("http://profiles.example/v1/profile?tenant=a%20b")
GOOD = {"userId": "u-1"}


@dataclass(frozen=True)
class Seen:
    """A request as it came out of the socket."""

    method: str
    url: str
    headers: CIMultiDictProxy[str]
    content: bytes


class Local(aiohttp.abc.AbstractResolver):
    """Every host is the test's server."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[aiohttp.abc.ResolveResult]:
        address = {"hostname": host, "host": "127.0.0.1", "port": self._port, "family": 2, "proto": 0, "flags": 0}
        return [aiohttp.abc.ResolveResult(**address)]  # type: ignore[typeddict-item]

    async def close(self) -> None:
        pass


async def call(
    answer: web.StreamResponse,
    update: UserUpdate | None = None,
    endpoint: StepSpec = ENDPOINT,
    headers: dict[str, str] | None = None,
    seen: Callable[[Seen], object] = lambda request: None,
    step: Step = PROFILE,
) -> Outcome | NotCalled:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        seen(Seen(request.method, str(request.url), request.headers, await request.read()))
        return answer

    async with RawTestServer(handle) as server:
        assert server.port

        def connector(context: ssl.SSLContext, force_close: bool) -> aiohttp.BaseConnector:
            return aiohttp.TCPConnector(resolver=Local(server.port or 0), force_close=force_close)

        async with Downstream(connector, clock=lambda: NOW) as downstream:
            return await downstream.call(step, endpoint, update or make_update(), "the/key", headers)


def good() -> web.Response:
    return web.json_response(GOOD)


async def request_for(update: UserUpdate, headers: dict[str, str] | None = None) -> Seen:
    requests: list[Seen] = []
    assert isinstance(await call(good(), update, headers=headers, seen=requests.append), Done)
    return requests[0]


async def test_the_request() -> None:
    update = make_update(user="Zoë/1", sequence=7)
    request = await request_for(update)
    assert (request.method, request.url) == ("POST", "http://profiles.example/v1/profile?tenant=a%20b")
    assert orjson.loads(request.content) == {"user": "Zoë/1", "profile": "dev"}
    want = {
        "content-type": "application/json",
        "accept-encoding": "identity",
        "idempotency-key": "the/key",
        "enrichment-stream": "user-updates",
        "enrichment-user": "Zo%C3%AB%2F1",
        "enrichment-sequence": "7",
        "enrichment-source": update.source_name,
    }
    assert {name: request.headers[name] for name in want} == want
    assert "traceparent" not in request.headers


async def test_a_hand_made_update_says_so() -> None:
    request = await request_for(make_update(manual=True))
    assert request.headers["enrichment-source"] == "manual"


async def test_headers_of_the_step_are_added_but_replace_none_of_the_calls_own() -> None:
    extra = {"Authorization": "Bearer s3cret", "idempotency-KEY": "mine", "Host": "evil", "X-Team": "a"}
    request = await request_for(make_update(), extra)
    assert request.headers["authorization"] == "Bearer s3cret"
    assert request.headers["x-team"] == "a"
    assert request.headers["idempotency-key"] == "the/key"
    assert request.headers["host"] == "profiles.example"


@pytest.mark.parametrize("value", ["s3cret\n", "s3cret\r\nX: y", "s3crét"])
async def test_a_header_that_cannot_be_sent_blames_the_stream_and_keeps_the_secret(value: str) -> None:
    outcome = await call(good(), headers={"Authorization": value})
    assert isinstance(outcome, NotCalled)
    assert "'Authorization'" in outcome.message
    assert "s3cr" not in outcome.message


async def test_ids_of_earlier_steps_are_sent() -> None:
    requests: list[Seen] = []
    steps = (make_step_record("profile", userId="u-1"), make_step_record("permissions", roleId="r-1"))
    update = make_update(status=Status(steps=steps))

    async def outcome_of(step: Step, update: UserUpdate) -> Outcome | NotCalled:
        return await call(web.json_response({"roleId": "r-1"}), update, seen=requests.append, step=step)

    assert await outcome_of(PERMISSIONS, update) == Done({"roleId": "r-1"})
    assert await outcome_of(RESOURCES, update) == Done({})
    missing = await outcome_of(RESOURCES, make_update())
    assert [orjson.loads(request.content) for request in requests] == [
        {"userId": "u-1", "permissions": "all"},
        {"userId": "u-1", "roleId": "r-1", "resources": "all"},
    ]
    assert missing == Retry("userId is missing in the results of the steps before resources")


async def test_retry_after_is_read_from_the_clock_given() -> None:
    answer = web.Response(status=503, headers={"Retry-After": "Mon, 23 Nov 2026 12:00:30 GMT"})
    assert NOW == datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    assert await call(answer) == Busy("503 from profile", 30.0)


@pytest.mark.parametrize(
    ("length", "want"),
    [(MAX_ANSWER, Done(GOOD)), (MAX_ANSWER + 1, Retry("200 from profile, but the answer is longer than 64 KiB"))],
)
async def test_the_cap_to_the_byte(length: int, want: Outcome) -> None:
    body = orjson.dumps(GOOD)
    assert await call(web.Response(body=body + b" " * (length - len(body)))) == want


@pytest.mark.parametrize(
    ("status", "want"),
    [(503, Busy("503 from profile")), (422, Rejected("422 from profile")), (500, Retry("500 from profile"))],
)
async def test_the_status_of_a_long_answer_still_counts(status: int, want: Outcome) -> None:
    assert await call(web.Response(status=status, body=b"x" * (1 << 20))) == want


async def test_reading_stops_at_the_cap() -> None:
    over = asyncio.Event()

    class Endless(web.StreamResponse):
        async def write_eof(self, data: bytes = b"") -> None:
            try:
                while True:
                    await self.write(b"x" * 1024)
            finally:
                over.set()

    assert isinstance(await call(Endless()), Retry)
    assert over.is_set()


def packed(encoding: str, content: bytes) -> web.Response:
    return web.Response(headers={"Content-Encoding": encoding}, body=content)


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", "deflate"])
async def test_an_answer_that_is_packed_unasked_is_read(encoding: str) -> None:
    pack = zlib.compress if encoding == "deflate" else gzip.compress
    assert await call(packed(encoding, pack(orjson.dumps(GOOD)))) == Done(GOOD)


async def test_a_bomb_is_not_unfolded() -> None:
    bomb = gzip.compress(b'{"userId": "u-1"' + b" " * (20 << 20) + b"}")
    assert len(bomb) < MAX_ANSWER
    assert await call(packed("gzip", bomb)) == Retry("200 from profile, but the answer is longer than 64 KiB")


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "nonsense"])
async def test_an_unknown_encoding_is_no_json(encoding: str) -> None:
    assert await call(packed(encoding, b"\x8b\x00")) == Retry("200 from profile, but the answer is not JSON")


@pytest.mark.parametrize(
    "error", [aiohttp.ClientError("a"), aiohttp.ClientConnectionError("b"), RuntimeError("c"), OSError("d")]
)
async def test_what_goes_wrong_on_the_way_is_retried_without_its_text(error: Exception) -> None:
    class Broken(aiohttp.TCPConnector):
        async def connect(self, *_: object, **__: object) -> aiohttp.connector.Connection:
            raise error

    async with Downstream(lambda *_: Broken()) as downstream:
        outcome = await downstream.call(PROFILE, ENDPOINT, make_update(), "the/key")
    assert isinstance(outcome, Retry)
    assert outcome.message.endswith((type(error).__name__, "connection reset by profile"))


@pytest.mark.parametrize("url", ["", "/profile", "ftp://host/", "http://", "http://host:port/", "http://[::1/"])
async def test_a_url_that_cannot_work_blames_the_stream(url: str) -> None:
    assert isinstance(await call(good(), endpoint=StepSpec(url)), NotCalled)


@given(st.text(min_size=1, max_size=50))
async def test_any_user_fits_into_the_headers(user: str) -> None:
    try:
        user.encode()
    except UnicodeEncodeError:
        return
    update = make_update()
    request = await request_for(replace(update, spec=replace(update.spec, user=user)))
    assert URL("http://x/" + request.headers["enrichment-user"], encoded=True).raw_path.isascii()
    assert request.headers["enrichment-user"].isprintable()


@given(st.integers(200, 599), st.binary(), st.sampled_from(["gzip", "deflate", "br", "identity"]))
async def test_any_answer_is_an_outcome(status: int, body: bytes, encoding: str) -> None:
    outcome = await call(web.Response(status=status, headers={"Content-Encoding": encoding}, body=body))
    assert isinstance(outcome, get_args(Outcome))
