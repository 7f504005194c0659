"""Which delays are over when a step gets another url or Secret, or its Secret other entries; how that is noticed.

And the names under which calls are counted.
"""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest
from prometheus_client import REGISTRY

from controller.api.update_stream import StepSpec, UpdateStream
from controller.api.user_update_status import Reason
from controller.core.outcomes import Busy, Done, Misconfigured, Outcome, Rejected, Retry
from controller.core.sharding import shards
from controller.reconciler import context as module
from controller.reconciler import step_secrets
from controller.reconciler.context import ShardContext
from controller.reconciler.step_secrets import StepSecrets
from controller.reconciler.user_worker import UserWorker
from tests.support.builders import BACKING_OFF_UNTIL_5, make_stream, make_update
from tests.support.eventually import eventually_async, let_run

STATUS = replace(BACKING_OFF_UNTIL_5, reason=Reason.STEP_MISCONFIGURED)
BEFORE = float("-inf")


class Server:
    """Has one Secret."""

    def __init__(self) -> None:
        self.value = "monday"
        self.asked = 0

    async def get(self, *_: Any) -> dict[str, Any]:
        self.asked += 1
        data = {"Authorization": base64.b64encode(self.value.encode()).decode()}
        return {"metadata": {"name": "token"}, "data": data}


class HeldLease:
    held = False

    async def wait_held(self) -> None:
        pass


def with_profile(**changes: Any) -> UpdateStream:
    stream = make_stream()
    return replace(stream, steps={**stream.steps, "profile": replace(stream.steps["profile"], **changes)})


class HangingDownstream:
    """No connection to it is ever made."""

    def __init__(self) -> None:
        self.begun = self.under_way = 0

    async def call(self, *_: Any) -> Outcome:
        self.begun += 1
        self.under_way += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.under_way -= 1
        raise AssertionError


def stream_context(cluster: Any, secrets: StepSecrets) -> Any:
    return SimpleNamespace(process=SimpleNamespace(cluster=cluster), secrets=secrets, events=None)


def made(stream: UpdateStream) -> tuple[ShardContext, Server]:
    server = Server()
    return ShardContext(
        shared=stream_context(cluster=server, secrets=StepSecrets(cast(Any, server), "default")),
        shard=next(iter(shards(1))),
        lease=cast(Any, HeldLease()),
        stream=stream,
        on_finished=lambda _: None,
    ), server


@pytest.mark.parametrize("changes", [{"url": "http://127.0.0.1:8080/other"}, {"secret_name": "token"}])
def test_another_target_ends_the_delays_of_failures_until_the_next_call(changes: dict[str, Any]) -> None:
    context, _ = made(make_stream())
    assert context.mended(STATUS, BEFORE) == ()
    context.reconfigure(with_profile(**changes))
    assert set(context.mended(STATUS, BEFORE)) == {Reason.STEP_MISCONFIGURED, Reason.BACKING_OFF}
    assert context.mended(STATUS, time.monotonic()) == ()
    assert context.mended(replace(STATUS, step="permissions"), BEFORE) == ()


@pytest.mark.parametrize("changes", [{"timeout_seconds": 1.0}, {"retry": StepSpec("").retry}, {"concurrency": 1}])
def test_what_else_is_changed_of_a_step_ends_no_delay(changes: dict[str, Any]) -> None:
    context, _ = made(make_stream())
    context.health.answered("profile", "bo", Busy("503 from profile"), time.monotonic())
    context.reconfigure(with_profile(**changes))
    assert context.mended(STATUS, BEFORE) == ()
    assert context.health.reports([], time.monotonic())[0].served == 1, "nor is what was seen of it forgotten"


async def test_a_secret_is_looked_at_while_somebody_is_refused_and_wakes_all_once_when_it_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SECRETS_PERIOD", 0.001)
    monkeypatch.setattr(step_secrets, "FRESH_SECONDS", 0.0)
    context, server = made(with_profile(secret_name="token"))
    woken: list[bool] = []
    following = asyncio.create_task(context.follow_secrets(lambda: woken.append(True)))

    async def asked(times: int) -> bool:
        return server.asked >= times

    await context.shared.secrets.read("token")
    assert server.asked == 1
    context.health.reports([make_update(status=STATUS)], time.monotonic())
    await eventually_async(lambda: asked(5), within=5)
    assert not woken and context.mended(STATUS, BEFORE) == ()
    server.value = "tuesday"

    async def all_woken() -> bool:
        return bool(woken)

    await eventually_async(all_woken, within=5)
    assert context.mended(STATUS, BEFORE) == (Reason.STEP_MISCONFIGURED,)
    before = server.asked
    await eventually_async(lambda: asked(before + 5), within=5)
    assert woken == [True]
    following.cancel()


def delayed_worker(context: ShardContext) -> tuple[UserWorker, HangingDownstream]:
    """A worker whose user is to wait for an hour after a failure."""
    downstream = HangingDownstream()
    context.shared.process.downstream = cast(Any, downstream)  # type: ignore[misc]
    worker = UserWorker(context)
    worker.queue.push(make_update(status=replace(STATUS, next_attempt_time=context.now() + timedelta(hours=1))))
    return worker, downstream


async def wake(context: ShardContext, worker: UserWorker) -> None:
    """Wake the worker, and let it do what there is to do at once."""
    context.lease.held = True  # type: ignore[misc]
    worker.wake()
    await let_run()


async def test_a_call_of_a_corrected_step_goes_on_whatever_else_comes_before_it_is_sent() -> None:
    """If it were taken back, it would not be made before the delay is over: the correction would count as tried."""
    context, _ = made(make_stream())
    worker, downstream = delayed_worker(context)
    context.reconfigure(with_profile(url="http://127.0.0.1:8080/other"))
    for _ in range(3):
        await wake(context, worker)
    assert (downstream.begun, downstream.under_way) == (1, 1)
    worker.drop()


async def test_a_correction_of_long_ago_ends_no_delay_that_another_controller_has_written() -> None:
    """All workers begin anew whenever a Lease is acquired."""
    context, _ = made(make_stream())
    context.reconfigure(with_profile(url="http://127.0.0.1:8080/other"))
    worker, downstream = delayed_worker(context)
    await wake(context, worker)
    assert downstream.begun == 0
    worker.drop()


def test_calls_are_counted_under_names_that_dashboards_and_alerts_know() -> None:
    """They are made of the classes' names, which a redesign may change: these may not."""
    outcomes: dict[str, Outcome] = {
        "done": Done({}),
        "busy": Busy("503 from profile"),
        "retry": Retry("500 from profile"),
        "misconfigured": Misconfigured("401 from profile"),
        "rejected": Rejected("422 from profile"),
    }
    assert {type(outcome) for outcome in outcomes.values()} == set(get_args(Outcome))
    context, _ = made(make_stream(name="counted"))
    for name, outcome in outcomes.items():
        labels = {"namespace": "default", "stream": "counted", "step": "profile", "outcome": name}
        assert REGISTRY.get_sample_value("enrichment_controller_calls_total", labels) is None
        context.count_call("profile", outcome, make_update(), context.now(), context.now())
        assert REGISTRY.get_sample_value("enrichment_controller_calls_total", labels) == 1
