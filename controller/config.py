"""What a process is started with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    #: Name of this replica: a restarted process of the same name goes on at once with what it held.
    identity: str
    #: Where /metrics, /healthz and /readyz are served.
    metrics_host: str
    metrics_port: int
