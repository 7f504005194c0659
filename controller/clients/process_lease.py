"""Signs of life: a Lease for each process, as kubelets have one for each node, and how those of others are watched.

Such a Lease is no lock: it shows that its process runs and reaches the API server, as the heartbeats of nodes do.
Others compare its versions and count by their own monotonic clock, never by the times in it
(docs/decisions/0008-signs-of-life.md).
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, Literal, TypeAlias, TypeVar

from kubernetes.aio import config

from controller import errors
from controller.api import names, timestamps
from controller.clients.cluster import LEASES, Body, Cluster
from controller.logs import fields, retrying

logger = logging.getLogger(__name__)

Component: TypeAlias = Literal["bridge", "controller"]
K = TypeVar("K")

#: Seconds between renewals, and for one request.
RENEW_SECONDS = 10.0
TIMEOUT = 5.0
#: Seconds without a renewal after which a process is not known to live.
SILENCE_SECONDS = 60.0
#: Seconds without a renewal after which a process reports that itself, before others do.
UNSEEN_SECONDS = 40.0
#: What has been seen and is not any more is forgotten after so many seconds.
FORGET_SECONDS = 3600.0

_IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def own_namespace() -> str:
    """Where this process runs: the in-cluster file's, else that of the kubeconfig's context, else `default`."""
    if "KUBECONFIG" not in os.environ and _IN_CLUSTER.exists():
        return _IN_CLUSTER.read_text(encoding="utf-8").strip()
    try:
        _, context = config.list_kube_config_contexts(os.environ.get("KUBECONFIG"))  # type: ignore[no-untyped-call]
    except config.ConfigException:
        return "default"
    return str(context["context"].get("namespace") or "default")


class Presence:
    """This process's own sign of life."""

    def __init__(self, cluster: Cluster, component: Component, identity: str) -> None:
        self.namespace = own_namespace()
        self.name = names.process_lease_name(component, identity)
        self._cluster = cluster
        self._component = component
        self._identity = identity
        #: When (monotonic) it was renewed last; before the first time, when that began.
        self._renewed = time.monotonic()
        #: Why the last renewal failed; empty: it did not.
        self._error = ""
        #: Whether the log says so.
        self._told = False

    @property
    def trouble(self) -> str:
        """Why others may take this process for dead; empty where they do not."""
        if time.monotonic() - self._renewed < UNSEEN_SECONDS:
            return ""
        return f"Lease {self._path} is not renewed: {self._error or 'no answer'}"

    async def keep(self) -> None:
        """Renew for ever, whatever the API server answers."""
        while True:
            sent = time.monotonic()
            try:
                async with asyncio.timeout(TIMEOUT):
                    await self._renew()
            except (errors.ApiError, TimeoutError) as error:
                self._failed(error)
            else:
                self._renewed = sent
                if self._told:
                    logger.info("Sign of life renewed again", extra=fields(lease=self._path))
                self._error, self._told = "", False
            await asyncio.sleep(RENEW_SECONDS * random.uniform(0.9, 1.0))

    async def leave(self) -> None:
        """Delete it, so that nobody waits for us. Best effort: without it others wait for a minute."""
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._cluster.delete(LEASES, self.namespace, self.name)
        except errors.NotFound:
            pass
        except (errors.ApiError, TimeoutError) as error:
            retrying(logger, "Sign of life not taken back", error, lease=self._path)

    def _failed(self, error: Exception) -> None:
        cause = str(error) or "no answer in time"
        if cause != self._error:  # once, not every ten seconds
            self._told |= retrying(logger, "Sign of life not renewed", error, lease=self._path)
        self._error = cause

    async def _renew(self) -> None:
        """No version: the name is ours alone, and there is nothing in it that two could disagree about."""
        now = timestamps.to_text(datetime.now(UTC))
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(SILENCE_SECONDS),
            "renewTime": now,
        }
        labels = {names.COMPONENT_LABEL: self._component}
        try:
            await self._cluster.patch(LEASES, self.namespace, self.name, {"metadata": {"labels": labels}, "spec": spec})
        except errors.NotFound:
            manifest = {"metadata": {"name": self.name, "labels": labels}, "spec": {**spec, "acquireTime": now}}
            await self._cluster.create(LEASES, self.namespace, manifest, timeout=TIMEOUT)

    @property
    def _path(self) -> str:
        return names.namespaced_name(self.namespace, self.name)


async def list_leases(
    cluster: Cluster, namespace: str | None, label: str, seconds: float, *, metadata_only: bool = False
) -> AsyncIterator[list[Body]]:
    """Leases with that label, of all namespaces where none is given, again and again, so many seconds apart.

    Never ends; what fails is logged once.
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


class Heard(Generic[K]):
    """When Leases that change while their process lives were last seen to change. Pure: time is passed in, monotonic.

    After two looks that lie far apart every silence begins anew: this process was frozen or cut off, or the API server
    was away, perhaps for the others too.
    """

    def __init__(self, every: float) -> None:
        """`every`: seconds between looks."""
        self._every = every
        self._versions: dict[K, str] = {}
        #: When each was heard of last, or first asked for.
        self._since: dict[K, float] = {}
        #: When each was seen to change, or to come.
        self._changed: dict[K, float] = {}
        self._began: float | None = None
        self._looked = float("-inf")

    def look(self, versions: Mapping[K, str], now: float) -> None:
        """All that is there now, with its version."""
        first = self._began is None
        if now - self._looked > 3 * self._every:
            self._began = now
            self._since = dict.fromkeys(self._since, now)
        self._looked = now
        for key, version in versions.items():
            if self._versions.get(key) != version:
                self._since[key] = now
                if not first:  # of what was there before us it is not known how old it is
                    self._changed[key] = now
        self._versions = dict(versions)
        old = now - FORGET_SECONDS
        self._since = {key: at for key, at in self._since.items() if key in versions or at > old}
        self._changed = {key: at for key, at in self._changed.items() if key in self._since}

    def silence(self, key: K, now: float) -> float:
        """Seconds since it was heard of, or first asked for; 0 before the first look, and where looks have failed."""
        since = self._since.setdefault(key, now)
        return 0.0 if now - self._looked > 3 * self._every else now - since

    def silence_of_all(self, keys: Iterable[K], now: float) -> float:
        """Seconds since any of these was heard of; without any, since the first look."""
        if self._began is None or now - self._looked > 3 * self._every:
            return 0.0
        return now - max((self._since.get(key, self._began) for key in keys), default=self._began)

    def lives(self, key: K, now: float, within: float) -> bool:
        """Whether it has been seen to change within so many seconds, and is still there."""
        return key in self._versions and now - self._changed.get(key, float("-inf")) <= within

    @property
    def known(self) -> Iterable[K]:
        """All that is remembered."""
        return self._since.keys()
