"""Starting, finding and stopping processes: nothing foreign is touched, nothing of ours is lost, failures speak."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from devenv import broker, probes, sources
from devenv.errors import DevenvError, PortTaken, StartFailed
from devenv.layout import HOST, PORTS, Layout, Ports, port_range
from devenv.processes import Command, Processes
from tests.support.eventually import eventually

IGNORES_SIGTERM = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "dev")
    layout.make()
    return layout


@pytest.fixture
def processes(layout: Layout) -> Iterator[Processes]:
    processes = Processes(layout)
    yield processes
    for name in processes.names():
        processes.kill(name)


@pytest.fixture
def web(layout: Layout, tmp_path: Path) -> Command:
    """A small real server."""
    port = Ports(layout).get("web")
    return Command(
        name="web",
        argv=(sys.executable, "-m", "http.server", str(port), "--bind", HOST, "--directory", str(tmp_path)),
        probe=probes.http(f"http://{HOST}:{port}/"),
        ports=(port,),
        ready_within=15,
    )


def script(text: str) -> Command:
    return Command(name="script", argv=(sys.executable, "-c", text), probe=lambda: "never", ready_within=15)


def test_ports_are_kept_and_lie_below_the_ephemeral_range(layout: Layout) -> None:
    first = Ports(layout).get("a")
    assert Ports(layout).get("a") == first
    assert Ports(layout).get("b") != first
    assert 1024 < first < int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def test_environments_side_by_side_choose_from_ranges_of_their_own(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = [range(*map(int, port_range(part, 3).split("-"))) for part in range(3)]
    assert ranges[0].stop < ranges[1].start < ranges[1].stop < ranges[2].start
    monkeypatch.setenv(PORTS, port_range(1, 3))
    assert all(Ports(layout).get(name) in ranges[1] for name in "abcdefgh")
    monkeypatch.setenv(PORTS, "15000")
    with pytest.raises(DevenvError, match="USERUPDATES_PORTS is '15000'"):
        Ports(layout).get("i")


def test_pid_is_that_of_the_process_itself(layout: Layout, processes: Processes, web: Command) -> None:
    assert processes.start(web)
    processes.wait_ready(web)
    pid = int(layout.pid("web").read_text())
    assert psutil.Process(pid).cmdline() == list(web.argv)
    assert psutil.Process(pid).children() == []


def test_running_process_is_left_alone(processes: Processes, web: Command) -> None:
    assert processes.start(web)
    processes.wait_ready(web)
    assert not processes.start(web)


def test_process_with_another_command_line_is_replaced(processes: Processes, web: Command) -> None:
    processes.start(web)
    processes.wait_ready(web)
    before = processes.find("web")
    other = Command(web.name, web.argv[:-2], web.probe, ports=web.ports, ready_within=15)
    assert processes.start(other)
    processes.wait_ready(other)
    after = processes.find("web")
    assert before is not None and after is not None and before.pid != after.pid


def test_reused_pid_is_not_taken_for_ours(layout: Layout, processes: Processes) -> None:
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as stranger:
        layout.pid("web").write_text(f"{stranger.pid}\n")
        assert processes.find("web") is None
        processes.stop("web")
        processes.kill("web")
        assert stranger.poll() is None
        stranger.kill()


def test_process_of_another_environment_is_not_taken_for_ours(
    tmp_path: Path, layout: Layout, processes: Processes, web: Command
) -> None:
    processes.start(web)
    other = Layout(tmp_path / "other")
    other.make()
    other.pid("web").write_text(layout.pid("web").read_text())
    assert Processes(other).find("web") is None


def test_lost_pid_file_is_found_again(layout: Layout, processes: Processes, web: Command) -> None:
    processes.start(web)
    processes.wait_ready(web)
    pid = layout.pid("web").read_text()
    layout.pid("web").unlink()
    assert not processes.start(web)
    assert layout.pid("web").read_text() == pid


def test_lost_pid_files_are_written_again(layout: Layout, processes: Processes, web: Command) -> None:
    processes.start(web)
    pid = layout.pid("web").read_text()
    layout.pid("web").unlink()
    processes.recover()
    assert layout.pid("web").read_text() == pid


def test_taken_port_is_named_with_its_owner(processes: Processes, web: Command) -> None:
    with socket.create_server((HOST, web.ports[0])):
        with pytest.raises(PortTaken, match=rf"Port {web.ports[0]}, .*pid {os.getpid()} .*") as refused:
            processes.start(web)
    assert "ports.json" in str(refused.value)
    assert processes.start(web)


def test_process_that_dies_at_its_start_shows_its_last_words(processes: Processes) -> None:
    command = script("print('once'); raise SystemExit('no such broker')")
    processes.start(command)
    with pytest.raises(StartFailed, match=r"script ended while starting(.|\n)*no such broker"):
        processes.wait_ready(command)


def test_last_words_are_those_of_this_start(processes: Processes) -> None:
    for words in ("first", "second"):
        command = script(f"raise SystemExit('{words}')")
        processes.start(command)
        with pytest.raises(StartFailed) as failed:
            processes.wait_ready(command)
    assert "second" in str(failed.value)
    assert "first" not in str(failed.value)


def test_process_that_never_gets_ready_is_named_with_the_reason(processes: Processes) -> None:
    command = Command(
        "script", (sys.executable, "-c", "import signal; signal.pause()"), lambda: "cold", ready_within=0.3
    )
    processes.start(command)
    with pytest.raises(StartFailed, match="not ready after 0 s: cold"):
        processes.wait_ready(command)


def test_process_that_ignores_sigterm_is_killed(layout: Layout, processes: Processes) -> None:
    processes.start(script(IGNORES_SIGTERM))
    eventually(lambda: "up" in layout.log("script").read_text())
    processes.stop("script", within=0.3)
    assert processes.find("script") is None
    assert not layout.pid("script").exists()


def test_frozen_process_can_be_stopped(processes: Processes, web: Command) -> None:
    processes.start(web)
    processes.wait_ready(web)
    processes.signal("web", signal.SIGSTOP)
    processes.stop("web", within=10)
    assert processes.find("web") is None


def test_ctrl_c_in_the_terminal_does_not_reach_it(processes: Processes, web: Command) -> None:
    processes.start(web)
    found = processes.find("web")
    assert found is not None
    assert os.getsid(found.pid) == found.pid


FORMATS = """
import sys
from pathlib import Path
from devenv import broker
from devenv.layout import Layout, Ports
java, jars, directory = map(Path, sys.argv[1:])
broker.format_storage(java, jars, Layout(directory), Ports(Layout(directory)))
"""


def test_a_formatter_that_outlives_a_killed_start_harms_nothing(layout: Layout) -> None:
    found = sources.resolve()
    assert found.java and found.kafka_jars
    arguments = [str(part) for part in (found.java, found.kafka_jars, layout.directory)]
    with subprocess.Popen([sys.executable, "-c", FORMATS, *arguments]) as killed:
        (java,) = eventually(lambda: psutil.Process(killed.pid).children())
        killed.kill()
    broker.format_storage(found.java, found.kafka_jars, layout, Ports(layout))
    meta = (layout.data / "kafka" / "meta.properties").read_text()
    assert "cluster.id=" in meta
    eventually(lambda: not java.is_running() or java.status() == psutil.STATUS_ZOMBIE, 30)
    assert (layout.data / "kafka" / "meta.properties").read_text() == meta
