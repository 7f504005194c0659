"""Where the environment keeps its files, and which ports it has."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devenv.errors import DevenvError

#: The checkout.
ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
#: `FIRST-LAST`: the ports that environments choose theirs from. Where several run side by side, each has a range of its
#: own. Otherwise one could take a port of another one while the process that it belongs to starts.
PORTS = "USERUPDATES_PORTS"
#: Where `python -m demo` keeps an environment of its own, within the default one.
DEMO = "demo"


def default_directory() -> Path:
    """`.dev` of the checkout, or what `USERUPDATES_DEV_DIR` says: tests and the demo have one of their own."""
    return Path(os.environ.get("USERUPDATES_DEV_DIR") or ROOT / ".dev").absolute()


def cache_directory() -> Path:
    """Binaries by version, shared by all checkouts of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "userupdates"


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one environment."""

    directory: Path

    @property
    def run(self) -> Path:
        return self.directory / "run"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def etc(self) -> Path:
        """Generated configuration: certificates, tokens, server.properties."""
        return self.directory / "etc"

    @property
    def authority(self) -> Path:
        """Whom the clients of the embedded API server trust."""
        return self.etc / "authority.crt"

    @property
    def bin(self) -> Path:
        return self.directory / "bin"

    @property
    def env(self) -> Path:
        return self.directory / "env"

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "kubeconfig"

    @property
    def state(self) -> Path:
        return self.directory / "state.json"

    @property
    def ports(self) -> Path:
        return self.directory / "ports.json"

    def pid(self, name: str) -> Path:
        return self.run / f"{name}.pid"

    def log(self, name: str) -> Path:
        return self.run / f"{name}.log"

    def account_kubeconfig(self, account: str) -> Path:
        return self.directory / f"kubeconfig-{account}"

    def make(self) -> None:
        """Create the directories; only the user may read them (they hold tokens)."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in (self.run, self.data, self.etc, self.bin):
            path.mkdir(exist_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Replace a file as a whole: an interrupted `up` never leaves half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as broken:
        raise DevenvError(f"{path} is not JSON ({broken}); run `make clean` to start anew") from broken
    if not isinstance(found, dict):
        raise DevenvError(f"{path} does not hold an object; run `make clean` to start anew")
    return found


@contextlib.contextmanager
def locked(path: Path, *, what: str) -> Iterator[None]:
    """Hold an exclusive lock on a file; says so once when another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that {what} ({path})", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Ports:
    """Ports chosen free once and kept from then on, by name.

    They lie below the kernel's ephemeral range: otherwise a client that keeps dialling a dead server can be given the
    server's own port as its source port, connect to itself, and keep the server from coming back.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._ports: dict[str, int] = read_json(layout.ports)

    def get(self, name: str) -> int:
        """The port of that name, chosen now if there is none yet."""
        if name not in self._ports:
            self._ports = read_json(self._layout.ports)  # another process may have chosen since
        if name not in self._ports:
            self._ports[name] = self._choose()
            self._layout.make()
            write_atomically(self._layout.ports, json.dumps(self._ports, indent=1) + "\n")
        return self._ports[name]

    def known(self) -> dict[str, int]:
        """All ports chosen so far."""
        self._ports = read_json(self._layout.ports)
        return dict(self._ports)

    def _choose(self) -> int:
        candidates = _candidates()
        for port in random.sample(candidates, len(candidates)):
            if port not in self._ports.values() and is_free(port):
                return port
        raise DevenvError(f"no free port between {candidates.start} and {candidates.stop} on {HOST}")


def port_range(part: int, parts: int) -> str:
    """The value of `PORTS` for one of so many environments, counted from 0."""
    every = range(15000, _ephemeral_start())
    size = len(every) // parts
    return f"{every[part * size]}-{every[(part + 1) * size - 1]}"


def _candidates() -> range:
    """Raises DevenvError where `PORTS` says something else than a range."""
    given = os.environ.get(PORTS) or port_range(0, 1)
    try:
        first, last = map(int, given.split("-"))
    except ValueError:
        raise DevenvError(f"{PORTS} is {given!r}: it must be two numbers with a dash between them") from None
    return range(first, last + 1)


def _ephemeral_start() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32768
    return first if first > 16000 else 32768


def is_free(port: int) -> bool:
    """Whether a server can bind this port of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
