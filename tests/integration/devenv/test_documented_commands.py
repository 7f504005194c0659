"""The commands of docs/operations.md and docs/resources.md, run word for word with a real kubectl."""

from __future__ import annotations

import json
import re
import shlex
import string
from typing import Any

import pytest
import yaml

from devenv.errors import CommandFailed
from devenv.layout import ROOT
from tests.support.manifests import STREAM, UPDATE, Applier

#: What `make up` puts into the addresses that a manifest leaves open.
ADDRESSES = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092", "DOWNSTREAM_URL": "http://127.0.0.1:8080"}
_PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("operations", "resources")}
#: The commands of the table, by their wish.
_TABLE = _PAGES["operations"].partition("## What a person can do")[2].partition("\n## ")[0]
COMMANDS: dict[str, str] = dict(re.findall(r"^\| (.+?) \| `(kubectl .+?)`", _TABLE, re.MULTILINE))


def command(wish: str) -> str:
    """The one whose wish begins so."""
    (text,) = [text for told, text in COMMANDS.items() if told.startswith(wish)]
    return text


def run(api: Applier, text: str, **said: str) -> str:
    """As a person does, with names of their own in place of those of the page."""
    for name, value in said.items():
        text = text.replace(name, value)
    return api(*shlex.split(text)[1:])


def found(api: Applier, what: str) -> Any:
    """The object as it is."""
    return json.loads(api("get", what, "-o", "json"))


def suspended(api: Applier) -> Any:
    return found(api, "us/user-updates")["spec"]["suspend"]["users"]


def test_the_table_is_found() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize(
    "before",
    [
        pytest.param({}, id="nothing is said of it"),
        pytest.param({"spec.suspend": {"processing": True}}, id="no users"),
        pytest.param({"spec.suspend": {"users": []}}, id="an empty list"),
    ],
)
def test_users_are_suspended_and_resumed_one_by_one(api: Applier, before: dict[str, Any]) -> None:
    """The command for a second user let the first one go on."""
    api.apply(STREAM, before)
    stop, go_on = command("stop one user"), command("let one user go on")
    run(api, stop, NAME="user-updates")
    run(api, stop, NAME="user-updates", userid1="ana")
    run(api, stop, NAME="user-updates", userid1="bo")
    assert suspended(api) == ["userid1", "ana", "bo"]
    with pytest.raises(CommandFailed, match="Duplicate value"):
        run(api, stop, NAME="user-updates", userid1="ana")
    run(api, go_on, NAME="user-updates")
    assert suspended(api) == ["ana", "bo"]
    with pytest.raises(CommandFailed, match="users/0"):
        run(api, go_on, NAME="user-updates", userid1="bo")  # somebody has removed one meanwhile
    assert suspended(api) == ["ana", "bo"]
    where = re.search(r"`(kubectl get us NAME -o jsonpath=\S+)`", _TABLE)
    assert where and run(api, where[1], NAME="user-updates") == '["ana","bo"]'
    run(api, go_on.replace("users/0", "users/1"), NAME="user-updates", userid1="bo")
    assert suspended(api) == ["ana"]


def test_a_stream_may_be_suspended_as_a_whole(api: Applier) -> None:
    api.apply(STREAM, {"spec.suspend": {"users": ["ana"]}})
    run(api, command("stop all calls"), NAME="user-updates")
    run(api, command("stop all calls").replace("processing", "ingest"), NAME="user-updates")
    assert found(api, "us/user-updates")["spec"]["suspend"] == {"ingest": True, "processing": True, "users": ["ana"]}


@pytest.mark.parametrize("wish", [wish for wish, text in COMMANDS.items() if " uu " in text])
def test_an_update_takes_what_is_asked_of_it(api: Applier, wish: str) -> None:
    api.apply(UPDATE)
    run(api, COMMANDS[wish], NAME="by-hand")
    update = found(api, "uu/by-hand")
    assert update["spec"]["suspend"] or update["metadata"]["annotations"]["enrichment.dev/request"]


#: The commands that look: those of the blocks, and those in the text.
LOOKS = sorted(
    {
        look
        for page in _PAGES.values()
        for look in re.findall(r"(?:`|\$ )(kubectl (?:get|describe) [^…\n]+?)(?:`|$)", page, re.MULTILINE)
    }
)


@pytest.mark.parametrize("text", LOOKS)
def test_what_is_to_be_looked_at_can_be(api: Applier, text: str) -> None:
    api.apply(STREAM)
    api.apply(UPDATE)
    run(api, text, NAME="user-updates")


#: The whole objects that the page shows.
EXAMPLES = {
    body["kind"]: body
    for block in re.findall(r"^```yaml\n(.*?)^```$", _PAGES["resources"], re.MULTILINE | re.DOTALL)
    for body in [yaml.safe_load(string.Template(block).substitute(ADDRESSES))]
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_the_api_server_takes_the_examples(api: Applier, kind: str) -> None:
    made = api.tried(yaml.safe_dump(EXAMPLES[kind]), {})
    assert made["spec"].keys() >= EXAMPLES[kind]["spec"].keys()
