"""Entries of Secrets as files and editors leave them."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from controller.api.secret_data import entries

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"


def secret(**files: bytes) -> dict[str, Any]:
    return {"data": {name: base64.b64encode(content).decode() for name, content in files.items()}}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"pa55", "pa55"),
        (b"pa55\n", "pa55"),
        (b"pa55\r\n\r\n", "pa55"),
        (b"\xef\xbb\xbfpa55\n", "pa55"),
        (b" pa55 \n", " pa55 "),
        (PEM.encode(), PEM),
        (f"{PEM}\n{PEM}\n".encode(), f"{PEM}\n{PEM}"),
        ("pä55\n".encode(), "pä55"),
    ],
)
def test_what_surrounds_a_text_is_not_part_of_it(content: bytes, text: str) -> None:
    assert entries(secret(entry=content)) == {"entry": text}


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n", b"\xef\xbb\xbf\n"])
def test_an_empty_entry_counts_as_absent(content: bytes) -> None:
    assert entries(secret(empty=content, other=b"x")) == {"other": "x"}


def test_a_secret_may_have_no_data() -> None:
    assert entries({}) == entries({"data": None}) == {}


@pytest.mark.parametrize(
    ("content", "what"), [(b"\xff\xfep\0a\0", "UTF-8"), (b"p\0a\0", "NUL"), (b"\xe4bc-of-monday", "UTF-8")]
)
def test_what_is_no_text_is_told_of_without_what_is_in_it(content: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=rf"^password .*{what}") as refused:
        entries(secret(password=content))
    assert "monday" not in repr(refused.value) + repr(refused.value.__cause__)


def test_what_is_no_text_can_be_kept_to_be_told_of_later() -> None:
    assert entries(secret(Authorization=b"Bearer \xff\n"), errors="replace") == {"Authorization": "Bearer \ufffd"}
