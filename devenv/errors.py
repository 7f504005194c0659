"""Errors of the developer's environment. Each message names the cause and says what to do.

DevenvError
├── MissingTools      a tool that the build needs is not installed
├── BuildFailed       the compiler or Maven failed
├── NotFetched        setup-envtest has no binaries for this machine; they are built instead
├── PortTaken         a process that is not ours listens on one of our ports
├── StartFailed       a process died or did not become ready
└── CommandFailed     kubectl, the Kafka admin API or a file refused
"""

from __future__ import annotations


class DevenvError(Exception):
    """The environment cannot do what a command asks."""


class MissingTools(DevenvError):
    """A tool that the build needs is not installed."""


class BuildFailed(DevenvError):
    """The compiler or Maven failed."""


class NotFetched(DevenvError):
    """setup-envtest has no binaries for this machine, or cannot reach them; they are built instead."""


class PortTaken(DevenvError):
    """A process that is not ours listens on one of our ports."""


class StartFailed(DevenvError):
    """A process died or did not become ready."""


class CommandFailed(DevenvError):
    """kubectl, the Kafka admin API or a file refused."""
