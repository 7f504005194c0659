"""What `pip install userupdates` brings: the package alone; its extra `operator` brings what both processes import."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from devenv.layout import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--wheel", "--offline", "--quiet", "--out-dir", str(folder), str(ROOT))
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel, and what it asks for: no index is needed, so nothing."""
    folder = tmp_path_factory.mktemp("empty")
    uv("venv", "--quiet", "--python", sys.executable, str(folder / "venv"))
    python = folder / "venv" / "bin" / "python"
    uv("pip", "install", "--quiet", "--offline", "--no-index", "--python", str(python), str(wheel))
    return python


def uv(*arguments: str) -> None:
    (version,) = re.findall(r"^UV_VERSION := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    subprocess.run([ROOT / ".tools" / f"uv-{version}" / "bin" / "uv", *arguments], check=True)


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command: list[str] = [str(python), "-m", "controller", *arguments]
    return subprocess.run(command, cwd=python.parent, capture_output=True, text=True)


def test_the_wheel_holds_the_product_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    product = {path.relative_to(ROOT).as_posix() for path in (ROOT / "controller").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == product
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"controller", "userupdates"}


def test_it_asks_for_nothing_but_with_its_extra(wheel: Path) -> None:
    (name,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/METADATA"))
    told = metadata.PathDistribution(zipfile.Path(wheel, name.removesuffix("METADATA"))).requires or []
    assert told and all("extra == 'operator'" in requirement for requirement in told)


@pytest.mark.parametrize("process", ["bridge", "run"])
def test_a_process_without_the_extra_says_what_to_install(process: str, python: Path) -> None:
    done = run(python, process)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: `python -m controller {process}` needs packages that are not installed here")
    assert "pip install 'userupdates[operator]'" in line


@pytest.mark.parametrize("arguments", [["--help"], ["bridge", "--help"], ["run", "--help"]])
def test_help_needs_no_extra(arguments: list[str], python: Path) -> None:
    done = run(python, *arguments)
    assert done.returncode == 0 and done.stdout.startswith("usage: python -m controller")


def test_a_wrong_option_is_told_before_what_is_missing(python: Path) -> None:
    done = run(python, "bridge", "--metrics-address", "nowhere")
    assert done.returncode == 2 and "'nowhere' is not HOST:PORT" in done.stderr
