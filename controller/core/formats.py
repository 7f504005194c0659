"""Guesses the format of a rejected key or value, for messages that the owner of a producer reads. Pure.

Nothing is decided by a guess, so a wrong one costs a misleading message and no record. The work is bounded whatever the
size, because a flood of bad records is described by the thread that reads the good ones.
"""

from __future__ import annotations

import codecs
import re
from typing import Any, Final

#: Fields of a message, and bytes of a text, that are looked at.
_ENOUGH_FIELDS: Final = 64
_ENOUGH_BYTES: Final = 64
#: A schema registry counts from 1. Ids above this are more likely something else, such as UTF-16.
_MAX_SCHEMA_ID: Final = (1 << 24) - 1
#: The lowest tag byte of a Protobuf field whose number is above three.
_FIELD_FOUR: Final = 0x20
#: Bytes of a schema registry's header: a zero, then the id in four bytes. The message follows.
_HEADER_SIZE: Final = 5

BYTE_ORDER_MARK: Final = "begins with a byte order mark"
_BEGINNINGS: Final = (
    (codecs.BOM_UTF8, BYTE_ORDER_MARK),
    (codecs.BOM_UTF32_LE, "is UTF-32"),
    (codecs.BOM_UTF32_BE, "is UTF-32"),
    (codecs.BOM_UTF16_LE, "is UTF-16"),
    (codecs.BOM_UTF16_BE, "is UTF-16"),
    (b"\x1f\x8b", "is compressed with gzip by the application, not by compression.type"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd by the application, not by compression.type"),
    (b"\x04\x22\x4d\x18", "is compressed with LZ4 by the application, not by compression.type"),
    (b"\xff\x06\x00\x00sNaPpY", "is compressed with Snappy by the application, not by compression.type"),
    (b"\x82SNAPPY\x00", "is compressed with Snappy by the application, not by compression.type"),
    (b"\x78\x9c", "is compressed with zlib by the application, not by compression.type"),
    (b"PK\x03\x04", "is a zip file"),
    (b"Obj\x01", "is an Avro file"),
    (b"\xac\xed\x00\x05", "is a serialized Java object"),
    (b"\x80\x04\x95", "is a pickled Python object"),
    (b"\x80\x05\x95", "is a pickled Python object"),
    (b"eyJ", "looks like JSON in base64"),
    (b"<", "looks like XML"),
)
_GLUE_HEADER = re.compile(rb"\x03[\x00\x05].{16}", re.DOTALL)
#: A map with a text as its first name.
_MESSAGE_PACK = re.compile(rb"[\x81-\x8f][\xa1-\xbf\xd9]")
_CBOR = re.compile(rb"[\xa1-\xb7\xbf][\x61-\x78]")
_CONTROL_BYTE = re.compile(rb"[\x00-\x1f\x7f]")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NAMES_OF_CONTROLS: Final = {"\0": " (NUL)", "\t": " (tab)", "\n": " (line feed)", "\r": " (carriage return)"}


def not_text(text: str) -> str | None:
    """For people: that the text begins with a byte order mark, or which control character it has; None: it has neither.

    Control characters are C0, DEL and C1; the message names the first one.
    """
    if text.startswith("\ufeff"):
        return BYTE_ORDER_MARK
    if found := _CONTROL_CHARACTER.search(text):
        name = _NAMES_OF_CONTROLS.get(found[0], "")
        return (
            f"has the control character U+{ord(found[0]):04X}{name} at character {found.start() + 1} of {len(text):,}"
        )
    return None


def json_kind(value: Any) -> str:
    """The kind of a JSON value, such as "a list". An object may be a dict, or a tuple of its members."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str() if value.lstrip().startswith("{"):
            return "a string that holds JSON (encoded twice)"
        case str():
            return "a string"
        case list():
            return "a list"
        case dict() | tuple():
            return "an object"
        case _:
            return "a number"


def description(data: bytes) -> str | None:
    """The predicate of "the value …" or "the key …", such as "begins with a Schema Registry header, schema 7".

    None where the format is not recognised.
    """
    beginning = next((text for beginning, text in _BEGINNINGS if data.startswith(beginning)), None)
    return beginning or _number(data) or _registered(data) or _wide_text(data) or _binary(data)


def _number(data: bytes) -> str | None:
    """A binary number begins with zeros or ones. So does a schema registry's header, which may precede a short text."""
    if len(data) not in (4, 8) or data[0] not in (0, 255) or (_schema(data) and _is_avro(data[_HEADER_SIZE:])):
        return None
    return f"is {len(data)} bytes long, as a {8 * len(data)}-bit number is ({int.from_bytes(data, signed=True)})"


def _registered(data: bytes) -> str | None:
    if schema := _schema(data):
        behind = ", and JSON behind it" if data[_HEADER_SIZE:].lstrip().startswith(b"{") else ""
        return f"begins with a Schema Registry header, schema {schema}{behind}"
    if _GLUE_HEADER.match(data):
        return "begins with an AWS Glue Schema Registry header"
    return None


def _schema(data: bytes) -> int | None:
    """The id in a schema registry's header; None where there is no such header."""
    schema = int.from_bytes(data[1:_HEADER_SIZE])
    return schema if len(data) > _HEADER_SIZE and data[0] == 0 and 1 <= schema <= _MAX_SCHEMA_ID else None


def _wide_text(data: bytes) -> str | None:
    """Text in UTF-16 without a byte order mark: Latin letters take two bytes, one of them 0."""
    even, odd = data[:_ENOUGH_BYTES:2], data[1:_ENOUGH_BYTES:2]
    if len(data) < 4 or len(data) % 2:
        return None
    return "is UTF-16" if (all(even) and not any(odd)) or (all(odd) and not any(even)) else None


def _binary(data: bytes) -> str | None:
    if not _is_binary(data):
        return None
    if _MESSAGE_PACK.match(data):
        return "looks like MessagePack"
    if _CBOR.match(data):
        return "looks like CBOR"
    if len(data) > 4 and int.from_bytes(data[:4], "little") == len(data) and not data[-1]:
        return "looks like BSON"
    if _is_avro(data):
        return "looks like Avro without its schema"
    if _is_protobuf(data):
        return "looks like Protobuf"
    return "is 16 bytes long, as a UUID in binary is" if len(data) == 16 and not _is_utf8(data) else None


def _is_binary(data: bytes) -> bool:
    return _CONTROL_BYTE.search(data) is not None or not _is_utf8(data)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_avro(data: bytes) -> bool:
    """Whether it is a row of texts, each with its length in front. Empty texts do not count: they are too common."""
    at = 0
    try:
        for _ in range(_ENOUGH_FIELDS):
            if at == len(data):
                return at > 0
            zigzag, at = _varint(data, at)
            end = at + (zigzag >> 1)
            if zigzag & 1 or not at < end <= len(data) or _is_binary(data[at:end]):
                return False
            at = end
    except IndexError:
        return False
    return True


def _is_protobuf(data: bytes) -> bool:
    """Whether it is a row of fields, low numbers first: number and wire type, then as many bytes as the type has."""
    at = 0
    if data[0] >= _FIELD_FOUR:
        return False
    try:
        for _ in range(_ENOUGH_FIELDS):
            if at == len(data):
                return at > 0
            tag, at = _varint(data, at)
            match tag & 7:
                case 0:
                    _, at = _varint(data, at)
                case 1:
                    at += 8
                case 2:
                    size, at = _varint(data, at)
                    at += size
                case 5:
                    at += 4
                case _:
                    return False
            if tag < 8 or at > len(data):
                return False
    except IndexError:
        return False
    return True


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and the position after it. Raises IndexError if torn."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at + shift // 7]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + shift // 7 + 1
    raise IndexError("a number of over ten bytes")
