"""Fetch etcd, kube-apiserver and kubectl with setup-envtest: seconds, where the build from source takes minutes.

setup-envtest (sigs.k8s.io/controller-runtime/tools/setup-envtest) reads an index of archives, takes the newest one of
the wanted minor version, and compares its SHA-512 with the one that the index gives. The result may be another patch
version than the one that is built. Each lies in the user's cache by its own version, and neither replaces the other.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from devenv import build
from devenv.errors import BuildFailed, NotFetched
from devenv.layout import cache_directory, locked
from devenv.progress import Progress
from devenv.versions import version_of

#: The variable that names another index than setup-envtest's own, such as a company's mirror.
INDEX = "USERUPDATES_ENVTEST_INDEX"
#: setup-envtest's own variable: it fetches nothing where this is set.
INSTALLED_ONLY = "ENVTEST_INSTALLED_ONLY"
DEFAULT_INDEX = "https://raw.githubusercontent.com/kubernetes-sigs/controller-tools/HEAD/envtest-releases.yaml"
#: The fetch is given up where the index has not answered after so many seconds, and where fewer bytes than these have
#: come in so many seconds: the build is sooner done.
SILENT_SECONDS = 15.0
LEAST_BYTES = 4 << 20
POLL_SECONDS = 0.2

_MINOR = "{}.{}".format(*build.KUBERNETES_VERSION)
_NAMES = (build.ETCD.name, build.APISERVER.name, build.KUBECTL.name)


def cached() -> Path | None:
    """The folder with the three binaries that was fetched before, the newest one; None where none was."""
    found = []
    for folder in cache_directory().glob(f"envtest-{_MINOR}.*"):
        patch = re.fullmatch(rf"envtest-{re.escape(_MINOR)}\.(\d+)", folder.name)
        if patch and not _lacking(folder):
            found.append((int(patch[1]), folder))
    return max(found)[1] if found else None


def fetch() -> Path:
    """Fetch the three binaries into the cache, where they are not there yet; their folder.

    Raises NotFetched, with the reason, where there is no index or archive, where it is too slow, or where what comes
    cannot be used: within SILENT_SECONDS of the last progress.
    """
    with locked(cache_directory() / f"envtest-{_MINOR}.lock", what="fetches kube-apiserver"):
        return cached() or _fetch(os.environ.get(INDEX) or DEFAULT_INDEX)


def _fetch(index: str) -> Path:
    if os.environ.get(INSTALLED_ONLY):
        raise NotFetched(f"{INSTALLED_ONLY} is set")
    _look_for(index)
    try:
        program = build.binary(build.SETUP_ENVTEST)
    except BuildFailed as failed:
        raise NotFetched(str(failed).partition("\n")[0]) from failed
    temporary = cache_directory() / f"envtest-{_MINOR}.part"
    shutil.rmtree(temporary, ignore_errors=True)  # of a fetch that was killed: the lock is ours
    temporary.mkdir()
    try:
        folder = _use(program, index, temporary)
        folder.chmod(0o755)  # setup-envtest removes the write permission, and without it a folder cannot be moved
        _check(folder)
        version = folder.name.partition("-")[0]  # 1.37.0-linux-amd64
        target = cache_directory() / f"envtest-{version}"
        shutil.rmtree(target, ignore_errors=True)  # an incomplete one, else it would have been found
        return folder.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _look_for(index: str) -> None:
    """Raises NotFetched where nobody answers: without Internet access setup-envtest itself need not be built.

    setup-envtest judges the answer and its certificate: it may know other authorities.
    """
    found: list[str] = []
    # A name is looked up without any limit of time: not in this thread.
    asking = threading.Thread(target=lambda: found.append(_unreachable(index)), daemon=True)
    asking.start()
    asking.join(SILENT_SECONDS)
    reason = found[0] if found else f"no answer within {SILENT_SECONDS:g} s"
    if reason:
        raise NotFetched(f"{index}: {reason}")


def _unreachable(index: str) -> str:
    """Why nobody can be asked at that address; empty where somebody answers, whatever it is."""
    try:
        urllib.request.urlopen(index, timeout=SILENT_SECONDS).close()
    except (urllib.error.HTTPError, http.client.HTTPException):
        return ""
    except (OSError, ValueError) as failed:
        cause = getattr(failed, "reason", failed)
        return "" if isinstance(cause, ssl.SSLError) else str(cause)
    return ""


def _use(program: Path, index: str, temporary: Path) -> Path:
    """Run `setup-envtest use`; the folder that it prints."""
    command = [str(program), "use", f"{_MINOR}.x", "--index", index, "--use-env=false"]
    command += ["--bin-dir", str(temporary), "--print", "path"]
    environment = {**os.environ, "TMPDIR": str(temporary)}  # so that all that it has fetched can be seen
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            _watch(process, temporary)
        finally:
            process.kill()
        out, err = process.communicate()
    if process.returncode != 0:
        raise NotFetched(err.strip().rpartition("\n")[2] or f"setup-envtest ended with {process.returncode}")
    return Path(out.strip())


def _watch(process: subprocess.Popen[str], temporary: Path) -> None:
    """Show what is fetched until the process ends. Raises NotFetched where that is too little."""
    progress = Progress(f"fetching etcd, kube-apiserver and kubectl {_MINOR}", "MiB")
    judged, judged_size, size = time.monotonic(), 0, 0
    while process.poll() is None:
        time.sleep(POLL_SECONDS)
        size = _size(temporary)
        progress.show(size >> 20)
        if size - judged_size >= LEAST_BYTES:
            judged, judged_size = time.monotonic(), size
        elif time.monotonic() - judged > SILENT_SECONDS:
            progress.clear()
            raise NotFetched(
                f"{size >> 20} MiB came, and less than {LEAST_BYTES >> 20} MiB in the last {SILENT_SECONDS:g} s"
            )
    if process.returncode == 0:
        progress.done(_size(temporary) >> 20)


def _size(folder: Path) -> int:
    """Bytes in all files beneath a folder in which files come and go."""
    total = 0
    for directory, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(directory, name)).st_size
    return total


def _lacking(folder: Path) -> list[str]:
    return [name for name in _NAMES if not os.access(folder / name, os.X_OK)]


def _check(folder: Path) -> None:
    """Raises NotFetched unless all three are there, run here, and are of the wanted version."""
    if lacking := _lacking(folder):
        raise NotFetched(f"the archive holds no {' and no '.join(lacking)}")
    for name, option in ((build.APISERVER.name, ("--version",)), (build.KUBECTL.name, ("version", "--client"))):
        if version_of([str(folder / name), *option]) != build.KUBERNETES_VERSION:
            raise NotFetched(f"the {name} of the archive does not run here as {_MINOR}")
    if version_of([str(folder / build.ETCD.name), "--version"]) is None:
        raise NotFetched("the etcd of the archive does not run here")
