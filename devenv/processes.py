"""Start, find, signal and stop the processes of one environment.

A process is recognised by a mark in its environment variables, not by its pid alone. So a pid that another program has
now is never signalled, and a process whose pid file was lost is found again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from devenv.errors import PortTaken, StartFailed
from devenv.layout import Layout, is_free, write_atomically

MARK = "USERUPDATES_PROCESS"
TAIL_LINES = 20
#: Signals whose disposition a child must not inherit (make and shells ignore some in background jobs).
DEFAULTED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGQUIT)


@dataclass(frozen=True, slots=True)
class Command:
    """One process to run."""

    name: str
    argv: tuple[str, ...]
    #: Returns None when the process is ready, else why it is not yet.
    probe: Callable[[], str | None]
    #: Where it is reached, for people.
    url: str = ""
    ports: tuple[int, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Seconds from the start until ready, and from SIGTERM until SIGKILL.
    ready_within: float = 60.0
    stop_within: float = 15.0


class Processes:
    """The processes of one environment, by name."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._log_starts: dict[str, int] = {}

    def find(self, name: str) -> psutil.Process | None:
        """The running process of that name; None where none runs."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return self._ours(int(self._layout.pid(name).read_text()), name)
        return None

    def names(self) -> list[str]:
        """Names that have a pid file, running or not."""
        return sorted(path.stem for path in self._layout.run.glob("*.pid"))

    def recover(self) -> None:
        """Write the pid files that are missing, as when `up` was killed between a start and its pid file."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                folder, _, name = process.environ().get(MARK, "").rpartition("/")
                # A child of one of our processes inherits the mark, but leads no session.
                if folder == str(self._layout.directory) and os.getsid(process.pid) == process.pid:
                    if self.find(name) is None:
                        write_atomically(self._layout.pid(name), f"{process.pid}\n")

    def start(self, command: Command) -> bool:
        """Start it unless it runs with this command line already. Returns whether it was started.

        Raises PortTaken where another program listens on one of its ports.
        """
        running = self.find(command.name)
        if running is not None:
            if _same_command(running, command.argv):
                return False
            self.stop(command.name, within=command.stop_within)
        if self._adopt(command):
            return False
        self._layout.make()
        log = self._layout.log(command.name)
        self._log_starts[command.name] = log.stat().st_size if log.exists() else 0
        _note_start(log)
        with _undisturbed():
            pid = os.posix_spawn(
                command.argv[0],
                command.argv,
                {**os.environ, **command.environment, MARK: self._mark(command.name)},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,  # Ctrl-C in the terminal is for `up`, not for what stays
                setsigdef=DEFAULTED,
                setsigmask=(),
            )
            write_atomically(self._layout.pid(command.name), f"{pid}\n")
            self._wait_visible(command.name, pid)
        return True

    def wait_ready(self, command: Command) -> None:
        """Wait until its probe succeeds. Raises StartFailed, with the end of its log, if it dies or takes too long."""
        deadline = time.monotonic() + command.ready_within
        while (why := command.probe()) is not None:
            if self.find(command.name) is None:
                raise StartFailed(f"{command.name} ended while starting.\n{self.tail(command.name)}")
            if time.monotonic() > deadline:
                raise StartFailed(
                    f"{command.name} is not ready after {command.ready_within:.0f} s: {why}\n{self.tail(command.name)}"
                )
            time.sleep(0.05)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to the process of that name, if it runs."""
        process = self.find(name)
        if process is not None:
            _send(process, number)

    def kill(self, name: str) -> None:
        """Send SIGKILL, and wait until it is gone."""
        process = self.find(name)
        if process is not None:
            _send(process, signal.SIGKILL)
            _wait_gone(process, within=10.0)
        self._layout.pid(name).unlink(missing_ok=True)

    def stop(self, name: str, *, within: float = 15.0) -> None:
        """Send SIGTERM, and SIGKILL after `within` seconds. The pid file is removed last."""
        process = self.find(name)
        if process is not None:
            _send(process, signal.SIGTERM)
            _send(process, signal.SIGCONT)  # a frozen process could not act on SIGTERM
            if not _wait_gone(process, within=within):
                print(f"{name} did not end within {within:.0f} s of SIGTERM: killed", file=sys.stderr, flush=True)
                _send(process, signal.SIGKILL)
                _wait_gone(process, within=10.0)
        self._layout.pid(name).unlink(missing_ok=True)

    def tail(self, name: str, lines: int = TAIL_LINES) -> str:
        """The last lines of the log since this start, after the file's name."""
        log = self._layout.log(name)
        try:
            with log.open("rb") as file:
                file.seek(self._log_starts.get(name, 0))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return f"(no log: {log})"
        return "\n".join([f"Last lines of {log}:", *("  " + line for line in text.splitlines()[-lines:])])

    def _wait_visible(self, name: str, pid: int) -> None:
        """Wait until the kernel shows the process's environment variables, a moment after exec."""
        deadline = time.monotonic() + 1.0
        while self.find(name) is None and psutil.pid_exists(pid) and time.monotonic() < deadline:
            time.sleep(0.005)

    def _adopt(self, command: Command) -> bool:
        """Write the pid file of our process that lacks one. Raises PortTaken where the port's owner is not ours."""
        for port in command.ports:
            if _becomes_free(port):
                continue
            owner = _listener(port)
            if owner is not None and self._ours(owner.pid, command.name):
                write_atomically(self._layout.pid(command.name), f"{owner.pid}\n")
                return True
            raise PortTaken(
                f"Port {port}, which {command.name} had so far, is taken by {_describe(owner)}.\n"
                f"Stop that process; or run `make down`, delete {self._layout.ports} to choose new ports, and run "
                f"`make up` (running UpdateStreams keep the old addresses until they are applied again)."
            )
        return False

    def _mark(self, name: str) -> str:
        return f"{self._layout.directory}/{name}"

    def _ours(self, pid: int, name: str) -> psutil.Process | None:
        try:
            _reap(pid)
            process = psutil.Process(pid)
            return process if process.environ().get(MARK) == self._mark(name) else None
        except (psutil.Error, OSError):
            return None


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Delay interrupts: a process without its pid file, or that does not show as ours yet, would stay behind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, DEFAULTED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _reap(pid: int) -> None:
    """Collect the exit of a child of this process. Other processes' exits are init's to collect."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _wait_gone(process: psutil.Process, *, within: float) -> bool:
    """Wait until it has released everything. A zombie keeps its ports until the last of its threads has ended."""
    deadline = time.monotonic() + within
    while True:
        _reap(process.pid)
        with contextlib.suppress(psutil.Error, OSError):
            ended = process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
            if process.is_running() and not ended:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.02)
                continue
        return True


def _same_command(process: psutil.Process, argv: Sequence[str]) -> bool:
    try:
        return process.cmdline() == list(argv)
    except psutil.Error:
        return False


def _note_start(log: Path) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(f"--- started {datetime.now(UTC).isoformat(timespec='seconds')} ---\n")


def _becomes_free(port: int, within: float = 60.0) -> bool:
    """Whether a port becomes free soon. On a busy machine a dying process may keep its port for seconds."""
    deadline = time.monotonic() + within
    while not is_free(port):
        if _listener(port) is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _listener(port: int) -> psutil.Process | None:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return process
    return None


def _describe(process: psutil.Process | None) -> str:
    if process is None:
        return "a process of another user"
    with contextlib.suppress(psutil.Error):
        return f"pid {process.pid} ({' '.join(process.cmdline())[:120]})"
    return f"pid {process.pid}"
