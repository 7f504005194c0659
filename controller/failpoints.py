"""Places between two effects at which a test kills the process, to see what a restart makes of it.

`USERUPDATES_CRASH_AT=controller.answered` kills at the first passing of that point, `controller.answered:3` at the
third. Unset, as it is in production, a point costs one comparison.
"""

from __future__ import annotations

import os
import signal

_POINT, _, _COUNT = os.environ.get("USERUPDATES_CRASH_AT", "").partition(":")
_left = int(_COUNT or 1)


def reach(point: str) -> None:
    """Kill this process, as SIGKILL does, if it was told to crash here."""
    global _left
    if point != _POINT:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
