"""The schemas of `crds/`, as tests walk and use them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

#: By plural name.
CRDS: dict[str, Any] = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted((Path(__file__).parents[2] / "crds").glob("*.yaml"))
}


def schema(plural: str) -> dict[str, Any]:
    (version,) = CRDS[plural]["spec"]["versions"]
    root: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return root


def nodes(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema within a schema, with its path."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key, suffix in (("items", "[]"), ("additionalProperties", "[*]")):
        if key in node:
            yield from nodes(node[key], path + suffix)


def closed(node: dict[str, Any]) -> dict[str, Any]:
    """The schema with unknown fields refused, where the API server would drop them without a word."""
    node = {name: child for name, child in node.items() if not name.startswith("x-")}
    if "properties" in node:
        node["properties"] = {name: closed(child) for name, child in node["properties"].items()}
        node["additionalProperties"] = False
    if "items" in node:
        node["items"] = closed(node["items"])
    return node
