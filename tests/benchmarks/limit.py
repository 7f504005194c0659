"""The bare limit: a minimal client of one process that does what every event costs anyway, and nothing else.

It reads the same records, makes the same create, the same three calls with the same headers and the same three status
patches with the same bodies, each carrying the resourceVersion; one event of a user at a time. There is no watch, no
Lease, no restart, no retry, no collection: the first answer that is not 2xx ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import ssl
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import confluent_kafka as ck
import orjson
import uvloop

GROUP = "/apis/enrichment.dev/v1alpha1"
BATCH = 500
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
STEPS = ("profile", "permissions", "resources")


@dataclass(frozen=True, slots=True)
class Target:
    """Where events come from and what is done with them."""

    bootstrap_servers: str
    topic: str
    topic_id: str
    stream: str
    namespace: str
    #: The step's address is this and its name.
    downstream: str
    #: Users that are worked on at a time.
    concurrency: int

    def name(self, offset: int) -> str:
        return f"{self.stream}-{self.topic_hex}-p00000-{offset:019d}"

    @property
    def topic_hex(self) -> str:
        return base64.urlsafe_b64decode(self.topic_id + "==").hex()[:6]


@dataclass(frozen=True, slots=True)
class Event:
    user: str
    offset: int
    timestamp_ms: int
    fields: Mapping[str, str]
    #: Offset of the user's event before this one.
    after: int | None


def manifest(target: Target, event: Event) -> dict[str, Any]:
    """The bridge's object of the record."""
    name = target.name(event.offset)
    source = {
        "topic": target.topic,
        "topicId": target.topic_id,
        "partition": 0,
        "offset": event.offset,
        "timestamp": _text(datetime.fromtimestamp(event.timestamp_ms / 1000, UTC)),
    }
    if event.after is not None:
        source["after"] = target.name(event.after)
    return {
        "apiVersion": "enrichment.dev/v1alpha1",
        "kind": "UserUpdate",
        "metadata": {
            "name": name,
            "namespace": target.namespace,
            "labels": {
                "enrichment.dev/stream": target.stream,
                "enrichment.dev/user": event.user,
                "enrichment.dev/bucket": str(hashlib.sha256(event.user.encode()).digest()[0] % 64),
            },
        },
        "spec": {
            "stream": target.stream,
            "user": event.user,
            "sequence": event.offset,
            **event.fields,
            "source": source,
        },
    }


def status_after(done: list[dict[str, Any]], first_time: datetime, now: datetime) -> dict[str, Any]:
    """The controller's status after so many steps; `first_time` is when the first was recorded."""
    count = len(done)
    over = count == len(STEPS)
    reason = "Succeeded" if over else "Running"
    message = "all steps done" if over else f"{STEPS[count - 1]} done, {STEPS[count]} next"
    return {
        "phase": reason,
        "step": None if over else STEPS[count],
        "attempts": 0,
        "misconfiguredCount": None,
        "busyCount": 0,
        "nextAttemptTime": None,
        "startTime": done[0]["startTime"],
        "run": 0,
        "steps": done,
        "conditions": [
            {
                "type": "Succeeded",
                "status": "True" if over else "Unknown",
                "reason": reason,
                "message": message,
                "lastTransitionTime": _text(now if over else first_time),
            }
        ],
        "handledRequest": None,
        "refusedRequest": None,
        "held": None,
    }


def step_record(step: str, result: dict[str, str], started: datetime, ended: datetime) -> dict[str, Any]:
    return {
        "name": step,
        "result": result,
        "attempts": 1,
        "startTime": _text(started),
        "completionTime": _text(ended),
    }


class ApiServer:
    """The two writes, each with the account that may do it."""

    def __init__(self, session: aiohttp.ClientSession, target: Target, creator: Path, patcher: Path) -> None:
        config = json.loads(creator.read_text())
        cluster = config["clusters"][0]["cluster"]
        self._session = session
        self._tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._collection = f"{cluster['server']}{GROUP}/namespaces/{target.namespace}/userupdates"
        self._creates = {"Authorization": _bearer(creator), "Accept": JSON, "Content-Type": JSON}
        self._patches = {"Authorization": _bearer(patcher), "Accept": JSON, "Content-Type": MERGE_PATCH}

    async def create(self, body: dict[str, Any]) -> str:
        """The new object's resourceVersion."""
        return await self._send("POST", self._collection, body, self._creates)

    async def patch_status(self, name: str, status: dict[str, Any], version: str) -> str:
        body = {"metadata": {"resourceVersion": version}, "status": status}
        return await self._send("PATCH", f"{self._collection}/{name}/status", body, self._patches)

    async def _send(self, method: str, url: str, body: dict[str, Any], headers: Mapping[str, str]) -> str:
        async with self._session.request(
            method, url, data=orjson.dumps(body), headers=headers, ssl=self._tls
        ) as response:
            raw = await response.read()
            if response.status >= 300:
                raise SystemExit(f"{method} {url}: {response.status} {raw[:300]!r}")
            return str(orjson.loads(raw)["metadata"]["resourceVersion"])


class Limit:
    """One queue a user; as many users at a time as the concurrency says."""

    def __init__(self, target: Target, api: ApiServer, session: aiohttp.ClientSession) -> None:
        self._target = target
        self._api = api
        self._session = session
        self._queues: dict[str, deque[Event]] = {}
        self._last: dict[str, int] = {}
        self._ready: asyncio.Queue[str] = asyncio.Queue()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), daemon=True).start()
        async with asyncio.TaskGroup() as group:
            for _ in range(self._target.concurrency):
                group.create_task(self._work())

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        consumer = ck.Consumer(
            {
                "bootstrap.servers": self._target.bootstrap_servers,
                "group.id": self._target.stream,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 100,
            }
        )
        consumer.subscribe([self._target.topic])
        while True:
            first = consumer.poll(1.0)
            if first is not None and first.error() is None:
                loop.call_soon_threadsafe(self._take, [first, *consumer.consume(BATCH - 1, 0)])

    def _take(self, messages: list[ck.Message]) -> None:
        for message in messages:
            user = (message.key() or b"").decode()
            offset = message.offset() or 0
            fields = orjson.loads(message.value() or b"")
            event = Event(user, offset, message.timestamp()[1], fields, self._last.get(user))
            self._last[user] = offset
            queue = self._queues.get(user)
            if queue is None:
                self._queues[user] = deque([event])
                self._ready.put_nowait(user)
            else:
                queue.append(event)

    async def _work(self) -> None:
        while True:
            user = await self._ready.get()
            queue = self._queues[user]
            await self._apply(queue[0])
            queue.popleft()
            if queue:
                self._ready.put_nowait(user)
            else:
                del self._queues[user]

    async def _apply(self, event: Event) -> None:
        name = self._target.name(event.offset)
        version = await self._api.create(manifest(self._target, event))
        results: dict[str, str] = {}
        done: list[dict[str, Any]] = []
        first_time = datetime.now(UTC)
        for step in STEPS:
            started = datetime.now(UTC)
            result = await self._call(event, name, step, results)
            ended = datetime.now(UTC)
            if not done:
                first_time = ended
            done.append(step_record(step, result, started, ended))
            results |= result
            version = await self._api.patch_status(name, status_after(done, first_time, ended), version)

    async def _call(self, event: Event, name: str, step: str, results: Mapping[str, str]) -> dict[str, str]:
        target = self._target
        body = {**(results or {"user": event.user}), step: event.fields[step]}
        headers = {
            "Content-Type": JSON,
            "Accept": JSON,
            "Accept-Encoding": "identity",
            "User-Agent": "userupdates",
            "Idempotency-Key": f"{target.namespace}/{name}/{step}/0",
            "Enrichment-Stream": target.stream,
            "Enrichment-User": event.user,
            "Enrichment-Sequence": str(event.offset),
            "Enrichment-Source": f"{target.topic_id}/0",
        }
        async with self._session.post(
            f"{target.downstream}/{step}", data=orjson.dumps(body), headers=headers
        ) as response:
            answer: dict[str, str] = orjson.loads(await response.read())
            if response.status >= 300:
                raise SystemExit(f"{step} of {name}: {response.status}")
            return answer


def _text(time: datetime) -> str:
    return f"{time.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _bearer(kubeconfig: Path) -> str:
    return f"Bearer {json.loads(kubeconfig.read_text())['users'][0]['user']['token']}"


async def _main(target: Target, creator: Path, patcher: Path) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        await Limit(target, ApiServer(session, target, creator, patcher), session).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bootstrap-servers", "topic", "topic-id", "stream", "namespace", "downstream"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--creator", type=Path, required=True, help="kubeconfig of the account that creates")
    parser.add_argument("--patcher", type=Path, required=True, help="kubeconfig of the account that patches")
    given = vars(parser.parse_args())
    creator, patcher = given.pop("creator"), given.pop("patcher")
    uvloop.run(_main(Target(**given), creator, patcher))


if __name__ == "__main__":
    main()
