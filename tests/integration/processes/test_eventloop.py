"""Connections that are reset while they are made take no descriptor of another thread with them."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_connections_that_are_reset_close_no_file_of_another_thread(scheme: str) -> None:
    """In a process of its own: libuv aborts where it is its own descriptor that somebody has closed."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.resets", scheme], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stdout + run.stderr
