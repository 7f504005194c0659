"""The controller, `python -m controller run`: applies each user's updates in order and checkpoints every step.

From a watch event to a written status:

1. `handlers`: kopf watches UpdateStreams and UserUpdates on a thread of its own, and hands each event to our event
   loop.
2. `manager` passes the event on by stream, `stream_worker` by shard. The manager starts and stops the streams' workers.
3. `shard_worker` holds the shard's `lease` and has listed all unfinished updates. It parses the object
   (`update_reader`) and merges it into the `cache`, which ignores what is older than what it has.
4. The cache puts the update into its user's queue (`core.user_queue`) and wakes that user's worker.
5. `user_worker` takes the head of the queue and asks `core.decisions.decide` what to do with it.
6. To run a step, it waits for one of the step's slots (`calls`), checks the Lease, and calls the downstream
   (`clients.downstream`) with the headers of the step's Secret (`step_secrets`).
7. `core.decisions.record` makes a status of the outcome, and `checkpoints` writes it with the update's resourceVersion.
8. The worker puts what was written into its queue and decides again: the next step, or the user's next update. A
   finished update goes to `retention`, which deletes it when its time has come.

Read the modules in that order; then, as far as you need them:

- `process_context` and `context`: the state that all streams of a process share, and all workers of a stream or shard.
- `resync` wakes all workers of a shard; `refusal_writer` answers requests to finished updates; `label_writer` sets
  labels that are missing; `orphans` marks updates without a stream; `metadata_watch` shows what kopf's watch does not.
- `lease_watch`, `lease_balancer`, `lease_gc`, `process_watch`: the Leases of all streams, and how replicas share them.
- `stream_report`, `update_events`, `metrics`: what people see.
"""

from __future__ import annotations

import asyncio
from functools import partial

from controller.clients.cluster import Cluster
from controller.clients.downstream import Downstream
from controller.clients.process_lease import ProcessLease
from controller.config import Settings
from controller.health import Health
from controller.reconciler import handlers
from controller.reconciler.manager import Manager
from controller.reconciler.supervisor import keep_running


async def run(settings: Settings, stop: asyncio.Event, health: Health) -> None:
    """Work on the streams of the scope until `stop`. Raises ConfigError where there is no way to the API server."""
    async with Cluster.connect() as cluster, Downstream() as downstream:
        process_lease = ProcessLease(cluster, "controller", settings.identity)
        manager = Manager(cluster, downstream, settings.identity, process_lease.namespace, settings.scope)
        health.pending, health.untrusted = manager.pending, lambda: cluster.trust.lost
        background = [asyncio.create_task(keep_running(work)) for work in (process_lease.run, *manager.background())]
        try:
            async with asyncio.TaskGroup() as group:
                on_ready = partial(_get_ready, manager, health)
                group.create_task(handlers.watch(cluster, manager, stop, on_ready, manager.namespaces))
                group.create_task(manager.run(stop))
        finally:
            for task in background:
                task.cancel()
            await process_lease.release()


async def _get_ready(manager: Manager, health: Health) -> None:
    await manager.begin()
    health.ready = True
