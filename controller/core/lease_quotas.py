"""How controllers share the Leases of all streams: which of them acquires a free one, and which releases one. Pure.

All controllers see the same Leases and compute the same quotas from them, so each knows its own quota without asking
the others. The Leases are divided evenly, and the remainder stays with the controllers that hold the most. So each
Lease that has to move moves once, and none moves for a small difference.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Seconds for which a free Lease is left to controllers below their quota. Then any controller acquires it: a Lease
#: that somebody holds matters more than who holds it.
RELUCTANT_SECONDS = 0.5
#: Seconds within which, of the controllers below their quota, the one with the fewest Leases goes first.
FEWER_FIRST_SECONDS = 0.25


def quotas(held: Mapping[str, int], total: int) -> dict[str, int]:
    """How many of `total` Leases each living controller is to hold.

    `held` has the number that each holds now, by identity, also where it is 0.
    """
    order = sorted(held, key=lambda controller: (-held[controller], controller))
    whole, rest = divmod(total, len(order))
    return {controller: whole + (rank < rest) for rank, controller in enumerate(order)}


def surplus(own: str, held: Mapping[str, int], total: int) -> int:
    """How many Leases this controller holds beyond its quota.

    0 while the most and the fewest that a controller holds differ by at most one and a tenth of an even share.
    """
    share = total // len(held)
    if max(held.values()) - min(held.values()) <= 1 + share // 10:
        return 0
    return max(0, held[own] - quotas(held, total)[own])


def patience(own: str, held: Mapping[str, int], total: int) -> float:
    """Seconds for which this controller leaves a free Lease to the others."""
    quota = quotas(held, total)[own]
    if held[own] < quota:
        return FEWER_FIRST_SECONDS * held[own] / quota if len(held) > 1 else 0.0
    more = (held[own] - quota) / max(total, 1)
    return RELUCTANT_SECONDS + FEWER_FIRST_SECONDS * more if len(held) > 1 else 0.0
