"""Reads a Kafka record: bytes from outside become an event, or the reason why they never can.

Pure. `kafka` delivers records, and the bridge creates the objects whose manifests are built here. Nothing in this
module raises an error, whatever a record holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

import orjson

from controller.api import user_update
from controller.api.rejected_event import RejectedEvent, RejectionReason
from controller.api.update_stream import UpdateStream
from controller.api.user_update import Source, UpdateSpec
from controller.core import formats

#: Bytes of a key.
MAX_KEY_SIZE: Final = 1024
#: Bytes of a record: key, value and headers.
MAX_RECORD_SIZE: Final = 1 << 20
#: Characters (Unicode code points, as the API server counts them) of profile, permissions and resources.
MAX_FIELD_LENGTH: Final = 4096
#: Levels of nested objects and lists, the outermost included. RFC 8259 leaves the limit to the reader.
MAX_NESTING: Final = 512
FIELDS: Final = ("profile", "permissions", "resources")

_TOO_DEEP = f"the value is nested over {MAX_NESTING} levels deep"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: A producer may set any timestamp. Later ones are read as this one, because the CRD takes years of four digits.
_MAX_TIMESTAMP_MS = int(datetime(2999, 12, 31, tzinfo=UTC).timestamp() * 1000)
_QUOTED_FIELDS = tuple(f'"{field}"'.encode() for field in FIELDS)
#: https://www.w3.org/TR/trace-context/: ids of zeros and version ff are invalid, versions after 00 may append fields.
_TRACE_IDS = r"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_TRACEPARENT = re.compile(rf"(?:00{_TRACE_IDS}|(?!00|ff)[0-9a-f]{{2}}{_TRACE_IDS}(?:-[!-~]{{1,200}})?)\Z")


@dataclass(frozen=True, slots=True)
class Record:
    """A record as Kafka delivered it."""

    topic: str
    #: Kafka's text of the topic's UUID.
    topic_id: str
    partition: int
    offset: int
    #: Milliseconds since 1970; negative where the record has none.
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()

    @property
    def size(self) -> int:
        """Bytes of key, value and headers."""
        headers = sum(len(name.encode("utf-8", "surrogatepass")) + len(value or b"") for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers

    @property
    def timestamp(self) -> datetime:
        """Brought within 1970 and 2999; 1970 where the record has none."""
        return _EPOCH + timedelta(milliseconds=min(max(self.timestamp_ms, 0), _MAX_TIMESTAMP_MS))


@dataclass(frozen=True, slots=True)
class UpdateEvent:
    """The content of a good record."""

    user: str
    profile: str
    permissions: str
    resources: str
    source: Source


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a record can never become a UserUpdate."""

    reason: RejectionReason
    #: For people: what is wrong, and what the producer can do about it.
    message: str
    #: JSON pointer (RFC 6901) to the field at fault, empty for the whole value; None for all reasons but
    #: InvalidPayload.
    pointer: str | None = None


def read_record(record: Record, *, from_backlog: bool = False) -> UpdateEvent | Rejection:
    """The record's event, or the first reason for which it cannot be used. Raises nothing.

    `from_backlog`: the record is listed in a UserBacklog. An earlier version, which took any UTF-8 as a key, may have
    listed it; then it is applied as the user's records before it were.
    """
    user = _read_key(record.key, any_text=from_backlog)
    if isinstance(user, Rejection):
        return user
    fields = _read_value(record)
    if isinstance(fields, Rejection):
        return fields
    return UpdateEvent(user=user, **fields, source=_source(record))


def user_update_manifest(stream: UpdateStream, event: UpdateEvent, after: str | None) -> dict[str, Any]:
    """The UserUpdate of a record. Every process builds the same one of the same record and `after`.

    `after` is the name of the user's last update of the same source that is not known to be finished.
    """
    spec = UpdateSpec(
        stream=stream.name,
        user=event.user,
        sequence=event.source.offset,
        profile=event.profile,
        permissions=event.permissions,
        resources=event.resources,
        source=replace(event.source, after=after),
    )
    return user_update.manifest(stream.namespace, spec)


def rejected_event_manifest(stream: UpdateStream, record: Record, rejection: Rejection) -> dict[str, Any]:
    """The RejectedEvent of one record. Kafka no longer has the value of an expired one: its size is left out."""
    rejected = RejectedEvent(
        namespace=stream.namespace,
        stream=stream.name,
        reason=rejection.reason,
        message=rejection.message,
        pointer=rejection.pointer,
        topic=record.topic,
        topic_id=record.topic_id,
        partition=record.partition,
        offset=record.offset,
        last_offset=record.offset,
        count=1,
        timestamp=record.timestamp,
        key=record.key,
        value=record.value,
        size=None if rejection.reason is RejectionReason.PAYLOAD_EXPIRED else record.size,
    )
    return rejected.manifest()


def _read_key(key: bytes | None, *, any_text: bool) -> str | Rejection:
    if not key:
        what = "the record has no key" if key is None else "the key is empty"
        return Rejection(RejectionReason.NO_KEY, f"{what}: the key says whose update it is")
    try:
        user = key.decode()
    except UnicodeDecodeError as error:
        return _bad_key(RejectionReason.KEY_NOT_UTF8, f"is not UTF-8, from byte {error.start + 1} on", key)
    if not any_text and (fault := formats.not_text(user)):
        return _bad_key(RejectionReason.KEY_NOT_TEXT, fault, key)
    return user


def _bad_key(reason: RejectionReason, fault: str, key: bytes) -> Rejection:
    seems = formats.description(key)
    guess = f"; it {seems}" if seems and seems != fault else ""
    return Rejection(reason, f"the key {fault}{guess}: a key must be plain text in UTF-8")


def _read_value(record: Record) -> dict[str, str] | Rejection:
    if record.value is None:
        return Rejection(RejectionReason.TOMBSTONE, "the record has no value (a tombstone): there is nothing to apply")
    if record.key and len(record.key) > MAX_KEY_SIZE:
        message = f"the key is {len(record.key):,} bytes long, {MAX_KEY_SIZE:,} are allowed"
        return Rejection(RejectionReason.TOO_LARGE, message)
    if record.size > MAX_RECORD_SIZE:
        headers = record.size - len(record.key or b"") - len(record.value)
        message = (
            f"the record is {record.size:,} bytes long, {MAX_RECORD_SIZE:,} are allowed: its value has"
            f" {len(record.value):,}, its headers have {headers:,}"
        )
        return Rejection(RejectionReason.TOO_LARGE, message)
    members = _read_quickly(record.value) or _read_thoroughly(record.value)
    return members if isinstance(members, Rejection) else _read_members(members)


#: The members of a JSON object in their order, repeated names included.
_Members = Sequence[tuple[str, Any]]


def _read_quickly(value: bytes) -> _Members | None:
    """The members of the object, where orjson is certain to find them; else None.

    Where several members have one name, orjson keeps the last of them and says nothing. None of the three fields occurs
    twice where the bytes hold each quoted name at most once and no escape that could spell it in another way.
    """
    if b"\\" in value or any(value.count(field) > 1 for field in _QUOTED_FIELDS):
        return None
    if value.count(b"{") + value.count(b"[") > MAX_NESTING:
        return None
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return tuple(document.items()) if isinstance(document, dict) else None


class _Object(tuple[tuple[str, Any], ...]):
    """A JSON object: its members in order."""


def _read_thoroughly(value: bytes) -> _Members | Rejection:
    """By the standard parser, which shows repeated members and reads all of RFC 8259, lone surrogates included."""
    try:
        document = json.loads(
            value.decode(), object_pairs_hook=_Object, parse_constant=_refuse_constant, parse_int=_any_number
        )
    except (ValueError, RecursionError) as error:
        return Rejection(RejectionReason.NOT_JSON, _why_not_json(value, error))
    if _nested_deeper(document, MAX_NESTING):
        return Rejection(RejectionReason.NOT_JSON, _TOO_DEEP)
    if not isinstance(document, _Object):
        return _invalid("", f"the value is {formats.json_kind(document)}, not an object")
    return document


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _any_number(_: str) -> int:
    """No number is used, and int() refuses numbers of more than 4,300 digits."""
    return 0


def _why_not_json(value: bytes, error: ValueError | RecursionError) -> str:
    if not value:
        return "the value is empty"
    if seems := formats.description(value):
        return f"the value {seems}: a value must be plain JSON in UTF-8"
    match error:
        case RecursionError():
            return _TOO_DEEP
        case UnicodeDecodeError():
            return f"the value is not UTF-8, from byte {error.start + 1} on"
        case json.JSONDecodeError() if error.pos >= len(error.doc.rstrip()) or "Unterminated" in error.msg:
            return f"the value is no JSON: it ends too early, after {len(value):,} bytes ({error.msg})"
        case json.JSONDecodeError():
            return f"the value is no JSON, at character {error.pos + 1}: {error.msg}"
        case _:
            return f"the value is no JSON: {error}"


def _nested_deeper(document: Any, limit: int) -> bool:
    """Goes level by level, because a recursion of its own would need a limit too."""
    level = [document]
    for _ in range(limit + 1):
        level = [node for node in level if isinstance(node, _Object | list)]
        if not level:
            return False
        level = [child for node in level for child in _children(node)]
    return True


def _children(node: _Object | list[Any]) -> Iterable[Any]:
    return (value for _, value in node) if isinstance(node, _Object) else node


def _read_members(members: _Members) -> dict[str, str] | Rejection:
    """The three fields. Members with other names are ignored, also where they are repeated."""
    fields: dict[str, str] = {}
    for field in FIELDS:
        values = [value for name, value in members if name == field]
        fault = _fault(values) if values else f"is missing{_missing_hint(field, members)}"
        if fault:
            return _invalid(f"/{field}", f"{field} {fault}")
        fields[field] = values[0]
    return fields


def _missing_hint(field: str, members: _Members) -> str:
    """A hint at what the value has instead.

    Another member's name is shown only where it differs from the field's in case: names may be confidential.
    """
    there = [name for name, _ in members]
    if other := next((name for name in there if name.lower() == field), None):
        return f": there is {other}, and names are case-sensitive"
    if "schema" in there and "payload" in there:
        return ": the value is in an envelope of Kafka Connect (its converter needs schemas.enable=false)"
    return ""


def _fault(values: list[Any]) -> str | None:
    if len(values) > 1:
        return f"is there {len(values)} times"
    value = values[0]
    if not isinstance(value, str):
        return f"is {formats.json_kind(value)}, not a string"
    if not value:
        return f"is empty: 1 to {MAX_FIELD_LENGTH:,} characters are allowed"
    if len(value) > MAX_FIELD_LENGTH:
        return f"is {len(value):,} characters long, 1 to {MAX_FIELD_LENGTH:,} are allowed"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "has half of a surrogate pair, which UTF-8 cannot carry"
    return None


def _invalid(pointer: str, message: str) -> Rejection:
    return Rejection(RejectionReason.INVALID_PAYLOAD, message, pointer)


def _source(record: Record) -> Source:
    return Source(
        topic=record.topic,
        topic_id=record.topic_id,
        partition=record.partition,
        offset=record.offset,
        timestamp=record.timestamp,
        traceparent=_traceparent(record),
    )


def _traceparent(record: Record) -> str | None:
    """The last header of that name, as Kafka's own clients read headers; None where its value is not valid."""
    values = [value for name, value in record.headers if name == "traceparent"]
    if not values or not values[-1]:
        return None
    text = values[-1].decode("ascii", "replace")
    return text if _TRACEPARENT.match(text) else None
