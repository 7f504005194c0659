"""What is built from source: of the versions that go.mod pins."""

from __future__ import annotations

import re

import pytest

from devenv import build
from devenv.layout import ROOT

GOODS = (build.ETCD, build.APISERVER, build.KUBECTL, build.SETUP_ENVTEST, build.ACTIONLINT)


@pytest.mark.parametrize("good", GOODS, ids=lambda good: good.name)
def test_a_binary_has_the_version_that_its_module_is_pinned_to(good: build.Good) -> None:
    """It names the folder in the cache: with another one a new version in go.mod would never be built."""
    pinned = re.findall(r"^\s*(?:require )?(\S+) v(\S+)", (ROOT / "devenv" / good.folder / "go.mod").read_text(), re.M)
    assert [version for module, version in pinned if good.package.startswith(module)] == [good.version]


def test_the_minor_version_is_that_of_the_release() -> None:
    assert build.KUBERNETES.split(".")[:2] == [str(number) for number in build.KUBERNETES_VERSION]
