"""Something that goes on beside a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def repeating(act: Callable[[], None], every: float) -> Iterator[None]:
    """`act` each so many seconds, as long as it is entered; what it raises is raised at the end."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(every):
            act()

    with ThreadPoolExecutor(1) as pool:
        repeats = pool.submit(repeat)
        try:
            yield
        finally:
            stop.set()
        repeats.result()
