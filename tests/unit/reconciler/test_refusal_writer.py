"""Requests to finished updates: what the API server cannot write now is written later."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from controller.errors import Forbidden, Unavailable
from controller.reconciler import refusal_writer
from controller.reconciler.refusal_writer import RefusalWriter
from tests.support.builders import FINAL, NOW, make_update
from tests.support.eventually import eventually_async


class Cluster:
    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.written: list[str] = []

    async def patch_status(self, _resource: Any, _namespace: str, name: str, _status: Any, version: int) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        self.written.append(name)
        return {"metadata": {"resourceVersion": str(version + 1)}}


class Lease:
    tenure = 1

    async def wait_held(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "written"), [(Unavailable("no answer"), ["one", "other"]), (Forbidden("a policy"), ["other"])]
)
async def test_an_outage_loses_no_answer_and_a_refusal_keeps_no_other_waiting(
    error: Exception, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished updates are not listed again, so that nothing else would show the request."""
    monkeypatch.setattr(refusal_writer, "RETRY_SECONDS", 0.0)
    cluster, told = Cluster(error), list[str]()
    events = SimpleNamespace(update_changed=lambda update, before: told.append(update.name))
    context = SimpleNamespace(cluster=cluster, lease=Lease(), refusals={}, now=lambda: NOW, events=events)
    requests = RefusalWriter(cast(Any, context))
    for name in ("one", "other"):
        requests.check(make_update(name=name, status=FINAL, request="retry"))

    async def all_written() -> bool:
        return len(told) >= len(written) and not cluster.errors

    await eventually_async(all_written, within=5)
    assert sorted(cluster.written) == sorted(told) == written
