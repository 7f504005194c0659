"""What is said of single modules and tests is said of some that exist."""

from __future__ import annotations

import pytest

from devenv.layout import ROOT
from tests.support.workers import ALONE, SECONDS


@pytest.mark.parametrize("module", SECONDS)
def test_a_module_that_begins_early_exists(module: str) -> None:
    assert (ROOT / module).is_file()


@pytest.mark.parametrize("test", ALONE)
def test_a_test_that_runs_alone_exists(test: str) -> None:
    module, _, name = test.partition("::")
    assert f"def {name}(" in (ROOT / module).read_text()
