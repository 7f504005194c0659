"""The entries of a Secret as texts, without the line ends and marks that editors and shells add."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Literal


def entries(body: Mapping[str, Any], *, errors: Literal["strict", "replace"] = "strict") -> dict[str, str]:
    """The Secret's entries by name; an empty entry counts as absent.

    `kubectl create secret --from-file` keeps a file's last line end, and the byte order mark that some editors write.
    Neither belongs to a password, a token or a PEM. Blanks stay, because a password may end with one.

    Raises ValueError for an entry that is not text (UTF-8 without NUL). The message has its name, not its content. With
    `errors="replace"` bytes that are not UTF-8 become U+FFFD instead.
    """
    texts = {name: _text(name, value, errors) for name, value in (body.get("data") or {}).items()}
    return {name: text for name, text in texts.items() if text}


def _text(name: str, value: str, errors: str) -> str:
    try:
        text = base64.b64decode(value).decode("utf-8-sig", errors)
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not UTF-8") from None  # the error has the bytes
    if "\0" in text and errors == "strict":
        raise ValueError(f"{name} holds a NUL character, as a file in UTF-16 does")
    return text.strip("\r\n")
