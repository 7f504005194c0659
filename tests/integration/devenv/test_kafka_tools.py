"""Kafka's console tools as a person uses them, on the environment's Kafka, whoever runs that."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from devenv import build
from devenv.environment import Environment
from devenv.kafka_tools import TOOLS, install

Tool = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts. The path of the jars has a blank, an apostrophe and an é: so may that of a checkout."""
    folder = tmp_path_factory.mktemp("bin")
    jars = folder / "it's café"
    jars.symlink_to(build.kafka_jars())
    java = shutil.which("java")
    assert java is not None
    install(Path(java), jars, folder)
    return folder


@pytest.fixture
def tool(environment: Environment, folder: Path) -> Tool:
    """What a tool prints on its standard output; it must end well."""

    def run(name: str, *arguments: str, stdin: str = "") -> str:
        command = [str(folder / name), "--bootstrap-server", environment.bootstrap_servers, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_records_go_through_the_console_producer_and_consumer(tool: Tool, topic: str) -> None:
    separated = ("parse.key=true", "key.separator=:")
    options = [word for each in separated for word in ("--reader-property", each)]
    records = 'userid1:{"profile": "dev"}\nüser2:{"profile": "größer"}\n'
    tool("kafka-console-producer.sh", "--topic", topic, *options, stdin=records)
    shown = [word for each in ("print.key=true", "key.separator=:") for word in ("--formatter-property", each)]
    reading = ("--topic", topic, "--group", topic, "--from-beginning", "--max-messages", "2")
    assert tool("kafka-console-consumer.sh", *reading, *shown) == records
    described = tool("kafka-consumer-groups.sh", "--describe", "--group", topic).splitlines()
    (row,) = [line.split() for line in described if line.startswith(topic)]
    assert row[:6] == [topic, topic, "0", "2", "2", "0"], "group, topic, partition, position, end, lag"


def test_a_group_gets_the_offset_that_it_is_set_to(tool: Tool, topic: str) -> None:
    """As a replay does it: the group is new. With --export the plan is printed as CSV, which takes a jar of its own."""
    options = ("--group", topic, "--topic", topic, "--reset-offsets", "--to-earliest", "--execute")
    assert topic in tool("kafka-consumer-groups.sh", *options)
    assert f"{topic},0,0\n" in tool("kafka-consumer-groups.sh", *options, "--export")


def test_topics_are_described(tool: Tool, topic: str) -> None:
    assert f"Topic: {topic}\t" in tool("kafka-topics.sh", "--describe", "--topic", topic)


def test_transactions_are_listed(tool: Tool) -> None:
    assert "TransactionalId" in tool("kafka-transactions.sh", "list")


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_says_how_it_is_used(folder: Path, name: str) -> None:
    done = subprocess.run([folder / name, "--help"], capture_output=True, text=True, timeout=60)
    assert "--bootstrap-server" in done.stdout + done.stderr
