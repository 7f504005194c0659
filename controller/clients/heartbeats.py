"""Watches the Leases of other processes: which of them are alive.

An observer compares the versions of a Lease and counts seconds by its own monotonic clock. It never reads the times in
a Lease, as clocks differ (docs/decisions/0008-signs-of-life.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Generic, TypeVar

from controller import errors
from controller.clients.cluster import LEASES, Body, Cluster
from controller.logs import retrying

logger = logging.getLogger(__name__)

K = TypeVar("K")

#: Seconds after which a Lease that is gone is forgotten.
FORGET_SECONDS = 3600.0


async def poll_leases(
    cluster: Cluster, namespace: str | None, label: str, seconds: float, *, metadata_only: bool = False
) -> AsyncIterator[list[Body]]:
    """Lists the Leases with that label again and again, `seconds` apart; in all namespaces where none is given.

    Never ends and raises nothing. A failure is logged once, until a list succeeds.
    """
    failing = False
    while True:
        try:
            listing = await cluster.list(LEASES, namespace, label_selector=label, metadata_only=metadata_only)
        except errors.ApiError as error:
            if not failing:
                retrying(logger, "Leases not listed", error, label=label, namespace=namespace)
            failing = True
        else:
            failing = False
            yield listing.items
        await asyncio.sleep(seconds)


class Heartbeats(Generic[K]):
    """When each Lease was last seen to be renewed, by its key. Pure: times are monotonic and passed in.

    Where two observations lie far apart, the age of every heartbeat begins at 0 again: this process was frozen or cut
    off, or the API server was away, perhaps for the other processes too.
    """

    def __init__(self, every: float) -> None:
        """`every`: seconds between two observations."""
        self._every = every
        self._versions: dict[K, str] = {}
        #: When each Lease was last seen to be renewed, or first asked for.
        self._since: dict[K, float] = {}
        #: When each Lease was seen to be renewed, or to appear.
        self._changed: dict[K, float] = {}
        self._began: float | None = None
        self._observed = float("-inf")

    def observe(self, versions: Mapping[K, str], now: float) -> None:
        """The resourceVersion of each Lease that there is now."""
        first = self._began is None
        if now - self._observed > 3 * self._every:
            self._began = now
            self._since = dict.fromkeys(self._since, now)
        self._observed = now
        for key, version in versions.items():
            if self._versions.get(key) != version:
                self._since[key] = now
                if not first:  # a Lease that is there from the beginning may be of any age
                    self._changed[key] = now
        self._versions = dict(versions)
        old = now - FORGET_SECONDS
        self._since = {key: at for key, at in self._since.items() if key in versions or at > old}
        self._changed = {key: at for key, at in self._changed.items() if key in self._since}

    def age(self, key: K, now: float) -> float:
        """Seconds since the Lease was last seen to be renewed, or since it was first asked for.

        0 before the first observation, and while observations fail.
        """
        since = self._since.setdefault(key, now)
        return 0.0 if now - self._observed > 3 * self._every else now - since

    def youngest_age(self, keys: Iterable[K], now: float) -> float:
        """Seconds since any of these Leases was renewed; without any, since the first observation."""
        if self._began is None or now - self._observed > 3 * self._every:
            return 0.0
        return now - max((self._since.get(key, self._began) for key in keys), default=self._began)

    def alive(self, key: K, now: float, within: float) -> bool:
        """Whether the Lease is there and was seen to be renewed in the last `within` seconds."""
        return key in self._versions and now - self._changed.get(key, float("-inf")) <= within

    @property
    def known(self) -> Iterable[K]:
        """The keys that are remembered."""
        return self._since.keys()
