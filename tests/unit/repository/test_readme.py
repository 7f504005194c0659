"""What the README and the documents say is so: names, links, examples, tests that they point to."""

from __future__ import annotations

import ast
import re
import string
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import yaml

import controller
from controller.api.names import API_VERSION
from tests.support.schemas import CRDS, closed, schema
from tests.support.transcripts import README, ROOT, blocks, missing, shown

TEXT = README.read_text()
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]


def test_the_state_line_is_that_of_the_package() -> None:
    line = (controller.__doc__ or "").splitlines()[2]
    assert line.startswith("record ")
    assert line in TEXT.splitlines()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_are_named_exist(document: Path) -> None:
    for path, name in re.findall(r"`(tests/\S+?\.py)(?:::(\w+))?`", document.read_text()):
        assert (ROOT / path).is_file(), path
        assert not name or name in functions(ROOT / path), f"{path}::{name}"


def test_the_table_of_guarantees_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text()
    rows = re.findall(r"\| \[(\w+\.py)\]\(\.\./(tests/\S+)\) \| ((?:`test_\w+`(?:<br>)?)+) \|$", text, re.MULTILINE)
    assert len(rows) >= 150
    for name, path, names in rows:
        assert Path(path).name == name
        assert set(re.findall(r"`(\w+)`", names)) <= functions(ROOT / path), f"{path}: {names}"
    assert len(re.findall(r"^\|.*`test_\w+`.*\|$", text, re.MULTILINE)) == len(rows)


def test_every_decision_is_in_the_index() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()
    notes = [path.name for path in (ROOT / "docs" / "decisions").glob("0*.md")]
    assert [name for name in sorted(notes) if f"]({name})" not in index] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_what_the_tables_of_the_code_name_is_there(name: str) -> None:
    """In the README behind each file, in parentheses; in CONTRIBUTING before it."""
    text = (ROOT / name).read_text()
    behind = re.findall(r"\((controller/[\w/]+\.py)\) \(([^)]*)\)", text)
    before = [
        (path, names) for names, path in re.findall(r"(`[\w.`, ]+`) in \[[\w/.]+\]\((controller/[\w/]+\.py)\)", text)
    ]
    named = [
        (ROOT / path, part)
        for path, names in behind + before
        for word in re.findall(r"`([\w.]+)`", names)
        for part in word.split(".")
    ]
    assert len(named) >= 5
    assert [
        (path.name, part) for path, part in named if not re.search(rf"(def|class) {part}\b", path.read_text())
    ] == []


@cache
def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


#: What `make up` puts into the addresses that a manifest leaves open.
ADDRESSES = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092", "DOWNSTREAM_URL": "http://127.0.0.1:8080"}
EXAMPLES: list[tuple[str, dict[str, object]]] = [
    (f"{document.name} {manifest['kind']}", manifest)
    for document in DOCUMENTS
    for block in blocks("yaml", document.read_text())
    for manifest in yaml.safe_load_all(string.Template(block).safe_substitute(ADDRESSES))
    if manifest.get("apiVersion") == API_VERSION
]


@pytest.mark.parametrize("manifest", [pytest.param(manifest, id=name) for name, manifest in EXAMPLES])
def test_examples_fit_the_schemas(manifest: dict[str, object]) -> None:
    found = closed(schema(f"{str(manifest['kind']).lower()}s"))
    found["properties"].update({name: {} for name in ("apiVersion", "kind", "metadata")})
    jsonschema.validate(manifest, found, jsonschema.Draft4Validator)  # exclusiveMinimum as in OpenAPI 3.0


def test_every_kind_has_an_example() -> None:
    found = {str(manifest["kind"]).lower() for _, manifest in EXAMPLES}
    assert {f"{kind}s" for kind in found} == set(CRDS)


def test_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for document in DOCUMENTS for name in re.findall(r"`make ([a-z0-9]+)", document.read_text())}
    assert named <= targets, named - targets


OUTPUT = """starting
   0.3 s  sent
   1.1 s  all 82 updates done
NAME                                    USER   AGE
user-updates-0a1b2c-p00000-0000000042   ana    4s
done
"""


@pytest.mark.parametrize(
    ("block", "want"),
    [
        pytest.param(["…", "   9.9 s  sent", "   10.1 s  all 82 updates done"], None, id="other times"),
        pytest.param(["…", "user-updates-ffffff-p00000-0000000042  ana  12s", "…", "done"], None, id="other ids"),
        pytest.param(["starting", "…", "done"], None, id="lines left out"),
        pytest.param(["starting", "done"], "done", id="lines left out without a word"),
        pytest.param(["…", "   0.3 s  sent twice"], "   0.3 s  sent twice", id="another word"),
        pytest.param(["…", "done", "…", "starting"], "starting", id="another order"),
        pytest.param(["…", "   1.1 s  all 83 updates done"], "   1.1 s  all 83 updates done", id="another count"),
    ],
)
def test_a_block_is_compared_with_what_was_printed(block: list[str], want: str | None) -> None:
    assert missing(block, OUTPUT) == want


def test_blocks_are_found_by_their_command() -> None:
    text = "```console\n$ make demo\none\n```\n\n```console\n$ make up\ntwo\n```\n"
    assert list(shown("make demo", text)) == [["one"]]
