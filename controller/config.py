"""The settings that a process is started with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scope:
    """The namespaces that a process works in; without names, all of the cluster."""

    namespaces: tuple[str, ...] = ()

    @property
    def each(self) -> tuple[str | None, ...]:
        """The namespaces to list and watch, each by itself; (None,) stands for all namespaces at once."""
        return self.namespaces or (None,)

    def of(self, namespace: str) -> str | None:
        """The entry of `each` whose lists and watches show what is in that namespace."""
        return namespace if self.namespaces else None


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings from the command line."""

    #: Unique name of this replica. A restarted process of the same name goes on at once with the Leases that it held.
    identity: str
    #: The address of /metrics, /healthz and /readyz.
    metrics_host: str
    metrics_port: int
    #: The namespaces whose streams this process works on.
    scope: Scope = Scope()
