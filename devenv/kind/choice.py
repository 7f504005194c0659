"""Chooses the environment that a machine can have: processes on loopback ports or, without Go or Java, pods in kind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from devenv.environment import Environment
from devenv.errors import MissingTools
from devenv.kind import engine
from devenv.kind.cluster import KindEnvironment

#: `kind`: pods, whatever else there is.
VARIABLE = "USERUPDATES_ENVIRONMENT"


def choose(directory: Path, cluster: str, *, progress: Callable[[str], None]) -> Environment:
    """Build what is missing, where possible. Raises DevenvError; MissingTools names what either environment lacks."""
    if os.environ.get(VARIABLE) == "kind":
        return KindEnvironment(cluster, directory, progress=progress)
    environment = Environment(directory, progress=progress)
    try:
        environment.sources  # noqa: B018  (finds or builds them)
    except MissingTools as missing:
        if not engine.available():
            raise MissingTools(f"{missing}\nOr install Docker and kind: they are enough.") from missing
        return KindEnvironment(cluster, directory, progress=progress)
    return environment
