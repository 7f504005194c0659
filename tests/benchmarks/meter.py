"""What a run costs: CPU and memory by process, API requests and watch events, bytes written to etcd."""

from __future__ import annotations

import re
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psutil

from tests.support.kube import Kube

_REQUESTS = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
_WATCH_EVENTS = re.compile(r"^apiserver_watch_events_total\{(.*)\} (\S+)$", re.MULTILINE)
_WAL_BYTES = re.compile(r"^etcd_disk_wal_write_bytes_total (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
WRITES = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"})


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters of one moment."""

    #: Seconds of CPU since its start, by process.
    cpu: Mapping[str, float]
    #: Seconds in which the machine's processors were busy, whoever had them.
    machine: float
    #: Bytes resident, by process.
    memory: Mapping[str, int]
    #: By verb and resource, as `PATCH userupdates/status`.
    requests: Mapping[str, int] = field(default_factory=dict)
    watch_events: int = 0
    wal_bytes: int = 0

    def writes(self) -> int:
        return sum(count for what, count in self.requests.items() if what.split()[0] in WRITES)


class Meter:
    """Reads the counters of named processes, of one API server and its etcd."""

    def __init__(self, kube: Kube, etcd_url: str, processes: Mapping[str, psutil.Process]) -> None:
        self._kube = kube
        self._etcd_url = etcd_url
        self._processes = processes

    def before(self) -> Reading:
        """Processes last: what reading the API server's own counters costs is not measured."""
        requests, watch_events, wal = self._servers()
        cpu, machine, memory = self._usage()
        return Reading(cpu, machine, memory, requests, watch_events, wal)

    def after(self) -> Reading:
        """Processes first."""
        cpu, machine, memory = self._usage()
        requests, watch_events, wal = self._servers()
        return Reading(cpu, machine, memory, requests, watch_events, wal)

    def memory(self) -> Mapping[str, int]:
        """Bytes resident now, by process."""
        return self._usage()[2]

    def _usage(self) -> tuple[dict[str, float], float, dict[str, int]]:
        cpu, memory = {}, {}
        for name, process in self._processes.items():
            family = [process, *process.children(recursive=True)]
            cpu[name] = sum(part.cpu_times().user + part.cpu_times().system for part in family)
            memory[name] = sum(part.memory_info().rss for part in family)
        times = psutil.cpu_times()
        return cpu, sum(times) - times.idle - times.iowait - times.guest - times.guest_nice, memory

    def _servers(self) -> tuple[dict[str, int], int, int]:
        text = self._kube.client.get("/metrics").raise_for_status().text
        with urllib.request.urlopen(f"{self._etcd_url}/metrics", timeout=10) as answer:
            wal = _WAL_BYTES.search(answer.read().decode())
        requests: Counter[str] = Counter()
        for labels, count in _REQUESTS.findall(text):
            found = dict(_LABEL.findall(labels))
            what = "/".join(filter(None, (found["resource"], found["subresource"])))
            requests[f"{found['verb']} {what}"] += int(float(count))
        events = sum(
            int(float(count))
            for labels, count in _WATCH_EVENTS.findall(text)
            if dict(_LABEL.findall(labels)).get("resource") == "userupdates"
        )
        return dict(requests), events, int(float(wal[1])) if wal else 0


def figures(before: Reading, after: Reading, events: int, own: Sequence[str]) -> dict[str, float]:
    """What lay between two readings for each of so many events, by name; `own` are the contender's processes."""
    cpu = {name: (at - before.cpu[name]) * 1000 / events for name, at in after.cpu.items()}
    requests = {what: (count - before.requests.get(what, 0)) / events for what, count in after.requests.items()}
    return {
        **{f"cpu_ms.{name}": ms for name, ms in cpu.items()},
        "own_cpu_ms": sum(cpu[name] for name in own),
        "machine_cpu_ms": (after.machine - before.machine) * 1000 / events,
        "api_writes": (after.writes() - before.writes()) / events,
        # What came less than once in a hundred events is left out.
        **{f"requests.{what}": count for what, count in sorted(requests.items()) if count >= 0.01},
        "watch_events": (after.watch_events - before.watch_events) / events,
        "etcd_bytes": (after.wal_bytes - before.wal_bytes) / events,
        **{f"memory_mib.{name}": size / 2**20 for name, size in after.memory.items()},
        "own_memory_mib": sum(after.memory[name] for name in own) / 2**20,
    }
