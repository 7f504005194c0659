"""Errors of the developer's environment; each message names the cause and the cure.

DevenvError
├── MissingTools      a tool that the build needs is not installed
├── BuildFailed       the compiler or Maven failed
├── NotFetched        setup-envtest has no binaries for this machine; they are built instead
├── PortTaken         a foreign process listens on a port of ours
├── StartFailed       a process died or did not become ready
└── CommandFailed     kubectl, the Kafka admin API or a file says no
"""

from __future__ import annotations


class DevenvError(Exception):
    """The environment cannot do what was asked."""


class MissingTools(DevenvError):
    """A tool that the build needs is not installed."""


class BuildFailed(DevenvError):
    """The compiler or Maven failed."""


class NotFetched(DevenvError):
    """setup-envtest has no binaries for this machine, or cannot reach them; they are built instead."""


class PortTaken(DevenvError):
    """A foreign process listens on a port of ours."""


class StartFailed(DevenvError):
    """A process died or did not become ready."""


class CommandFailed(DevenvError):
    """kubectl, the Kafka admin API or a file says no."""
