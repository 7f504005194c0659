"""Records that can never become a UserUpdate, each with the reason that its RejectedEvent must give. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random
from typing import Any

#: The reasons that a record's own bytes can give, in the order in which they are judged.
REASONS = ("NoKey", "KeyNotUTF8", "KeyNotText", "Tombstone", "TooLarge", "NotJSON", "InvalidPayload")
#: Fields that an event must have.
FIELDS = ("profile", "permissions", "resources")


@dataclass(frozen=True, slots=True)
class Poison:
    """Key and value of a bad record."""

    reason: str
    key: bytes | None
    value: bytes | None


def poison(reason: str, number: int, user: str, random: Random) -> Poison:
    """A bad record of that reason, unlike any other for its `number`. Raises KeyError for an unknown reason."""
    return Poison(reason, *_MAKERS[reason](number, user.encode(), random))


def event(number: int, random: Random) -> dict[str, Any]:
    """The fields of a good record, some unknown ones among them."""
    fields: dict[str, Any] = {
        "profile": f"profile-{number}",
        "permissions": random.choice(("all", "read", "none", "schreiben: ä, ß")),
        "resources": random.choice(("all", "disk", "cpu,memory", " ")),
    }
    if random.random() < 0.1:
        fields["unknown"] = {"nested": [number, None, True]}
    return fields


def _good(number: int, random: Random) -> bytes:
    return json.dumps(event(number, random)).encode()


def _no_key(number: int, user: bytes, random: Random) -> tuple[bytes | None, bytes | None]:
    return random.choice((None, b"")), _good(number, random)


def _key_not_utf8(number: int, user: bytes, random: Random) -> tuple[bytes | None, bytes | None]:
    return b"\xff\xfe" + user, _good(number, random)


def _key_not_text(number: int, user: bytes, random: Random) -> tuple[bytes | None, bytes | None]:
    beginning = random.choice((b"\x00\x00\x00\x00\x07", b"\xef\xbb\xbf", b"\n"))
    return beginning + user, _good(number, random)


def _tombstone(number: int, user: bytes, random: Random) -> tuple[bytes | None, bytes | None]:
    return user, None


def _too_large(number: int, user: bytes, random: Random) -> tuple[bytes | None, bytes | None]:
    if random.random() < 0.5:
        return user + b"k" * 1024, _good(number, random)
    return user, json.dumps({**event(number, random), "padding": "x" * (1 << 20)}).encode()


def _not_json(number: int, user: bytes, random: Random) -> tuple[bytes | None, bytes | None]:
    good = _good(number, random)
    return user, random.choice((good[:-1], b"", b"\x00", b"{'profile': 'dev'}", good + b"}", b"\xc3\x28"))


def _invalid(number: int, user: bytes, random: Random) -> tuple[bytes | None, bytes | None]:
    good, field = event(number, random), random.choice(FIELDS)
    wrong = random.choice(("", None, 7, ["all"], {"all": True}, "x" * 4097))
    missing = {name: value for name, value in good.items() if name != field}
    twice = json.dumps(good)[:-1] + f', "{field}": "again"}}'
    return user, random.choice(
        (
            json.dumps(missing).encode(),
            json.dumps({**good, field: wrong}).encode(),
            json.dumps([good]).encode(),
            json.dumps(f"text-{number}").encode(),
            twice.encode(),
        )
    )


_MAKERS = dict(
    zip(REASONS, (_no_key, _key_not_utf8, _key_not_text, _tombstone, _too_large, _not_json, _invalid), strict=True)
)
