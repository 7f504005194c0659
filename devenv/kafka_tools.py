"""Kafka's console tools in `.dev/bin`, under the names that a Kafka release gives them, from the broker's jars.

Between `broker`, whose jars they are, and a person's shell: `kafka-topics.sh --bootstrap-server …`.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from devenv.broker import UTF8_LOCALE
from devenv.layout import write_atomically

#: The main class of each tool, in the package org.apache.kafka.tools.
TOOLS = {
    "kafka-console-consumer.sh": "consumer.ConsoleConsumer",
    "kafka-console-producer.sh": "ConsoleProducer",
    "kafka-consumer-groups.sh": "consumer.group.ConsumerGroupCommand",
    "kafka-topics.sh": "TopicCommand",
    "kafka-transactions.sh": "TransactionsCommand",
}
#: A tool runs for a second or two, so C1 alone compiles it. Without the last option, Kafka's clients would write their
#: configuration between the lines of the tool.
JAVA_OPTIONS = (
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


def install(java: Path, jars: Path, folder: Path) -> None:
    """Write an executable shell script for each tool into `folder`, which must exist. Raises OSError."""
    for name, main in TOOLS.items():
        path = folder / name
        write_atomically(path, script(java, jars, main))
        path.chmod(0o755)


def script(java: Path, jars: Path, main: str) -> str:
    """A POSIX shell script that runs the tool of that main class in its own place, with all arguments."""
    settings = ("env", *(f"{key}={value}" for key, value in UTF8_LOCALE.items()))
    command = (str(java), *JAVA_OPTIONS, "-cp", f"{jars}/*", f"org.apache.kafka.tools.{main}")
    return f'#!/bin/sh\nexec {shlex.join((*settings, *command))} "$@"\n'
