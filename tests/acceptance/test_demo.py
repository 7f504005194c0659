"""`make demo`, as a person runs it: it holds its guarantees, and README and docs show what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo import scenario
from devenv.environment import Environment
from devenv.journal import Expectations, Rule, check, read_calls
from tests.support.transcripts import PAGES, README, ROOT, missing, shown


@dataclass(frozen=True, slots=True)
class Run:
    exit_code: int
    output: str
    directory: Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One run, in a directory of its own."""
    directory = tmp_path_factory.mktemp("dev")
    done = subprocess.run(
        [sys.executable, "-m", "demo"],
        cwd=ROOT,
        env={**os.environ, "USERUPDATES_DEV_DIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    yield Run(done.returncode, done.stdout + done.stderr, directory / "demo")


def test_the_demo_holds_its_guarantees(run: Run) -> None:
    assert run.exit_code == 0, run.output
    assert "BROKEN" not in run.output
    assert run.output.count("\nheld ") == 6


def test_the_readme_shows_what_it_prints(run: Run) -> None:
    """And so do the pages: the one of the demo shows all of it."""
    blocks = [block for page in PAGES for block in shown("make demo", page.read_text())]
    assert len(blocks) == 4
    assert list(shown("make demo", README.read_text()))
    for block in blocks:
        assert missing(block, run.output) is None, run.output


def test_nothing_is_left_running(run: Run) -> None:
    environment = Environment(run.directory)
    assert environment.processes.names() == []


def test_its_journal_is_judged_by_what_is_in_it(run: Run) -> None:
    """The journal that the demo left is good; with two records of a user exchanged it is not."""
    lines = (run.directory / "data" / "downstream" / "journal.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert len([record for record in records if record["kind"] == "begin"]) >= 3 * 82
    good = {violation.rule for violation in check(read_calls(records), Expectations())}
    assert good <= {Rule.REPEATED}  # the answers that the SIGKILL kept from being recorded
    own = [each for each in records if each["kind"] == "begin" and each["user"] == scenario.BURST_USERS[-1]]
    first, last = own[0], own[-1]
    first["sequence"], last["sequence"] = last["sequence"], first["sequence"]
    assert Rule.SEQUENCE in {violation.rule for violation in check(read_calls(records), Expectations())}
