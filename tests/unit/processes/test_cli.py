"""The command line: how many files a process may have open, and in which namespaces it works."""

import logging
import resource

import pytest

from controller import cli, process
from controller.config import Settings


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


@pytest.mark.parametrize("limits", [process.OPEN_MAX], indirect=True)
def test_beneath_an_infinite_hard_limit_as_many_files_as_macos_allows_may_be_open(limits: _Limits) -> None:
    process._raise_open_files()
    assert limits.soft == process.OPEN_MAX


@pytest.mark.parametrize("limits", [256], indirect=True)
def test_a_limit_that_cannot_be_raised_is_told_of_with_its_cure(
    limits: _Limits, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "controller.process"):
        process._raise_open_files()
    assert limits.soft == 256
    assert "At most 256 files and connections may be open at a time: raise it with ulimit -n" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "namespaces"),
    [
        ([], ()),
        (["--namespaces", "team-a,team-b"], ("team-a", "team-b")),
        (["--namespaces=team-a, team-b", "--namespaces", "7", "--namespaces=team-a"], ("team-a", "team-b", "7")),
    ],
)
def test_namespaces_are_listed_or_repeated(
    arguments: list[str], namespaces: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Settings] = []

    async def started_with(_: object, settings: Settings) -> None:
        started.append(settings)

    monkeypatch.setattr(process, "_until_stopped", started_with)
    monkeypatch.setattr(process, "_collect_seldom", lambda: None)
    cli.main(["run", *arguments])
    assert [settings.scope.namespaces for settings in started] == [namespaces]


@pytest.mark.parametrize("command", ["bridge", "run"])
@pytest.mark.parametrize("wrong", ["", "team-a,", "Team_A", "*", "-a", "a.b", "a" * 64])
def test_what_is_no_name_of_a_namespace_is_refused_at_the_start(
    command: str, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, f"--namespaces={wrong}"])
    assert ended.value.code == 2
    assert f"argument --namespaces: {wrong.rpartition(',')[2]!r} is no name of a namespace" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["bridge", "run"])
def test_help_says_what_each_option_is_without_being_set(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "may be repeated (default: all)" in told and "(default: [])" not in told
