"""The entries of a Secret as texts, without what editors and shells leave around them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Literal


def entries(body: Mapping[str, Any], *, errors: Literal["strict", "replace"] = "strict") -> dict[str, str]:
    """Entries of the Secret by their names; an empty one counts as absent.

    `kubectl create secret --from-file` keeps a file's last line end, and the byte order mark that some editors write:
    neither is part of a password, a token or a PEM. Blanks stay, as a password may end with one.

    Raises ValueError where an entry is no text (UTF-8 without NUL), which tells its name and not what is in it; with
    `errors="replace"` what is not UTF-8 becomes U+FFFD instead.
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
