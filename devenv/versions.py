"""The version that a program says it has."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence


def version_of(command: Sequence[str]) -> tuple[int, int] | None:
    """The first `major.minor` that a command prints; None where it cannot be run or prints none."""
    release = release_of(command)
    if release is None:
        return None
    major, minor = release.split(".")[:2]
    return int(major), int(minor)


def release_of(command: Sequence[str]) -> str | None:
    """The first `major.minor` or `major.minor.patch` that a command prints; None as above."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr) if done.returncode == 0 else None
    return found[0] if found else None
