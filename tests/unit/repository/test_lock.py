"""What uv.lock says can be installed without a compiler: by every Python and on every platform that is promised."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = tomllib.loads((ROOT / "uv.lock").read_text())
SUPPORTED = SpecifierSet(PROJECT["requires-python"])
#: As wide as they come: what has no upper bound is found out.
MINORS = [minor for minor in range(40) if SUPPORTED.contains(f"3.{minor}.0")]
PLATFORMS = {("linux", "x86_64"): "Linux", ("linux", "aarch64"): "Linux", ("darwin", "arm64"): "Darwin"}
#: The oldest C library: Debian 10, RHEL 8; and the oldest macOS.
GLIBC_MINOR, MACOS = 28, (14, 0)


def tags(minor: int, system: str, machine: str) -> frozenset[Tag]:
    """All that an interpreter of that kind can install."""
    if system == "darwin":
        platforms = list(mac_platforms(MACOS, machine))
    else:
        named = [f"manylinux{year}_{machine}" for year in ("2014", "2010", "1")]
        platforms = [*(f"manylinux_2_{lower}_{machine}" for lower in range(GLIBC_MINOR, 4, -1)), *named]
    found = cpython_tags((3, minor), platforms=platforms)
    return frozenset([*found, *compatible_tags((3, minor), f"cp3{minor}", platforms)])


def environment(minor: int, system: str, machine: str) -> Mapping[str, str]:
    return {
        "python_version": f"3.{minor}",
        "python_full_version": f"3.{minor}.0",
        "sys_platform": system,
        "platform_system": PLATFORMS[system, machine],
        "platform_machine": machine,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "extra": "",
    }


@cache
def packages() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for package in LOCK["package"]:
        found.setdefault(package["name"], []).append(package)
    return found


def holds(marker: str | None, where: Mapping[str, str]) -> bool:
    return marker is None or Marker(marker).evaluate(dict(where))


def wanted(group: str, where: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """All packages that are installed there, of the image or of a group besides."""
    (own,) = packages()[PROJECT["name"]]
    waiting = own["optional-dependencies"]["operator"] if group == "image" else own["dev-dependencies"][group]
    waiting = [*waiting]
    seen: set[tuple[str, str]] = set()
    while waiting:
        dependency = waiting.pop()
        if not holds(dependency.get("marker"), where):
            continue
        for package in packages()[dependency["name"]]:
            forks = package.get("resolution-markers")
            key = package["name"], package["version"]
            if key in seen or (forks and not any(holds(fork, where) for fork in forks)):
                continue
            seen.add(key)
            yield package
            waiting += package.get("dependencies", [])
            for extra in dependency.get("extra", ()):
                waiting += package["optional-dependencies"][extra]


@pytest.mark.parametrize("group", ["image", "dev", "reload"])
@pytest.mark.parametrize(("system", "machine"), PLATFORMS)
@pytest.mark.parametrize("minor", MINORS)
def test_every_python_that_is_promised_installs_without_a_compiler(
    minor: int, system: str, machine: str, group: str
) -> None:
    able = tags(minor, system, machine)
    found = list(wanted(group, environment(minor, system, machine)))
    assert found
    without = [
        package["name"]
        for package in found
        if not any(
            able & parse_wheel_filename(wheel["url"].rpartition("/")[2])[3] for wheel in package.get("wheels", ())
        )
    ]
    assert without == []


def test_the_lock_names_the_public_index_alone() -> None:
    """Who writes it behind a mirror would otherwise make everybody else ask there."""
    hosts = set(re.findall(r'"https?://([^/"]+)', (ROOT / "uv.lock").read_text()))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}


def test_the_versions_are_named_where_they_are_looked_for() -> None:
    versions = f"{MINORS[0]} to 3.{MINORS[-1]}"
    for path in ("README.md", "Makefile", "Dockerfile"):
        assert f"3.{versions}" in (ROOT / path).read_text(), path


def test_a_machine_without_such_a_python_is_told_what_to_install(tmp_path: Path) -> None:
    """As if none of the machine's were: here no Python is new enough."""
    for name in ("pyproject.toml", "uv.lock"):
        text = (ROOT / name).read_text()
        (tmp_path / name).write_text(re.sub(r"^requires-python = .*$", 'requires-python = ">=3.98"', text, flags=re.M))
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / ".tools").symlink_to(ROOT / ".tools")
    command = ["make", "-C", str(tmp_path), ".venv/synced", "UV_PYTHON_DOWNLOADS=never"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"Missing: Python 3.{MINORS[0]} to 3.{MINORS[-1]}" in done.stdout
    assert not (tmp_path / ".venv" / "synced").exists()


@pytest.mark.parametrize("whole", [True, False])
def test_a_second_checkout_needs_no_index_for_uv(tmp_path: Path, whole: bool) -> None:
    """The cache has it from the first one, or a part of it, which is no program."""
    makefile = (ROOT / "Makefile").read_text()
    (tmp_path / "Makefile").write_text(makefile)
    (version,) = re.findall(r"^UV_VERSION := (.*)$", makefile, re.MULTILINE)
    uv = Path(".tools", f"uv-{version}", "bin", "uv")
    cached = tmp_path / "a cache é" / "userupdates" / f"uv-{version}"
    cached.parent.mkdir(parents=True)
    shutil.copy(ROOT / uv, cached) if whole else cached.write_bytes(b"half of it")
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_RETRIES": "0", "XDG_CACHE_HOME": str(cached.parents[1])}
    command = ["make", "-C", str(tmp_path), str(uv)]
    done = subprocess.run(command, env={**os.environ, **nowhere}, capture_output=True, text=True)
    assert (done.returncode == 0, (tmp_path / uv).exists()) == (whole, whole), done.stderr
    assert (f"Missing: uv {version}" in done.stdout) != whole


@pytest.mark.parametrize(
    ("abi", "refused"), [("cpython-312-x86_64-linux-gnu", False), ("cpython-312-aarch64-linux-musl", True)]
)
def test_an_image_without_wheels_for_its_c_library_is_refused_at_once(
    abi: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first command of the build, as it stands in the Dockerfile."""
    first = re.findall(r"^RUN (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0]
    (code,) = re.findall(r'^python -c "(.*)"$', first)
    monkeypatch.setattr(sysconfig, "get_config_var", {"SOABI": abi}.get)
    if not refused:
        exec(code)
        return
    with pytest.raises(SystemExit, match=re.escape("--build-arg PYTHON=python:3.12-slim")):
        exec(code)
