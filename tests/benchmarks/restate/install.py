"""Restate's server and its TypeScript SDK, from npm by the committed lock, into the user's cache; once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from devenv.errors import BuildFailed, MissingTools
from devenv.layout import cache_directory, locked
from devenv.versions import version_of

HERE = Path(__file__).resolve().parent
LOCK = HERE / "package-lock.json"
#: What undici asks for.
OLDEST_NODE = (20, 18)
#: The service's own files, beside node_modules: Node resolves imports from where a file lies.
SERVICE = ("service.mjs", "polyfill.mjs")


def install() -> Path:
    """The folder with node_modules and the service. Raises MissingTools, BuildFailed."""
    folder = cache_directory() / f"bench-restate-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    with locked(folder.with_name(folder.name + ".lock"), what="fetches Restate"):
        if not folder.exists():
            _require_node()
            temporary = folder.with_name(f"{folder.name}.{os.getpid()}")
            try:
                _fetch(temporary)
                temporary.replace(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        for name in SERVICE:
            shutil.copy(HERE / name, folder / name)
    return folder


def _fetch(folder: Path) -> None:
    folder.mkdir()
    for path in (LOCK, HERE / "package.json"):
        shutil.copy(path, folder)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise BuildFailed(f"Restate could not be fetched from npm: `{' '.join(command)}` said\n{said}")


def _require_node() -> None:
    node = version_of(["node", "--version"])
    if node is None or node < OLDEST_NODE or shutil.which("npm") is None:
        raise MissingTools(
            "Missing: node 20.18 or newer with npm, to fetch and run Restate. Install it from https://nodejs.org, or"
            ' measure without Restate: make bench ARGS="--contenders every-step,coalesced,limit"'
        )
