"""One UpdateStream: reads its Secret, looks at its topic, and runs one TopicConsumer after another while it exists.

The condition Consuming says what is missing or refused, and it is tried again. Nothing of that ends the process.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

from controller import kafka, logs
from controller.api import names, secret_data
from controller.api.update_stream import UpdateStream
from controller.bridge import metrics
from controller.bridge.consumer import TopicConsumer
from controller.bridge.consuming_condition import Consuming, unless_no_bridge
from controller.bridge.context import BridgeContext, ConsumerContext, TopicChanged
from controller.bridge.controllers import Controllers, without_controller
from controller.bridge.membership import JOINING
from controller.bridge.positions import Outdated
from controller.clients.adoption import RESTORED, RESTORED_MESSAGE, adopt
from controller.clients.cluster import SECRETS, Body
from controller.clients.event_recorder import reference
from controller.clients.stream_status import NO_BRIDGE, UNREADABLE, Change, StreamStatus, condition
from controller.errors import ApiError, NotFound

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
#: A changed Secret is noticed within this time.
SECRET_SECONDS = 10.0


class StreamConsumer:
    """Consumes one UpdateStream."""

    def __init__(self, bridge: BridgeContext, stream: UpdateStream) -> None:
        self._bridge = bridge
        #: Kept from one TopicConsumer to the next: a client for each look at a missing topic would cost threads.
        self._admin: kafka.AdminClient | None = None
        self._stream = stream
        # Several streams may share a group: each has a member of its own in it.
        self._instance = f"{bridge.identity}{names.member_suffix(stream.namespace, stream.name)}"[-249:]
        self._status = StreamStatus(bridge.cluster, bridge.recorder, stream.namespace, stream.name, stream.uid)
        self._consumer: TopicConsumer | None = None
        self._changed = asyncio.Event()
        self._counted = metrics.CountedRecords()
        self._refused = False
        self._writing: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """The group has given this replica its partitions, if any, or the stream's condition says why it has not."""
        return self._refused or (self._consumer is not None and self._consumer.ready)

    def change(self, stream: UpdateStream) -> None:
        """The stream has a new spec. Limits and suspensions act at once; another `spec.kafka` needs a new consumer."""
        old, self._stream = self._stream, stream
        if old.kafka != stream.kafka or old.restored != stream.restored:
            self._changed.set()
        if self._consumer is not None:
            self._consumer.change(stream)

    def observe(self, body: Body) -> None:
        """The watch shows the stream: write the condition again where others have written one that is not true.

        A controller may have written that no bridge lives, a bridge of another version that it does not understand the
        stream, and a replica without partitions that it waits to join the group. None of them takes that back.
        """
        self._status.observe(body)
        known = condition(body.get("status") or {}, "Consuming")
        reads = self._consumer is not None and self._consumer.reads
        if known and (known["reason"] in (NO_BRIDGE, UNREADABLE) or (reads and known["reason"] == JOINING)):
            self.verify()

    def check_controllers(self, controllers: Controllers) -> None:
        """Write the condition Processing where no controller works on the stream. One that does will write its own."""
        if (self._writing is None or self._writing.done()) and (found := controllers.missing(self._stream)):
            change = partial(without_controller, self._stream, found)
            if self._status.would_change(change):
                self._writing = asyncio.create_task(self._write(change))

    async def _write(self, change: Change) -> None:
        try:
            await self._status.apply(change)
        except ApiError as error:
            logs.retrying(logger, "Condition not written", error, stream=self._label)

    def verify(self) -> None:
        """Read the status soon: the watch began anew, and the API server may have been restored from a snapshot."""
        if self._consumer is not None:
            self._consumer.verify()

    def report_deleted(self) -> None:
        """Report what becomes of the records that wait in backlogs, now that the stream was deleted.

        A running consumer knows those of its partitions. Where there is none, as without Kafka, the status knows.
        """
        users, records = self._consumer.backlog_counts if self._consumer is not None else self._status.backlog_counts
        if not records:
            return
        stream = self._stream
        whose = "one user" if users == 1 else f"{users:,} users"
        note = (
            f"the stream was deleted while {records:,} records of {whose} waited in UserBacklogs. They become"
            f" updates when it is applied again under its name, with group {stream.kafka.group_id}, as long as its"
            " UserBacklogs are there. The records of those that are deleted, or were before, are given up"
        )
        logger.warning("%s", note, extra=self._fields())
        regarding = reference("UpdateStream", stream.namespace, stream.name, stream.uid)
        self._bridge.recorder.event(regarding, "Warning", "RecordsWaiting", "Deleting", note)

    async def run(self) -> None:
        """Run until cancelled."""
        try:
            await self._run()
        finally:
            if self._writing is not None:
                self._writing.cancel()
            if self._admin is not None:
                self._bridge.admins.release(self._admin)

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self._consume()
            except NotFound as error:
                logger.info("Stream is not there", extra=self._fields(cause=str(error)))
                await self._pause()
            except kafka.KafkaError as error:
                await self._report(error.reason, str(error))
                await self._pause()
            except (TopicChanged, Outdated) as error:
                logger.info("Consumption begins anew", extra=self._fields(cause=str(error)))
            except ApiError as error:
                logs.retrying(logger, "Stream waits for the API server", error, stream=self._label)
                await self._pause()
            except Exception:
                logger.exception("Consumption failed", extra=self._fields())
                await self._pause()

    async def _consume(self) -> None:
        if self._stream.restored:
            raise kafka.KafkaError(RESTORED, RESTORED_MESSAGE)
        await adopt(self._bridge.cluster, self._stream)
        secrets = await self._secrets()
        config = kafka.client_config(self._stream.kafka, secrets)
        lookup = kafka.TopicLookup(self._admin_for(config), self._stream.kafka.topic)
        topic = await lookup.describe()
        self._consumer = TopicConsumer(
            ConsumerContext(
                self._bridge, self._stream, self._status, lookup, config, topic, self._instance, self._counted
            )
        )
        running = asyncio.create_task(self._consumer.run())
        change = asyncio.create_task(self._configuration_changed(secrets))
        try:
            await asyncio.wait([running, change], return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
            running.cancel()
            await asyncio.wait([running])
            self._consumer = None
        if not running.cancelled():
            running.result()

    def _admin_for(self, config: dict[str, Any]) -> kafka.AdminClient:
        """The admin client for this configuration, in place of the one that this stream has had."""
        new, old = self._bridge.admins.acquire(config), self._admin
        self._admin = new
        if old is not None:
            self._bridge.admins.release(old)
        return new

    async def _configuration_changed(self, secrets: dict[str, str]) -> None:
        """Return when `spec.kafka` has changed, or what its Secret holds."""
        while True:
            try:
                await asyncio.wait_for(self._changed.wait(), SECRET_SECONDS)
                return
            except TimeoutError:
                pass
            try:
                if await self._secrets() != secrets:
                    return
            except (ApiError, kafka.KafkaError) as error:
                # A consumer that works is not stopped because the Secret cannot be read.
                logs.retrying(logger, "Secret not read again", error, stream=self._label)

    async def _secrets(self) -> dict[str, str]:
        """Raises ApiError, or KafkaError: SecretMissing, ConfigRefused where an entry is no text."""
        name = self._stream.kafka.secret_name
        if name is None:
            return {}
        try:
            body = await self._bridge.cluster.get(SECRETS, self._stream.namespace, name)
        except NotFound as error:
            message = f"Secret {name} of spec.kafka.secretRef does not exist; consumption begins when it is there"
            raise kafka.KafkaError("SecretMissing", message) from error
        try:
            return secret_data.entries(body)
        except ValueError as error:
            raise kafka.KafkaError("ConfigRefused", f"Secret {name}: {error}") from error

    async def _report(self, reason: str, message: str) -> None:
        self._refused = True
        consuming = unless_no_bridge(
            Consuming(False, reason, message, self._stream.generation), self._bridge.process_lease
        )
        if not self._status.would_change(consuming.write):
            return
        try:
            await self._status.apply(consuming.write)
        except NotFound:
            pass
        except Exception:
            logger.exception("Condition not written", extra=self._fields(reason=reason))

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), RETRY_SECONDS)
        except TimeoutError:
            pass

    def _fields(self, **values: Any) -> dict[str, dict[str, Any]]:
        return logs.fields(stream=self._label, **values)

    @property
    def _label(self) -> str:
        return self._stream.namespaced_name
