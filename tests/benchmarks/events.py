"""The records of a run: the same for every contender, but for the topic. Each event has a number in its `resources`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import confluent_kafka as ck
import orjson

from devenv.errors import CommandFailed

_SECONDS = 60.0


def users_in_turns(events: int, users: int, first: int = 0, behind: int = 0) -> Iterator[tuple[int, str]]:
    """(number, user) of so many events, from number `first` on: `u0`, `u1`, …, `u0`, …; without the first `behind`."""
    return ((number, f"u{behind + number % users}") for number in range(first, first + events))


def value(number: int) -> bytes:
    return orjson.dumps({"profile": "dev", "permissions": "all", "resources": f"all-{number:06d}"})


class Producer:
    """Sends events to one topic of one partition and knows when each was sent."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self._topic = topic
        self._failed: list[str] = []
        self._producer = ck.Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 0, "log_level": 0})
        #: Monotonic seconds at which an event was handed to the Kafka client.
        self.sent: dict[int, float] = {}

    def send(self, number: int, user: str) -> None:
        while True:
            try:
                self.sent[number] = time.monotonic()
                self._producer.produce(
                    self._topic, key=user.encode(), value=value(number), partition=0, on_delivery=self._told
                )
                return
            except BufferError:
                self._producer.poll(0.1)

    def burst(self, events: Iterator[tuple[int, str]]) -> None:
        """All at once. Raises CommandFailed where Kafka does not store them."""
        for number, user in events:
            self.send(number, user)
        self.flush()

    def at_rate(self, events: Iterator[tuple[int, str]], rate: float, stop: threading.Event) -> None:
        """One every 1/rate seconds, or until `stop` is set."""
        start = time.monotonic()
        for index, (number, user) in enumerate(events):
            while (wait := start + index / rate - time.monotonic()) > 0:
                if stop.wait(wait):
                    return
            self.send(number, user)
            self._producer.poll(0)
        self.flush()

    def flush(self) -> None:
        left = self._producer.flush(_SECONDS)
        if left or self._failed:
            raise CommandFailed(f"Kafka did not store {left + len(self._failed)} records: {self._failed[:1]}")

    def _told(self, error: ck.KafkaError | None, _: ck.Message) -> None:
        if error is not None:
            self._failed.append(error.str())
