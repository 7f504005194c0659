"""Failpoints: places between two effects at which a test kills the process, to see what its restart makes of it.

The words are those of etcd's gofail: code evaluates a failpoint, and a failpoint that is active triggers.
`USERUPDATES_FAILPOINT=controller.answered` kills the process at the first evaluation of that failpoint,
`controller.answered:3` at the third. Where the variable is not set, as in production, an evaluation costs one
comparison.
"""

from __future__ import annotations

import os
import signal

_ACTIVE, _, _COUNT = os.environ.get("USERUPDATES_FAILPOINT", "").partition(":")
_left = int(_COUNT or 1)


def evaluate(failpoint: str) -> None:
    """Kill this process with SIGKILL where the failpoint of that name is active."""
    global _left
    if failpoint != _ACTIVE:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
