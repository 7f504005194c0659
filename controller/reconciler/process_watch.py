"""Which controllers are live, and whether a bridge is: the processes' own Leases, listed every few seconds."""

from __future__ import annotations

import logging
import time
from typing import TypeAlias

from controller import errors
from controller.api import names
from controller.clients.cluster import LEASES, Body, Cluster, object_key
from controller.clients.heartbeats import Heartbeats, poll_leases
from controller.clients.process_lease import LEASE_SECONDS, RENEW_SECONDS
from controller.config import Scope
from controller.logs import fields

logger = logging.getLogger(__name__)

#: Seconds between looks.
LOOK_SECONDS = 5.0
#: Seconds within which a controller must have renewed its own Lease to get a share of the streams' Leases.
SHARING_SECONDS = 2.5 * RENEW_SECONDS
#: Seconds without a renewal after which a process's Lease is deleted: its process will not come back.
DEAD_SECONDS = 1800.0

#: Namespace and name of a process's Lease.
Key: TypeAlias = tuple[str, str]


class ProcessWatch:
    """Knows the other processes by their Leases."""

    def __init__(self, cluster: Cluster, namespace: str, scope: Scope) -> None:
        """`namespace` is that of this process, in which it deletes the Leases of dead processes.

        A controller whose scope is some namespaces looks for other processes in its own namespace, else in all.
        """
        self._cluster = cluster
        self._namespace = namespace
        self._where = namespace if scope.namespaces else None
        self._heartbeats: Heartbeats[Key] = Heartbeats(LOOK_SECONDS)
        #: Component and identity of each process, by its Lease.
        self._processes: dict[Key, tuple[str, str]] = {}

    @property
    def controllers(self) -> set[str]:
        """Identities of live controllers: a Lease that was never seen to change does not count."""
        now = time.monotonic()
        return {
            identity
            for key, (component, identity) in self._processes.items()
            if component == "controller" and self._heartbeats.alive(key, now, SHARING_SECONDS)
        }

    @property
    def no_bridge(self) -> str:
        """A message if no bridge has renewed its Lease for a minute; empty if one has, or if that is not known."""
        bridges = [key for key, (component, _) in self._processes.items() if component == "bridge"]
        if self._heartbeats.youngest_age(bridges, time.monotonic()) < LEASE_SECONDS:
            return ""
        where = f"-n {self._where}" if self._where else "-A"
        return (
            f"no bridge has renewed its Lease for {LEASE_SECONDS:.0f} s: look at the bridge's pods and log, and at "
            f"kubectl get leases {where} -l {names.COMPONENT_LABEL}=bridge"
        )

    async def follow(self) -> None:
        """List for ever."""
        async for leases in poll_leases(self._cluster, self._where, names.COMPONENT_LABEL, LOOK_SECONDS):
            self._observe(leases)
            await self._delete_dead(leases)

    def _observe(self, leases: list[Body]) -> None:
        versions = {}
        for body in leases:
            metadata = body["metadata"]
            key = object_key(body)
            versions[key] = metadata["resourceVersion"]
            identity = (body.get("spec") or {}).get("holderIdentity") or metadata["name"]
            self._processes[key] = metadata["labels"][names.COMPONENT_LABEL], identity
        self._heartbeats.observe(versions, time.monotonic())
        self._processes = {key: self._processes[key] for key in self._heartbeats.known if key in self._processes}

    async def _delete_dead(self, leases: list[Body]) -> None:
        """Delete Leases that are long dead, in the version that was seen: a process that comes back creates its own."""
        now = time.monotonic()
        for body in leases:
            metadata = body["metadata"]
            key = object_key(body)
            if key[0] != self._namespace or self._heartbeats.age(key, now) < DEAD_SECONDS:
                continue
            try:
                await self._cluster.delete(LEASES, *key, metadata["uid"], int(metadata["resourceVersion"]))
            except errors.ApiError as error:
                logger.info("Lease of a dead process not deleted", extra=fields(lease=key[1], cause=str(error)))
