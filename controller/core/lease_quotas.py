"""How controllers share the Leases of all streams: who takes a free one, who gives one away. Pure.

Every controller computes the same from what all of them see, so that each knows its own part without asking anybody:
the whole is divided evenly, and what does not divide stays with those who have the most. So all that has to move moves
once, and nothing moves where the difference is not worth it.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Seconds for which a free Lease is left to controllers that have fewer than their part; after them anybody takes it:
#: that somebody works comes before who it is.
RELUCTANT_SECONDS = 0.5
#: Among those that have fewer than their part the one with the fewest goes first, within so many seconds.
FEWER_FIRST_SECONDS = 0.25


def quotas(held: Mapping[str, int], total: int) -> dict[str, int]:
    """How many of `total` Leases each living controller is to have; `held`: how many each has now, none included."""
    order = sorted(held, key=lambda controller: (-held[controller], controller))
    whole, rest = divmod(total, len(order))
    return {controller: whole + (rank < rest) for rank, controller in enumerate(order)}


def surplus(own: str, held: Mapping[str, int], total: int) -> int:
    """How many this controller has too many; 0 while the most and the fewest differ by a tenth of a part and one."""
    part = total // len(held)
    if max(held.values()) - min(held.values()) <= 1 + part // 10:
        return 0
    return max(0, held[own] - quotas(held, total)[own])


def patience(own: str, held: Mapping[str, int], total: int) -> float:
    """Seconds for which this controller leaves a free Lease to others."""
    part = quotas(held, total)[own]
    if held[own] < part:
        return FEWER_FIRST_SECONDS * held[own] / part if len(held) > 1 else 0.0
    more = (held[own] - part) / max(total, 1)
    return RELUCTANT_SECONDS + FEWER_FIRST_SECONDS * more if len(held) > 1 else 0.0
