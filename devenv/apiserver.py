"""etcd and kube-apiserver: their command lines, accounts and kubeconfigs.

There is no kube-controller-manager: nothing collects by ownerReference, and a deleted namespace stays Terminating.
"""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
from pathlib import Path

import psutil

from devenv import probes
from devenv.layout import HOST, Layout, Ports, write_atomically
from devenv.processes import Command

#: Accounts beside the administrator; the RBAC manifests bind the ServiceAccounts of these names.
ACCOUNTS = ("bridge", "controller")
NAMESPACE = "enrichment-system"

#: With the tuning the API server differs from a cluster's: requests are not queued fairly by user (past 200 writes at
#: once the answer is 429 at once), webhooks are not called and LimitRanges not applied. Kept: RBAC, namespace
#: lifecycle, quotas, CEL policies. The gain: a write costs about two thirds of the processor time.
WITHOUT_WEBHOOKS = "--disable-admission-plugins=MutatingAdmissionWebhook,ValidatingAdmissionWebhook,LimitRanger"
#: A collection is deleted by eight at a time: with a third less processor time. No fidelity is lost.
DELETING = "--delete-collection-workers=8"
TUNING = ("--enable-priority-and-fairness=false", WITHOUT_WEBHOOKS, DELETING)

#: A rare garbage collection saves a fifth of the processor time. The limit is for floods, where the watch cache keeps
#: the last 75 seconds of events decoded, and a heap of five times that was seen to reach 4.5 GB; near it collections
#: are frequent again. So it grows with the machine: a quarter of its memory, 1 GiB at least.
TUNED_GC = {"GOGC": "400", "GOMEMLIMIT": f"{max(1 << 30, psutil.virtual_memory().total // 4)}B"}

#: One processor saves etcd a quarter of the processor time of a write on a machine of two. No fidelity is lost.
TUNED_ETCD = {"GOMAXPROCS": "1"}


def etcd(binary: Path, layout: Layout, ports: Ports, *, tuned: bool) -> Command:
    """One etcd member. fsync stays on, so that acknowledged writes survive a crash."""
    client, peer = ports.get("etcd"), ports.get("etcd-peer")
    client_url, peer_url = f"http://{HOST}:{client}", f"http://{HOST}:{peer}"
    arguments = {
        "--data-dir": str(layout.data / "etcd"),
        "--listen-client-urls": client_url,
        "--advertise-client-urls": client_url,
        "--listen-peer-urls": peer_url,
        "--initial-advertise-peer-urls": peer_url,
        "--initial-cluster": f"default={peer_url}",
        "--quota-backend-bytes": str(8 << 30),
        "--log-level": "warn",
    }
    return Command(
        name="etcd",
        argv=(str(binary), *(part for pair in arguments.items() for part in pair)),
        environment=TUNED_ETCD if tuned else {},
        probe=probes.http(f"{client_url}/health"),
        url=client_url,
        ports=(client, peer),
    )


def server(binary: Path, layout: Layout, ports: Ports, *, tuned: bool) -> Command:
    """kube-apiserver. It makes its own certificate, whose key also signs service account tokens."""
    port = ports.get("apiserver")
    certificates = layout.etc / "apiserver"
    tokens = account_tokens(layout)
    arguments = {
        "--etcd-servers": f"http://{HOST}:{ports.get('etcd')}",
        "--bind-address": HOST,
        "--advertise-address": HOST,
        "--secure-port": str(port),
        "--cert-dir": str(certificates),
        "--service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "--service-account-key-file": str(certificates / "apiserver.key"),
        "--service-account-signing-key-file": str(certificates / "apiserver.key"),
        "--service-cluster-ip-range": "10.0.0.0/24",
        "--endpoint-reconciler-type": "none",
        "--authorization-mode": "RBAC",
        "--token-auth-file": str(layout.etc / "tokens.csv"),
    }
    return Command(
        name="apiserver",
        argv=(str(binary), *(f"{key}={value}" for key, value in arguments.items()), *(TUNING if tuned else ())),
        environment=TUNED_GC if tuned else {},
        probe=probes.http(
            f"https://{HOST}:{port}/readyz",
            headers={"Authorization": f"Bearer {tokens['admin']}"},
            ca=certificates / "apiserver.crt",
        ),
        url=f"https://{HOST}:{port}",
        ports=(port,),
    )


def forget_certificate(layout: Layout) -> None:
    """Delete the certificate and key of kube-apiserver. It makes new ones when it starts."""
    for path in (layout.etc / "apiserver").glob("apiserver.*"):
        path.unlink()


def publish_authority(layout: Layout) -> None:
    """Copy the authority to the file that kubeconfigs name. It stays there while the API server makes a new one."""
    write_atomically(layout.authority, (layout.etc / "apiserver" / "apiserver.crt").read_text(encoding="ascii"))


def account_tokens(layout: Layout) -> dict[str, str]:
    """The token of each account. Made once, together with the file that kube-apiserver reads the tokens from."""
    path = layout.etc / "tokens.csv"
    if not path.exists():
        service_accounts = f"system:serviceaccounts,system:serviceaccounts:{NAMESPACE}"
        rows = [(secrets.token_hex(16), "admin", "admin", "system:masters")]
        for account in ACCOUNTS:
            user = f"system:serviceaccount:{NAMESPACE}:{account}"
            rows.append((secrets.token_hex(16), user, account, service_accounts))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        layout.make()
        write_atomically(path, text.getvalue())
        path.chmod(0o600)
    with path.open(encoding="utf-8", newline="") as file:
        return {uid: token for token, _, uid, _ in csv.reader(file)}


def write_kubeconfigs(layout: Layout, ports: Ports) -> None:
    """A kubeconfig for the administrator and one for each account."""
    cluster = {
        "server": f"https://{HOST}:{ports.get('apiserver')}",
        "certificate-authority": str(layout.authority),
    }
    for account, token in account_tokens(layout).items():
        if account == "admin":
            write_kubeconfig(layout.kubeconfig, cluster, token, "default")
        else:
            write_kubeconfig(layout.account_kubeconfig(account), cluster, token)


def write_kubeconfig(path: Path, cluster: dict[str, str], token: str, namespace: str = NAMESPACE) -> None:
    """A kubeconfig of one cluster and one user with a bearer token. JSON is YAML too.

    `namespace` is the context's. As in pods, bridge and controller have their own Leases there.
    """
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "userupdates", "cluster": cluster}],
        "users": [{"name": "userupdates", "user": {"token": token}}],
        "contexts": [
            {
                "name": "userupdates",
                "context": {"cluster": "userupdates", "user": "userupdates", "namespace": namespace},
            }
        ],
        "current-context": "userupdates",
    }
    previous = os.umask(0o077)
    try:
        write_atomically(path, json.dumps(config, indent=1) + "\n")
    finally:
        os.umask(previous)
