"""The command line: how many files a process may have open."""

import logging
import resource

import pytest

from controller import cli


class _Limits:
    """The limits of a system that takes no soft limit above `most`, as macOS does beneath an infinite hard one."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.soft = 256

    def getrlimit(self, _what: int) -> tuple[int, int]:
        return self.soft, resource.RLIM_INFINITY

    def setrlimit(self, _what: int, limits: tuple[int, int]) -> None:
        wanted = limits[0]
        if wanted == resource.RLIM_INFINITY or wanted > self.most:
            raise ValueError("current limit exceeds maximum limit")
        self.soft = wanted


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> _Limits:
    limits = _Limits(request.param)
    monkeypatch.setattr(resource, "getrlimit", limits.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", limits.setrlimit)
    return limits


@pytest.mark.parametrize("limits", [cli.OPEN_MAX], indirect=True)
def test_beneath_an_infinite_hard_limit_as_many_files_as_macos_allows_may_be_open(limits: _Limits) -> None:
    cli._raise_open_files()
    assert limits.soft == cli.OPEN_MAX


@pytest.mark.parametrize("limits", [256], indirect=True)
def test_a_limit_that_cannot_be_raised_is_told_of_with_its_cure(
    limits: _Limits, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "controller.cli"):
        cli._raise_open_files()
    assert limits.soft == 256
    assert "At most 256 files and connections may be open at a time: raise it with ulimit -n" in caplog.text
