"""What `make up` reads from a manifest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from devenv import kubectl

STREAM = """\
---
kind: Secret
---
kind: UpdateStream
spec: {kafka: {bootstrapServers: "${KAFKA_BOOTSTRAP_SERVERS}", topic: accounts}}
"""


@pytest.mark.parametrize(("text", "topic"), [(STREAM, "accounts"), ("", None)])
def test_topic_of_a_manifest(tmp_path: Path, text: str, topic: str | None) -> None:
    path = tmp_path / "stream.yaml"
    path.write_text(text)
    assert kubectl.topic(path) == topic


def test_pipe_that_was_read_before_names_no_topic() -> None:
    """`make up STREAM=/dev/stdin` reads its manifest twice."""
    reader, writer = os.pipe()
    os.write(writer, STREAM.encode())
    os.close(writer)
    try:
        path = Path(f"/dev/fd/{reader}")
        assert kubectl.topic(path) == "accounts"
        assert kubectl.topic(path) is None
    finally:
        os.close(reader)
