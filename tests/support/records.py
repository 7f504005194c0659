"""Kafka records with sensible values, so that a test names only what it is about."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from controller.core.records import Record

#: The value of a record that can be applied.
GOOD = {"profile": "dev", "permissions": "all", "resources": "all"}
#: Kafka's text of a topic's UUID; 4f1c9a are the first hex digits, which names of objects have.
TOPIC_ID = "TxyaAAAAQACAAAAAAAAAAQ"
OTHER_TOPIC_ID = "-_8AAAAAQACAAAAAAAAAAg"
#: Any text that UTF-8 can carry.
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def make_record(value: Any = GOOD, **changes: Any) -> Record:
    """A good record of userid1 at offset 42, unless changed. A value that is no bytes is written as JSON."""
    value = value if isinstance(value, bytes | None) else json.dumps(value).encode()
    fields = {"topic": "t", "topic_id": TOPIC_ID, "partition": 0, "offset": 42, "timestamp_ms": 1_767_225_600_123}
    return Record(**({**fields, "key": b"userid1", "value": value} | changes))
