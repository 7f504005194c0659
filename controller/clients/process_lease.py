"""The process's own Lease: its heartbeat, as kubelets renew one for each node.

The Lease is no lock. It shows that the process runs and reaches the API server (docs/decisions/0008-signs-of-life.md).
`heartbeats` is how other processes watch it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

from kubernetes.aio import config

from controller import errors
from controller.api import names, timestamps
from controller.clients.cluster import LEASES, Cluster
from controller.logs import fields, retrying

logger = logging.getLogger(__name__)

Component: TypeAlias = Literal["bridge", "controller"]

#: Seconds between two renewals.
RENEW_SECONDS = 10.0
#: Seconds for one request.
TIMEOUT = 5.0
#: `leaseDurationSeconds`: seconds without a renewal after which other processes take a process as dead.
LEASE_SECONDS = 60.0
#: Seconds without a renewal after which the process itself reports that, before others do.
LATE_SECONDS = 40.0

_IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def own_namespace() -> str:
    """The namespace that this process runs in: the pod's, else that of the kubeconfig's context, else `default`."""
    if "KUBECONFIG" not in os.environ and _IN_CLUSTER.exists():
        return _IN_CLUSTER.read_text(encoding="utf-8").strip()
    try:
        _, context = config.list_kube_config_contexts(os.environ.get("KUBECONFIG"))  # type: ignore[no-untyped-call]
    except config.ConfigException:
        return "default"
    return str(context["context"].get("namespace") or "default")


class ProcessLease:
    """Renews the Lease of this process."""

    def __init__(self, cluster: Cluster, component: Component, identity: str) -> None:
        self.namespace = own_namespace()
        self.name = names.process_lease_name(component, identity)
        self._cluster = cluster
        self._component = component
        self._identity = identity
        #: When (monotonic) it was renewed last; before the first renewal, when the process started.
        self._renewed = time.monotonic()
        #: Why the last renewal failed; empty: it did not fail.
        self._error = ""
        #: Whether the failure was logged.
        self._logged = False

    @property
    def trouble(self) -> str:
        """Why others may take this process as dead, for people; empty where they do not."""
        if time.monotonic() - self._renewed < LATE_SECONDS:
            return ""
        return f"Lease {self._path} is not renewed: {self._error or 'no answer'}"

    async def run(self) -> None:
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
                if self._logged:
                    logger.info("Sign of life renewed again", extra=fields(lease=self._path))
                self._error, self._logged = "", False
            await asyncio.sleep(RENEW_SECONDS * random.uniform(0.9, 1.0))

    async def release(self) -> None:
        """Delete it, so that others need not wait until it has expired. Best effort: raises nothing."""
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
            self._logged |= retrying(logger, "Sign of life not renewed", error, lease=self._path)
        self._error = cause

    async def _renew(self) -> None:
        """Without a resourceVersion: no other process writes a Lease of this name. Raises ApiError."""
        now = timestamps.to_text(datetime.now(UTC))
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(LEASE_SECONDS),
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
