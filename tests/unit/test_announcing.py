"""How many Events a process writes: a noisy stream takes from its own bucket, and all together from one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

from controller.engine.announcing import BURST, Announcer
from controller.recorder import EventRecorder
from controller.streams import Suspend
from tests.builders import make_stream


class Written:
    """Takes creates, and keeps whom they regard."""

    def __init__(self) -> None:
        self.regarding: list[str] = []

    async def create(self, _: Any, __: str, manifest: dict[str, Any], *, timeout: float) -> None:
        self.regarding.append(manifest["regarding"]["name"])


async def announced(whole: int, *times: int) -> list[int]:
    """How many Events of each stream are written, of so many that there are to write."""
    written = Written()
    recorder = EventRecorder(cast(Any, written), "controller", "controller", burst=whole)
    running = make_stream()
    stopped = replace(running, suspend=Suspend(processing=True))
    for number, count in enumerate(times):
        announcer = Announcer(recorder)
        for _ in range(count):
            announcer.stream_changed(replace(stopped, name=str(number)), running)
        await asyncio.gather(*recorder._writes)
    return [written.regarding.count(str(number)) for number in range(len(times))]


def test_a_noisy_stream_has_its_own_bucket() -> None:
    assert asyncio.run(announced(1000, 100, 3)) == [BURST, 3]


def test_many_streams_have_one_together() -> None:
    assert asyncio.run(announced(40, *[10] * 8)) == [10, 10, 10, 10, 0, 0, 0, 0]
