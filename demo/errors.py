"""The errors that stop the demo."""

from __future__ import annotations


class DemoFailed(Exception):
    """The play did not get to its end; the message says how far it came."""
