"""Which proxy leads to the API server: as Go decides it, case by case."""

from __future__ import annotations

import pytest

from controller.clients.proxies import proxy_for

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("url", "no_proxy", "direct"),
    [
        ("https://10.0.0.1:6443", "", False),
        ("https://10.0.0.1:6443", "10.0.0.1", True),
        ("https://10.0.0.1:6443", "10.0.0.1:6443", True),
        ("https://10.0.0.1:6443", "10.0.0.1:443", False),
        ("https://10.0.0.1", "10.0.0.1:443", True),
        ("https://10.0.0.1:6443", "10.0.0.0/8", True),
        ("https://10.0.0.1:6443", "192.168.0.0/16, 10.0.0.0/24", True),
        ("https://10.0.1.1:6443", "10.0.0.0/24", False),
        ("https://10.0.0.1:6443", "10.0.0", False),
        ("https://10.0.0.1:6443", "10.0.0.0/99", False),
        ("https://[fd00::1]:6443", "fd00::/8", True),
        ("https://[fd00::1]:6443", "fd00::1", True),
        ("https://[fd00::1]:6443", "[fd00::1]:6443", True),
        ("https://api.example.com:6443", "*", True),
        ("https://api.example.com:6443", "example.com", True),
        ("https://api.example.com:6443", ".example.com", True),
        ("https://api.example.com:6443", "*.example.com", True),
        ("https://example.com:6443", ".example.com", False),
        ("https://example.com:6443", "example.com", True),
        ("https://badexample.com:6443", "example.com", False),
        ("https://API.example.com.:6443", "api.Example.com", True),
        ("https://kubernetes.default.svc", ".svc,.cluster.local", True),
        ("https://127.0.0.1:6443", "", True),
        ("https://127.8.0.1:6443", "", True),
        ("https://[::1]:6443", "", True),
        ("https://localhost:6443", "", True),
    ],
)
def test_what_is_asked_directly(url: str, no_proxy: str, direct: bool) -> None:
    environ = {"HTTPS_PROXY": PROXY, "NO_PROXY": no_proxy}
    assert proxy_for(url, environ) == (None if direct else PROXY)
    lower = {name.lower(): value for name, value in environ.items()}
    assert proxy_for(url, lower) == (None if direct else PROXY)


def test_the_scheme_decides_which_proxy() -> None:
    environ = {"HTTP_PROXY": "http://a:1", "HTTPS_PROXY": "b:2"}
    assert proxy_for("http://api.example.com", environ) == "http://a:1"
    assert proxy_for("https://api.example.com", environ) == "http://b:2", "a scheme is added where there is none"
    assert proxy_for("https://api.example.com", {}) is None
