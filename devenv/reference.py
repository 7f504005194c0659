"""The tables of docs/resources.md, generated from `crds/`: fields, rules, printer columns, selectable fields.

The page itself is written by hand. A pair of comments, `<!-- generated: userupdates -->` and `<!-- end -->`, encloses
what `make manifests` writes anew; a unit test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from devenv.layout import ROOT

PAGE = ROOT / "docs" / "resources.md"
CRDS = ROOT / "crds"

_GENERATED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
#: A part of a rule that holds a field to its old value, or to one that is no lower.
_FIXED = re.compile(r"(?:\(?!?has\(self\.\S+\) \|\| )?self((?:\.\w+)*) == oldSelf\1\)?")
_GROWS = re.compile(r"self((?:\.\w+)*) >= oldSelf\1")
#: The end of a description that says what the default is.
_DEFAULT = re.compile(r"\s*Default: \S+\.$")
#: Bounds that a reader knows by another name.
_POWERS = {9007199254740991: "2^53 - 1", 2147483647: "2^31 - 1"}


@dataclass(frozen=True, slots=True)
class Field:
    """A row of the table."""

    path: str
    schema: dict[str, Any]
    required: bool
    #: `no`, `grows` or `yes`.
    changes: str
    #: Path of an earlier field that has the same fields, which are not listed again; empty where there is none.
    like: str = ""


def page(text: str) -> str:
    """The page with its generated parts written anew. Raises OSError where a CRD that it names is missing."""
    return _GENERATED.sub(lambda found: f"{found[1]}{kind(found[2])}{found[3]}", text)


def kind(plural: str) -> str:
    """The text generated from a CRD: a table for the spec, one for the status, rules, columns and selectable fields."""
    crd = yaml.safe_load((CRDS / f"{plural}.yaml").read_text(encoding="utf-8"))
    (version,) = crd["spec"]["versions"]
    root = version["schema"]["openAPIV3Schema"]
    properties = root["properties"]
    parts = [_table("spec", list(fields(properties["spec"], "spec")), spec=True)]
    if "status" in properties:
        parts.append(_table("status", list(fields(properties["status"], "status")), spec=False))
    parts += [_rules(root), _columns(version["additionalPrinterColumns"])]
    if selectable := version.get("selectableFields"):
        names = ", ".join(f"`{each['jsonPath'].removeprefix('.')}`" for each in selectable)
        parts.append(f"**Selectable fields** (`kubectl get … --field-selector`): {names}, and `metadata.name`.\n")
    return "\n".join(parts)


def fields(schema: dict[str, Any], path: str) -> Iterator[Field]:
    """Every field below a schema, in its order, parents first."""
    seen: dict[int, str] = {}
    yield from _fields(schema, path, _restrictions(schema, path), seen)


def _fields(schema: dict[str, Any], path: str, changes: dict[str, str], seen: dict[int, str]) -> Iterator[Field]:
    required = schema.get("required", ())
    for name, child in schema.get("properties", {}).items():
        where = f"{path}.{name}"
        changes = {**changes, **_restrictions(child, where)}
        inner = child.get("items", child)
        below = f"{where}[]" if "items" in child else where
        # Values that YAML repeats by an alias are one object in Python.
        like = seen.setdefault(id(inner["properties"]), below) if "properties" in inner else ""
        yield Field(where, child, name in required, _change(where, changes), like if like != below else "")
        if like in ("", below):
            yield from _fields(inner, below, {**changes, **_restrictions(inner, below)}, seen)


def _restrictions(schema: dict[str, Any], path: str) -> dict[str, str]:
    """The fields that the rules of a schema hold to their old value, by path."""
    found: dict[str, str] = {}
    for rule in schema.get("x-kubernetes-validations", ()):
        for part in re.split(r"\s+&&\s+(?![^(]*\))", " ".join(rule["rule"].split())):
            if same := _FIXED.fullmatch(part):
                found[path + same[1]] = "no"
            elif grows := _GROWS.fullmatch(part):
                found[path + grows[1]] = "grows"
    return found


def _change(path: str, changes: dict[str, str]) -> str:
    """That of the nearest parent which a rule is about."""
    while path:
        if path in changes:
            return changes[path]
        path = path.rpartition(".")[0]
    return "yes"


def _table(title: str, rows: list[Field], *, spec: bool) -> str:
    head = f"**{title}**\n\n| field | type | default | bounds |{' can change |' if spec else ''} meaning |\n"
    head += f"|---|---|---|---|{'---|' if spec else ''}---|\n"
    return head + "".join(_row(each, spec=spec) for each in rows)


def _row(field: Field, *, spec: bool) -> str:
    cells = [f"`{field.path}`", _type(field.schema), _default(field), _bounds(field.schema)]
    if spec:
        parent = "properties" in field.schema and field.changes == "yes"
        cells.append("" if parent else field.changes)
    meaning = _cell(field.schema["description"])
    if "default" in field.schema:  # it has a column
        meaning = _DEFAULT.sub("", meaning)
    cells.append(f"{meaning} It has the fields of `{field.like}`." if field.like else meaning)
    return f"| {' | '.join(cells)} |\n"


def _type(schema: dict[str, Any]) -> str:
    if "items" in schema:
        return f"list of {_type(schema['items'])}s"
    if "additionalProperties" in schema:
        return f"map of {_type(schema['additionalProperties'])}s"
    return "time" if schema.get("format") == "date-time" else str(schema["type"])


def _default(field: Field) -> str:
    if field.required:
        return "required"
    default = field.schema.get("default")
    if default in (None, {}, []):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _bounds(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    if "items" in schema:
        return f"up to {schema['maxItems']:,} entries"
    if "maxProperties" in schema:
        return f"up to {schema['maxProperties']:,} entries"
    if schema["type"] == "string" and schema.get("format") != "date-time":
        least = schema.get("minLength", 0)
        return f"{f'{least} to ' if least else 'up to '}{schema['maxLength']:,} characters"
    if schema["type"] in ("integer", "number"):
        most = _POWERS.get(schema["maximum"], f"{schema['maximum']:,}")
        return f"{'over ' if schema.get('exclusiveMinimum') else ''}{schema['minimum']} to {most}"
    return ""


def _rules(root: dict[str, Any]) -> str:
    """The further checks of the API server. For a map, the description says them, entry by entry."""
    lines = [f"- `{path}`: {_cell(message)}\n" for path, message in _messages(root, "", set())]
    return "**Further rules**, which the API server checks:\n\n" + "".join(lines) if lines else ""


def _messages(schema: dict[str, Any], path: str, seen: set[int]) -> Iterator[tuple[str, str]]:
    if "additionalProperties" not in schema:
        for rule in schema.get("x-kubernetes-validations", ()):
            yield (path + rule.get("fieldPath", "")).lstrip(".") or "metadata.name", rule["message"]
    if (properties := schema.get("properties")) and id(properties) not in seen:
        seen.add(id(properties))
        for name, child in properties.items():
            yield from _messages(child, f"{path}.{name}", seen)
    if "items" in schema:
        yield from _messages(schema["items"], f"{path}[]", seen)


def _columns(columns: list[dict[str, Any]]) -> str:
    rows = [
        f"| {each['name'].upper()} | `{each['jsonPath']}`{', `-o wide` only' if each.get('priority') else ''}"
        f" | {_cell(each['description'])} |\n"
        for each in columns
    ]
    return "**Columns of `kubectl get`**\n\n| column | from | meaning |\n|---|---|---|\n" + "".join(rows)


def _cell(text: str) -> str:
    """Text in one cell: a bar would end it, a line break the row, and what looks like a tag would not be shown."""
    return text.strip().replace("|", "\\|").replace("<", "&lt;").replace("\n", "<br>")


def main() -> None:
    """Write the page anew."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
