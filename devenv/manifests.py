"""Renders `deploy/` with kustomize: for the test of `install.yaml`, `make check` and clusters of kind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from devenv import sources
from devenv.errors import CommandFailed, DevenvError
from devenv.layout import ROOT

DEPLOY = ROOT / "deploy"
OVERLAYS = DEPLOY / "overlays"
INSTALL = DEPLOY / "install.yaml"
_HEADER = (
    "# All but the CRDs, which come before it and outlive it: kubectl apply --server-side -f crds/\n"
    "# Rendered from overlays/production by `make manifests`; change that, not this.\n"
)


def overlays() -> list[Path]:
    """The folders of all overlays."""
    return sorted(path.parent for path in OVERLAYS.glob("*/kustomization.yaml"))


def kustomize(folder: Path) -> str:
    """The manifests of a kustomization. Raises CommandFailed with what is wrong in it."""
    done = subprocess.run([str(sources.kubectl()), "kustomize", str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        raise CommandFailed(f"{folder}: {done.stderr.strip()}")
    return done.stdout


def install() -> str:
    """The text that `install.yaml` is to have."""
    return _HEADER + kustomize(OVERLAYS / "production")


def main() -> int:
    """Write `install.yaml`."""
    try:
        INSTALL.write_text(install(), encoding="utf-8")
    except DevenvError as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
