"""The RejectedEvent: records that can never become a UserUpdate, and why."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from controller.api import names, timestamps

#: Bytes of key and of value that a RejectedEvent shows.
MAX_SHOWN_SIZE: Final = 4096


class RejectionReason(StrEnum):
    """Why a record can never become a UserUpdate: a closed set, in the order in which the reasons are checked."""

    NO_KEY = "NoKey"
    KEY_NOT_UTF8 = "KeyNotUTF8"
    #: The key has a control character or begins with a byte order mark: a number, a Schema Registry header, a line end.
    #: If it were taken as it is, one user would become several, or several would become one.
    KEY_NOT_TEXT = "KeyNotText"
    TOMBSTONE = "Tombstone"
    TOO_LARGE = "TooLarge"
    NOT_JSON = "NotJSON"
    INVALID_PAYLOAD = "InvalidPayload"
    #: Kafka removed the record while it waited. The bridge finds that.
    PAYLOAD_EXPIRED = "PayloadExpired"
    #: Another object has the name of this record's UserUpdate. The bridge finds that.
    NAME_CONFLICT = "NameConflict"


@dataclass(frozen=True, slots=True)
class RejectedEvent:
    """One record, or neighbours in a partition that share a reason, from `offset` to `last_offset`."""

    namespace: str
    stream: str
    reason: RejectionReason
    #: For people.
    message: str
    #: JSON pointer (RFC 6901) to the field at fault; None for all reasons but InvalidPayload.
    pointer: str | None
    topic: str
    topic_id: str
    partition: int
    offset: int
    last_offset: int
    #: How many records it stands for. Offsets between the two may be other records'.
    count: int
    timestamp: datetime
    #: The key and the value of the first record, as Kafka has them; None where the record has none.
    key: bytes | None
    value: bytes | None
    #: Bytes of the first record; None where it is not known.
    size: int | None

    def manifest(self) -> dict[str, Any]:
        """The object to create. It shows the first MAX_SHOWN_SIZE bytes of key and value, in base64.

        The user's label is for people, who cannot read base64: any key has one, whether it names a user or not.
        """
        optional = {
            "message": self.message,
            "pointer": self.pointer,
            "key": _shown(self.key),
            "value": _shown(self.value),
            "size": self.size,
        }
        return {
            "apiVersion": names.API_VERSION,
            "kind": "RejectedEvent",
            "metadata": {
                "name": names.record_name(self.stream, self.topic_id, self.partition, self.offset),
                "namespace": self.namespace,
                "labels": {names.STREAM_LABEL: self.stream, **_user_label(self.key)},
            },
            "spec": {
                "stream": self.stream,
                "reason": self.reason.value,
                "source": {
                    "topic": self.topic,
                    "topicId": self.topic_id,
                    "partition": self.partition,
                    "offset": self.offset,
                    "lastOffset": self.last_offset,
                    "timestamp": timestamps.to_text(self.timestamp),
                },
                "count": self.count,
                **{name: value for name, value in optional.items() if value is not None},
            },
        }


def _user_label(key: bytes | None) -> dict[str, str]:
    return {names.USER_LABEL: names.user_label(key[:MAX_SHOWN_SIZE].decode(errors="replace"))} if key else {}


def _shown(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data[:MAX_SHOWN_SIZE]).decode()
