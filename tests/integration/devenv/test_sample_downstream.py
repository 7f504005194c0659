"""The sample downstream: what it remembers, how it is told, and that its journal suffices to judge order."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson

from controller.api.update_stream import StepSpec
from controller.clients.downstream import Downstream
from controller.core.outcomes import Done, Rejected, Retry
from controller.core.steps import PERMISSIONS, PROFILE, RESOURCES, STEPS
from devenv import journal
from devenv.downstream_calls import CallLog
from devenv.downstream_rules import read_rules
from tests.support.eventually import eventually_async
from tests.support.wire import Wire, made


async def test_a_repeated_key_gets_the_first_answer_and_is_done_once(wire: Wire) -> None:
    first, repeat, other = await wire.call(key="a"), await wire.call(key="a"), await wire.call(key="b")
    assert first == repeat != other
    assert [record["replayed"] for record in wire.records("end")] == [False, True, False]
    assert wire.sample.log.stats()["applied"]["profile"] == 2


async def test_work_that_was_cut_off_is_done_once(wire: Wire) -> None:
    await wire.rules({"action": "slow", "seconds": 30, "count": 1})
    assert isinstance(await wire.call(timeout=0.1), Retry)
    await wire.until(lambda: len(wire.records("end")) == 1)
    assert await wire.call() == Done({"userId": "u-2"})
    assert [(record["applied"], record["replayed"]) for record in wire.records("end")] == [
        ({"userId": "u-2"}, False),
        (None, True),
    ]


@asynccontextmanager
async def process(data: Path, port: int = 0) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    arguments = ("-m", "devenv.downstream", "--port", str(port), "--data", str(data))
    started = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    assert started.stdout is not None
    line = (await asyncio.wait_for(started.stdout.readline(), 60)).decode()
    try:
        yield started, line.split()[3].rstrip(",")
    finally:
        if started.returncode is None:
            started.terminate()
        await started.wait()


async def test_a_killed_downstream_knows_what_it_did(tmp_path: Path) -> None:
    """Keys, answers, the journal, the rules and their uses survive SIGKILL."""

    async def journal_names_c() -> bool:
        return b'"user":"c"' in (tmp_path / "journal.jsonl").read_bytes()

    rules = [{"name": "two", "user": "b", "action": "fail", "count": 2}, {"user": "c", "action": "hang"}]
    async with Downstream() as client, aiohttp.ClientSession() as session:
        async with process(tmp_path) as (sample, url):
            endpoint = StepSpec(f"{url}/profile")
            async with session.put(f"{url}/control/rules", json=rules) as response:
                assert response.status == 200
            first = await client.call(PROFILE, endpoint, made("a"), "a")
            assert isinstance(await client.call(PROFILE, endpoint, made("b"), "b"), Retry)
            hanging = asyncio.create_task(client.call(PROFILE, endpoint, made("c"), "c"))
            await eventually_async(journal_names_c)
            sample.send_signal(signal.SIGKILL)
            assert isinstance(await hanging, Retry)
        async with process(tmp_path) as (sample, url):
            endpoint = StepSpec(f"{url}/profile")
            assert await client.call(PROFILE, endpoint, made("a"), "a") == first
            assert isinstance(await client.call(PROFILE, endpoint, made("b"), "b"), Retry)
            assert isinstance(await client.call(PROFILE, endpoint, made("b"), "b"), Done)
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


async def run_user(wire: Wire, user: str, sequences: list[int]) -> None:
    """As the controller would: updates one by one, each step until it is done."""
    for sequence in sequences:
        results: dict[str, str] = {}
        for step in STEPS:
            update, key = made(user, sequence, results), f"{user}/{sequence}/{step.name}"
            while not isinstance(outcome := await wire.call(step, update, key, timeout=3), Done):
                assert isinstance(outcome, Retry)
            results.update(outcome.result)


async def test_the_checker_accepts_users_in_parallel_under_faults(wire: Wire) -> None:
    await wire.rules(
        {"user": "user-1", "step": "profile", "action": "hang", "sequence": 2, "count": 1},
        {"user": "user-2", "action": "reset", "count": 2},
        {"user": "user-3", "action": "drip", "intervalSeconds": 0.05, "count": 1},
        {"user": "user-4", "action": "fail", "count": 2},
        {"user": "user-5", "action": "huge", "count": 1},
    )
    users = [f"user-{number}" for number in range(20)]
    await asyncio.gather(*(run_user(wire, user, [1, 2, 3]) for user in users))
    finished = [(user, sequence) for user in users for sequence in (1, 2, 3)]
    expected = journal.Expectations(finished=finished, only=finished)
    assert journal.check(journal.read_calls(wire.records()), expected) == []
    assert wire.sample.log.stats()["applied"] == {"profile": 60, "permissions": 60, "resources": 60}


async def test_the_checker_finds_a_user_whose_updates_run_at_once(wire: Wire) -> None:
    """The negative proof: the same calls without the discipline of a queue."""
    await wire.rules({"action": "slow", "seconds": 0.02})
    await asyncio.gather(*(run_user(wire, "ana", [sequence]) for sequence in (3, 2, 1)))
    found = {violation.rule for violation in journal.check(journal.read_calls(wire.records()))}
    assert {journal.Rule.OVERLAP, journal.Rule.SEQUENCE} <= found


async def test_a_closed_connection_is_noticed_before_the_next_call_is_recorded(wire: Wire) -> None:
    """Also where the loop has had no turn to see the one end before the other begins."""
    await wire.rules({"action": "hang"})
    headers = {"Enrichment-Stream": "s", "Enrichment-User": "ana", "Enrichment-Sequence": "1", "Idempotency-Key": "k"}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    client = socket.create_connection(("127.0.0.1", int(wire.url.rpartition(":")[2])))
    client.sendall(f"POST /profile HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 2\r\n\r\n{{}}".encode())
    await wire.until(lambda: len(wire.records("begin")) == 1)
    still = wire.sample.log.begin("profile", {**headers, "Idempotency-Key": "while open"}, b"{}", lambda: False)
    client.close()
    wire.sample.log.begin("profile", {**headers, "Idempotency-Key": "after"}, b"{}", lambda: False)
    assert [record["kind"] for record in wire.records()] == ["start", "begin", "begin", "gone", "begin"]
    wire.sample.log.end(still)
    overlaps = [found.calls for found in journal.check(journal.read_calls(wire.records())) if found.rule == "Overlap"]
    assert overlaps == [(2, 3), (3, 5)]


async def test_control_endpoint(wire: Wire) -> None:
    async with aiohttp.ClientSession(wire.url) as session:
        for body, want in [
            (b"[", "the rules are not JSON"),
            (b'[{"name": "x", "action": "busy", "count": "3"}]', "rule 1 (x), field count: must be a whole number"),
        ]:
            async with session.put("/control/rules", data=body) as response:
                assert (response.status, want in await response.text()) == (422, True)
        await wire.rules({"name": "x", "action": "busy", "count": 3})
        await wire.call()
        async with session.get("/control/rules") as response:
            shown = await response.json()
        assert (shown["uses"], shown["rules"][0]["action"]) == ({"x": 1}, "busy")
        async with session.delete("/control/rules") as response:
            assert response.status == 204
        assert isinstance(await wire.call(), Done)
        async with session.get("/stats") as response:
            assert (await response.json())["calls"] == {"profile": 2, "permissions": 0, "resources": 0}
        async with session.get("/journal", params={"after": "3"}) as response:
            assert [orjson.loads(line)["n"] for line in (await response.text()).splitlines()] == [4, 5]
        async with session.get("/journal", params={"after": "x"}) as response:
            assert response.status == 422
        async with session.delete("/journal") as response:
            assert response.status == 204
        assert await wire.call() == Done({"userId": "u-7"})


async def test_a_request_without_what_a_step_needs_is_refused(wire: Wire) -> None:
    async with aiohttp.ClientSession(wire.url) as session:
        for body in (b"[", b"[]", b'{"user": "ana"}', b'{"user": "ana", "profile": 7}'):
            async with session.post("/profile", data=body) as response:
                assert response.status == 400
    assert [record["applied"] for record in wire.records("end")] == [None] * 4


def test_a_script_is_read_once_and_again_when_it_changes(tmp_path: Path) -> None:
    script = tmp_path / "rules.json"
    script.write_text('[{"name": "scripted", "action": "busy"}]')
    data = tmp_path / "data"

    def names() -> list[str]:
        log = CallLog(data, script)
        log.journal.close()
        return [rule.name for rule in log.book.rules.rules]

    assert names() == ["scripted"]
    log = CallLog(data, script)
    log.replace_rules(read_rules([{"name": "put", "action": "busy"}]))
    log.journal.close()
    assert names() == ["put"]
    script.write_text('[{"name": "changed", "action": "busy"}]')
    assert names() == ["changed"]
