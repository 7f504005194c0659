"""What the world looks like when a test fails: objects, Events, the downstream's journal; each cut to a page or two."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml

from devenv.environment import Environment
from tests.support.kube import GROUP

#: Lines of a section: so many of the first ones, and of the last.
HEAD, TAIL = 20, 60
#: Characters of a line.
WIDTH = 400
#: Objects of each kind whose status is shown in full.
OBJECTS = 10
#: Seconds for each question: the API server may be what has failed.
TIMEOUT = 10

Section = tuple[str, str]


def sections(fixtures: Mapping[str, Any]) -> list[Section]:
    """One for each question, by the environments and namespaces that are found among the fixtures of a test."""
    found = list(_values(fixtures.values()))
    environments = {id(value): value for value in found if isinstance(value, Environment)}.values()
    named = [fixtures.get("namespace"), *(getattr(value, "namespace", None) for value in found)]
    namespaces = sorted({name for name in named if isinstance(name, str)})
    return [section for environment in environments for name in namespaces for section in _namespace(environment, name)]


def _values(values: Iterable[Any]) -> Iterable[Any]:
    """They themselves, the items of tuples, and the two ends of a `pipeline.Pipeline`."""
    for value in values:
        yield value
        yield from value if isinstance(value, tuple) else ()
        yield from filter(None, (getattr(value, name, None) for name in ("ingested", "processing")))


def _namespace(environment: Environment, namespace: str) -> list[Section]:
    def kubectl(*arguments: str) -> str:
        return environment.kubectl("-n", namespace, f"--request-timeout={TIMEOUT}s", *arguments, timeout=2 * TIMEOUT)

    def objects(plural: str, query: str = "") -> str:
        path = f"{GROUP}/namespaces/{namespace}/{plural}?limit={OBJECTS}{query}"
        return "---\n".join(_as_yaml(item) for item in json.loads(kubectl("get", "--raw", path))["items"])

    def journal() -> str:
        streams = {item["metadata"]["name"] for item in json.loads(kubectl("get", "us", "-o", "json"))["items"]}
        written, _, _ = (environment.layout.data / "downstream" / "journal.jsonl").read_text().rpartition("\n")
        calls, lines = set(), []
        for line in written.splitlines():
            record = json.loads(line)
            if not streams or record.get("stream") in streams:
                calls.add(record.get("call"))
            if record.get("call") in calls:
                lines.append(line)
        return "\n".join(lines)

    asked: list[tuple[str, Callable[[], str]]] = [
        ("objects", lambda: kubectl("get", "us,uu,re,ub,leases", "-o", "wide")),
        ("streams", lambda: objects("updatestreams")),
        ("unfinished updates", lambda: objects("userupdates", "&fieldSelector=status.phase!%3DSucceeded")),
        ("backlogs", lambda: objects("userbacklogs")),
        ("Events", lambda: kubectl("get", "events.events.k8s.io", "--sort-by=.metadata.creationTimestamp")),
        ("journal of the downstream", journal),
    ]
    return [(f"{what} in {namespace}", _cut(_answer(ask))) for what, ask in asked]


def _answer(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except Exception as failed:  # the test has failed already, perhaps by the same cause
        return f"not to be had: {failed!r}"


def _as_yaml(item: dict[str, Any]) -> str:
    item["metadata"].pop("managedFields", None)
    return yaml.safe_dump(item, sort_keys=False, width=WIDTH)


def _cut(text: str) -> str:
    lines = [line if len(line) <= WIDTH else f"{line[:WIDTH]}…" for line in text.splitlines()]
    if (left_out := len(lines) - HEAD - TAIL) > 0:
        lines[HEAD:-TAIL] = [f"… {left_out:,} lines …"]
    return "\n".join(lines)
