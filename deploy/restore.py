#!/usr/bin/env python3
"""Splits a backup into objects that kubectl can create and statuses that it can write: see docs/backup.md.

    python3 deploy/restore.py backup.json

reads what `kubectl get us,ub,re,uu -o json` printed, and writes `objects.json` (for `kubectl create`) and
`status.json` (for `kubectl replace --subresource=status`) into the working directory. Nothing but Python is needed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

#: Fields of the metadata that an object may be created with; the API server sets the others itself.
KEPT = ("name", "namespace", "labels", "annotations", "finalizers")
APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def restorable(item: dict[str, Any]) -> dict[str, Any]:
    """The object as it can be created."""
    metadata = {key: item["metadata"][key] for key in KEPT if key in item["metadata"]}
    metadata["annotations"] = {key: value for key, value in metadata.get("annotations", {}).items() if key != APPLIED}
    return {"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": metadata, "spec": item["spec"]}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 2
    try:
        items = json.loads(Path(arguments[0]).read_text())["items"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{arguments[0]} is no list of objects as `kubectl get -o json` prints it: {error!r}", file=sys.stderr)
        return 1
    objects = [restorable(item) for item in items]
    statuses = [{**restorable(item), "status": item["status"]} for item in items if item.get("status")]
    for name, found in (("objects.json", objects), ("status.json", statuses)):
        Path(name).write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": found}))
        print(f"{name}: {len(found)} objects")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
