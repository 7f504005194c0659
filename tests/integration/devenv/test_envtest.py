"""setup-envtest before the build: from an index of our own, with the real binaries in its archives."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import socket
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from devenv import apiserver, build, envtest, sources
from devenv.environment import Environment
from devenv.errors import NotFetched
from devenv.kubectl import Kubectl
from devenv.layout import cache_directory

MINOR = "{}.{}".format(*build.KUBERNETES_VERSION)
#: Another patch than the one that is built.
PATCH = f"{MINOR}.99"
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


class Index(ThreadingHTTPServer):
    """Serves an index at /index.yaml and archives beside it, and counts what is asked for."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.folder = folder
        self.asked: list[str] = []
        #: The path whose answer stops half-way.
        self.silent = ""
        self.ended = Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def offer(self, archives: dict[str, Path], *, digest: str = "") -> None:
        """The archive of each version, for this machine; `digest` instead of their own."""
        releases: dict[str, Any] = {}
        for version, path in archives.items():
            name = f"envtest-v{version}-{sys.platform}-{MACHINE}.tar.gz"
            archive = {"hash": digest or sha512(path.resolve()), "selfLink": f"{self.url}/{path.name}"}
            releases[f"v{version}"] = {name: archive}
        (self.folder / "index.yaml").write_text(json.dumps({"releases": releases}))  # JSON is YAML too


class _Answer(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path = self.server.folder / self.path.lstrip("/")
        body = path.read_bytes() if path.exists() else b""
        self.send_response(200 if path.exists() else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            if self.server.silent == self.path:
                self.wfile.write(body[: len(body) // 2])
                self.server.ended.wait()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@cache
def sha512(path: Path) -> str:
    """Of a file that does not change."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest()


def archive(path: Path, files: dict[str, Path]) -> Path:
    """As the published ones: the binaries in a folder, a gzipped tar."""
    with tarfile.open(path, "w:gz", compresslevel=0) as tar:
        for name, source in files.items():
            tar.add(source.resolve(), f"controller-tools/envtest/{name}")
    return path


@pytest.fixture(scope="module")
def real() -> dict[str, Path]:
    """The real binaries, by name."""
    found = sources.resolve()
    assert found.etcd and found.apiserver
    return {"etcd": found.etcd, "kube-apiserver": found.apiserver, "kubectl": found.kubectl}


@pytest.fixture(scope="module")
def published(real: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the real binaries."""
    return archive(tmp_path_factory.mktemp("published") / "good.tar.gz", real)


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine says of downloads and proxies does not count."""
    monkeypatch.delenv(envtest.INSTALLED_ONLY, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,index.invalid")


@pytest.fixture
def index(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index that offers the minor's archive and others; the cache is empty but for setup-envtest itself."""
    program = build.binary(build.SETUP_ENVTEST)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build.SETUP_ENVTEST.path.parent.mkdir(parents=True)
    build.SETUP_ENVTEST.path.symlink_to(program)
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / "good.tar.gz").symlink_to(published)
    with Index(folder) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        older, newer = f"{MINOR}.1", f"{build.KUBERNETES_VERSION[0]}.{build.KUBERNETES_VERSION[1] + 1}.0"
        server.offer({version: folder / "good.tar.gz" for version in (older, PATCH, newer)})
        monkeypatch.setenv(envtest.INDEX, f"{server.url}/index.yaml")
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Somebody with Go and a Kafka, and nothing of Kubernetes."""
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    folders = [folder for folder in os.environ["PATH"].split(os.pathsep) if (Path(folder) / "go").exists()]
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
    return {"PATH": os.environ["PATH"], "KAFKA_BOOTSTRAP_SERVERS": "broker:9092"}


def left() -> list[str]:
    """What the cache keeps beside setup-envtest and locks."""
    return sorted(
        path.name
        for path in cache_directory().iterdir()
        if path.suffix != ".lock" and path != build.SETUP_ENVTEST.path.parent
    )


def test_the_newest_patch_of_the_minor_is_fetched_once(
    index: Index, person: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = sources.resolve(person), sources.resolve(person)
    folder = cache_directory() / f"envtest-{PATCH}"
    assert (first.etcd, first.apiserver, first.kubectl) == tuple(
        folder / name for name in ("etcd", "kube-apiserver", "kubectl")
    )
    assert second == first
    assert index.asked.count("/good.tar.gz") == 1
    assert left() == [folder.name]
    assert f"fetching etcd, kube-apiserver and kubectl {MINOR}" in capfd.readouterr().err


def test_an_environment_runs_on_what_was_fetched(index: Index, person: dict[str, str], tmp_path: Path) -> None:
    environment = Environment(tmp_path / "environment")
    environment.sources = sources.resolve(person)
    try:
        for name in ("etcd", "apiserver"):
            environment.start(name)
        apiserver.write_kubeconfigs(environment.layout, environment.ports)
        kubectl = Kubectl(environment.sources.kubectl, environment.kubeconfig)
        assert kubectl("get", "--raw", "/readyz") == "ok"
    finally:
        for name in ("apiserver", "etcd"):
            environment.processes.kill(name)


def test_what_was_built_comes_before_what_was_fetched(
    index: Index, person: dict[str, str], real: dict[str, Path]
) -> None:
    folder = envtest.fetch()
    build.ETCD.path.parent.mkdir()
    build.ETCD.path.symlink_to(real["etcd"])
    found = sources.resolve(person)
    assert (found.etcd, found.apiserver) == (build.ETCD.path, folder / "kube-apiserver")


def without_an_index(index: Index, real: dict[str, Path]) -> None:
    (index.folder / "index.yaml").unlink()


def no_yaml(index: Index, real: dict[str, Path]) -> None:
    (index.folder / "index.yaml").write_text("<html>Sign in to the proxy</html>: [")


def other_minors_alone(index: Index, real: dict[str, Path]) -> None:
    index.offer({"1.30.0": index.folder / "good.tar.gz"})


def without_the_archive(index: Index, real: dict[str, Path]) -> None:
    (index.folder / "good.tar.gz").unlink()


def other_checksum(index: Index, real: dict[str, Path]) -> None:
    index.offer({PATCH: index.folder / "good.tar.gz"}, digest="0" * 128)


def no_archive(index: Index, real: dict[str, Path]) -> None:
    (index.folder / "bad.tar.gz").write_bytes(b"half of it")
    index.offer({PATCH: index.folder / "bad.tar.gz"})


def incomplete(index: Index, real: dict[str, Path]) -> None:
    files = {name: path for name, path in real.items() if name != "kubectl"}
    index.offer({PATCH: archive(index.folder / "bad.tar.gz", files)})


def for_another_machine(index: Index, real: dict[str, Path]) -> None:
    other = index.folder / "other"
    other.write_bytes(b"\x7fELF of something else")
    other.chmod(0o755)
    index.offer({PATCH: archive(index.folder / "bad.tar.gz", {**real, "kube-apiserver": other})})


def another_minor_inside(index: Index, real: dict[str, Path]) -> None:
    other = index.folder / "other"
    other.write_text("#!/bin/sh\necho Kubernetes v1.30.0\n")
    other.chmod(0o755)
    index.offer({PATCH: archive(index.folder / "bad.tar.gz", {**real, "kube-apiserver": other})})


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (without_an_index, r'unable to get index -- got status "404 Not Found"'),
        (no_yaml, r"unable to unmarshal index"),
        (other_minors_alone, r"unable to find a version that was supported for platform"),
        (without_the_archive, r'got status "404 Not Found"'),
        (other_checksum, r"checksum mismatch"),
        (no_archive, r"unable to start un-gz-ing entry archive"),
        (incomplete, r"the archive holds no kubectl"),
        (for_another_machine, rf"the kube-apiserver of the archive does not run here as {MINOR}"),
        (another_minor_inside, rf"the kube-apiserver of the archive does not run here as {MINOR}"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_fetched_is_told_and_leaves_nothing(
    fault: Callable[[Index, dict[str, Path]], None],
    said: str,
    index: Index,
    real: dict[str, Path],
) -> None:
    fault(index, real)
    with pytest.raises(NotFetched, match=said):
        envtest.fetch()
    assert left() == []


def unanswered() -> Iterator[str]:
    """An address at which connections are made and nothing is said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/index.yaml"


def refused() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield f"http://127.0.0.1:{port}/index.yaml"


def wrong() -> Iterator[str]:
    yield "a mirror, somewhere"


def without_a_name() -> Iterator[str]:
    yield "http://index.invalid/index.yaml"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (unanswered, "timed out|no answer"),
        (refused, "refused"),
        (without_a_name, "not known|resolution"),
        (wrong, "url"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_without_internet_access_not_even_setup_envtest_is_built(
    address: Callable[[], Iterator[str]], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(envtest, "SILENT_SECONDS", 1.0)
    for url in address():
        monkeypatch.setenv(envtest.INDEX, url)
        with pytest.raises(NotFetched, match=said):
            envtest.fetch()
    assert left() == []


def test_where_no_downloads_are_wanted_nobody_is_asked(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVTEST_INSTALLED_ONLY", "1")
    with pytest.raises(NotFetched, match="ENVTEST_INSTALLED_ONLY is set"):
        envtest.fetch()
    assert (index.asked, left()) == ([], [])


def test_what_a_killed_fetch_has_left_is_removed(index: Index) -> None:
    half = cache_directory() / f"envtest-{MINOR}.part" / "k8s"
    half.mkdir(parents=True)
    (half / "kubectl").write_bytes(b"half of it")
    folder = envtest.fetch()
    assert left() == [folder.name]


@pytest.mark.parametrize(("path", "said"), [("/index.yaml", "0 MiB came"), ("/good.tar.gz", r"\d+ MiB came")])
def test_a_server_that_sends_nothing_more_is_given_up(
    path: str, said: str, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert envtest.SILENT_SECONDS <= 20
    monkeypatch.setattr(envtest, "SILENT_SECONDS", 1.0)
    index.silent = path
    began = time.monotonic()
    with pytest.raises(NotFetched, match=rf"^{said}, and less than 4 MiB in the last 1 s$"):
        envtest.fetch()
    assert time.monotonic() - began < 20
    assert left() == []


def test_without_an_index_the_build_begins_at_once(
    index: Index,
    person: dict[str, str],
    real: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The build itself is not repeated here: what it made before is laid where it would put it."""
    without_an_index(index, real)
    built: list[str] = []

    def compiled(good: build.Good, target: Path) -> None:
        built.append(good.name)
        target.parent.mkdir()
        target.symlink_to(real[good.name])

    monkeypatch.setattr(build, "_compile", compiled)
    found = sources.resolve(person)
    assert sorted(built) == ["etcd", "kube-apiserver", "kubectl"]
    assert (found.etcd, found.apiserver) == (build.ETCD.path, build.APISERVER.path)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("No kube-apiserver to fetch: unable to list versions")
