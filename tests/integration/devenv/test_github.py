"""`.github`: what actionlint and the schemas find, and what neither of them looks for."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from devenv import github
from devenv.errors import CommandFailed
from devenv.layout import ROOT

FOLDER = ROOT / ".github"
WORKFLOWS = sorted((FOLDER / "workflows").glob("*.yaml"))


def test_the_files_of_the_repository_are_valid() -> None:
    github.check()


MISTAKES = (
    ("workflows/ci.yaml", "matrix.python }})", "matrix.pyton }})", 'property "pyton" is not defined'),
    ("workflows/ci.yaml", "timeout-minutes: 30", "timeout: 30", 'unexpected key "timeout"'),
    ("workflows/release.yaml", "needs: [test, packages]", "needs: [tests, packages]", 'needs job "tests"'),
    ("actions/setup/action.yaml", "using: composite", "using: compsite", "actions/setup/action.yaml::$"),
    ("ISSUE_TEMPLATE/bug.yaml", "type: textarea", "type: text", "ISSUE_TEMPLATE/bug.yaml::$"),
    ("ISSUE_TEMPLATE/feature.yaml", "label: What do you do today?", "title: Today", "ISSUE_TEMPLATE/feature.yaml::$"),
    ("ISSUE_TEMPLATE/config.yml", "false", "never", "ISSUE_TEMPLATE/config.yml::$"),
    ("dependabot.yml", "interval: weekly", "interval: sometimes", "dependabot.yml::$"),
)


def test_each_mistake_is_told_with_its_file(tmp_path: Path) -> None:
    folder = tmp_path / ".github"
    shutil.copytree(FOLDER, folder)
    for name, old, new, _ in MISTAKES:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
    with pytest.raises(CommandFailed) as told:
        github.check(folder)
    assert [said for *_, said in MISTAKES if said not in str(told.value)] == []


@pytest.mark.parametrize("path", [*WORKFLOWS, *FOLDER.glob("actions/*/action.yaml")], ids=lambda path: path.stem)
def test_actions_of_others_are_pinned_to_a_commit(path: Path) -> None:
    """A tag can be moved to another commit by whoever takes over its repository."""
    uses = re.findall(r"uses: (?!\./)(.*)", path.read_text())
    assert uses or path.stem not in ("action", "ci")
    assert [one for one in uses if not re.fullmatch(r"\S+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_write_only_where_a_job_says_so(path: Path) -> None:
    permissions = yaml.safe_load(path.read_text())["permissions"]
    assert "write" not in permissions.values()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_later_step_has_the_token_of_a_checkout(path: Path) -> None:
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        for step in job.get("steps", []):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
