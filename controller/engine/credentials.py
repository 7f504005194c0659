"""Headers for a step's calls from its Secret: each entry is one, as `Authorization: Bearer …`.

They are read again every few seconds, so that a rotated token needs no restart; they appear in no log and no status.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping

from controller import errors
from controller.cluster import SECRETS, Cluster

#: Seconds for which what was read is used.
FRESH_SECONDS = 10.0


class Credentials:
    """The Secrets of one namespace, as far as steps name them."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._known: dict[str, tuple[float, Mapping[str, str]]] = {}

    async def headers(self, secret: str) -> Mapping[str, str]:
        """Raises NotFound where there is no such Secret; what was known serves while the API server is away.

        Raises other ApiErrors where it was never read.
        """
        until, headers = self._known.get(secret, (0.0, {}))
        if time.monotonic() < until:
            return headers
        try:
            body = await self._cluster.get(SECRETS, self._namespace, secret)
        except errors.NotFound:
            self._known.pop(secret, None)
            raise
        except errors.ApiError:
            if secret not in self._known:
                raise
        else:
            headers = {key: _text(value) for key, value in (body.get("data") or {}).items()}
        self._known[secret] = (time.monotonic() + FRESH_SECONDS, headers)
        return headers


def _text(encoded: str) -> str:
    """Without the line end that an editor or `echo` leaves behind."""
    return base64.b64decode(encoded).decode("utf-8", "replace").strip()
