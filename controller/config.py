"""What a process is started with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scope:
    """The namespaces that a process works in; without names all of the cluster."""

    namespaces: tuple[str, ...] = ()

    @property
    def each(self) -> tuple[str | None, ...]:
        """What is listed and watched one by one: each namespace, or None, which is all of them at once."""
        return self.namespaces or (None,)

    def of(self, namespace: str) -> str | None:
        """The one of `each` that shows what is in a namespace."""
        return namespace if self.namespaces else None


@dataclass(frozen=True, slots=True)
class Settings:
    #: Name of this replica: a restarted process of the same name goes on at once with what it held.
    identity: str
    #: Where /metrics, /healthz and /readyz are served.
    metrics_host: str
    metrics_port: int
    #: Where streams and their updates are worked on.
    scope: Scope = Scope()
