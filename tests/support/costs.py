"""What something has cost: writes by the API server's count, bytes by etcd's."""

from __future__ import annotations

import httpx

from devenv.environment import Environment
from tests.support.kube import Kube


def backlog_writes(kube: Kube) -> int:
    return sum(count for (verb, _), count in kube.requests("userbacklogs").items() if verb in ("POST", "PATCH"))


def wal_bytes(environment: Environment) -> int:
    """Bytes that etcd has written to its log."""
    answer = httpx.get(f"{environment.command('etcd').url}/metrics", timeout=30, trust_env=False)
    line = next(line for line in answer.text.splitlines() if line.startswith("etcd_disk_wal_write_bytes_total "))
    return int(float(line.split()[1]))
