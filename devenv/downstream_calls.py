"""The calls of the sample downstream: open ones, answered keys, counts; all of it kept in the journal."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import orjson

from devenv.downstream_journal import JournalFile
from devenv.downstream_rules import STEP_NAMES, Rule, RuleBook, Rules, read_rules

#: The fields that the request of each step must have, and the id that the step returns.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "profile": ("user", "profile"),
    "permissions": ("userId", "permissions"),
    "resources": ("userId", "roleId", "resources"),
}
IDS: Mapping[str, tuple[str, str]] = {"profile": ("userId", "u"), "permissions": ("roleId", "r")}


@dataclass(slots=True, eq=False)
class Call:
    """One call that has begun."""

    number: int
    step: str
    stream: str
    user: str
    key: str | None
    body: Any
    rule: Rule | None
    #: True once the client has closed its connection, asked of the socket itself.
    closed: Callable[[], bool]
    gone: bool = False
    #: The answer to a call that was applied; None where it was not.
    applied: dict[str, Any] | None = None
    #: It had been done before, by an earlier call with this key.
    replayed: bool = False
    ended: bool = False

    @property
    def answer(self) -> dict[str, Any]:
        """The good answer to this call, whether it took effect or not."""
        if self.applied is not None or self.step not in IDS:
            return self.applied or {}
        name, letter = IDS[self.step]
        return {name: f"{letter}-{self.number}"}

    @property
    def fault(self) -> str | None:
        """The fault in the request body; None where it is valid."""
        if not isinstance(self.body, dict):
            return "the body must be a JSON object"
        for name in FIELDS[self.step]:
            if not isinstance(self.body.get(name), str) or not self.body[name]:
                return f"{name} must be a text that is not empty"
        return None


@dataclass(slots=True)
class Counts:
    """Since the journal was last cleared."""

    calls: Counter[str] = field(default_factory=Counter)
    applied: Counter[str] = field(default_factory=Counter)
    replayed: int = 0
    users: set[tuple[str, str]] = field(default_factory=set)
    most_in_flight: int = 0
    #: Requests to paths that are no step's: a redirect that was followed, for one.
    strays: int = 0


class CallLog:
    """Begins, applies and ends calls. A new process rebuilds the state from the directory."""

    def __init__(self, data: Path, script: Path | None = None) -> None:
        data.mkdir(parents=True, exist_ok=True)
        self._rules_path = data / "rules.json"
        self.journal = JournalFile(data / "journal.jsonl")
        self.generation = 0
        self._script_digest = ""
        self.book = RuleBook(Rules())
        self._load_rules(script)
        self._answers: dict[str, dict[str, Any]] = {}
        self.counts = Counts()
        self._open: dict[tuple[str, str], list[Call]] = {}
        self._in_flight = 0
        self._recall()
        self.journal.append("start", {})

    def begin(self, step: str, headers: Mapping[str, str], raw: bytes, closed: Callable[[], bool]) -> Call:
        """Record a call before anything else is done with it."""
        stream, user = headers.get("Enrichment-Stream", ""), unquote(headers.get("Enrichment-User", ""))
        self._notice_closed(stream, user)
        sequence = _whole(headers.get("Enrichment-Sequence"))
        body = read_json(raw)
        rule = self.book.choose(stream, user, step, sequence, time.time_ns())
        key = headers.get("Idempotency-Key")
        number = self.journal.append(
            "begin",
            {
                "call": self.journal.next,
                "request": f"POST /{step}",
                "step": step,
                "stream": stream,
                "user": user,
                "sequence": sequence,
                "source": headers.get("Enrichment-Source"),
                "key": key,
                "traceparent": headers.get("traceparent"),
                "body": raw.decode(errors="replace") if body is None else body,
                "rule": f"{self.generation}/{rule.name}" if rule else None,
            },
        )
        call = Call(number, step, stream, user, key, body, rule, closed)
        self._open.setdefault((stream, user), []).append(call)
        self._in_flight += 1
        self.counts.calls[step] += 1
        self.counts.users.add((stream, user))
        self.counts.most_in_flight = max(self.counts.most_in_flight, self._in_flight)
        return call

    def apply(self, call: Call) -> None:
        """Apply the call, unless its key was applied before: then the first answer is repeated."""
        if call.key is not None and call.key in self._answers:
            self.counts.replayed += 1
            call.applied, call.replayed = self._answers[call.key], True
            return
        call.applied = call.answer
        self.counts.applied[call.step] += 1
        if call.key is not None:
            self._answers[call.key] = call.applied

    def end(self, call: Call, status: int | None = None, answer: Any = None, retry_after: str | None = None) -> None:
        """Record how a call ended, before it is answered. Without a status it is not answered."""
        if call.ended:
            return
        call.ended = True
        self._in_flight -= 1
        calls = self._open[(call.stream, call.user)]
        calls.remove(call)
        if not calls:
            del self._open[(call.stream, call.user)]
        self.journal.append(
            "end",
            {
                "call": call.number,
                "status": status,
                "answer": answer,
                "retryAfter": retry_after,
                "applied": None if call.replayed else call.applied,
                "replayed": call.replayed,
                "gone": call.gone,
            },
        )

    def replace_rules(self, rules: Rules) -> None:
        """Replace the rules. The new ones are unused, and stay after a restart."""
        self.generation += 1
        self.book = RuleBook(rules)
        document = {"generation": self.generation, "script": self._script_digest, **rules.for_json()}
        draft = self._rules_path.with_suffix(".new")
        draft.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        draft.replace(self._rules_path)

    def clear(self) -> None:
        """Forget calls, keys and the uses of rules."""
        self.journal.clear()
        self._answers.clear()
        self.book.forget()
        self.counts = Counts()

    def stats(self) -> dict[str, Any]:
        counts = self.counts
        return {
            "calls": {step: counts.calls[step] for step in STEP_NAMES},
            "applied": {step: counts.applied[step] for step in STEP_NAMES},
            "replayed": counts.replayed,
            "users": len(counts.users),
            "inFlight": self._in_flight,
            "mostInFlight": counts.most_in_flight,
            "strays": counts.strays,
        }

    def _notice_closed(self, stream: str, user: str) -> None:
        """Record which of the user's open calls have lost their client, where the event loop has not noticed yet.

        A client may close one connection and call on another at once. The kernel decides which of the two sockets the
        loop sees first, and that must not make the calls seem to overlap.
        """
        for call in self._open.get((stream, user), ()):
            if not call.gone and call.closed():
                call.gone = True
                self.journal.append("gone", {"call": call.number})

    def _load_rules(self, script: Path | None) -> None:
        """The rules of the last process, unless this process has another script."""
        if self._rules_path.exists():
            stored = orjson.loads(self._rules_path.read_bytes())
            self.generation, self._script_digest = stored.pop("generation"), stored.pop("script")
            self.book = RuleBook(read_rules(stored))
        if script is None:
            return
        text = script.read_bytes()
        digest = hashlib.sha256(text).hexdigest()
        if digest != self._script_digest:
            rules = read_rules(orjson.loads(text))
            self._script_digest = digest
            self.replace_rules(rules)

    def _recall(self) -> None:
        """Read the journal of earlier processes. Calls that they left open ended with them."""
        begun: dict[int, dict[str, Any]] = {}
        for record in self.journal.load():
            if record["kind"] == "begin":
                begun[record["n"]] = record
                self._recall_begin(record)
            elif record["kind"] == "end" and record["call"] in begun:
                begin = begun.pop(record["call"])
                self.counts.replayed += record["replayed"]
                if record["applied"] is not None:
                    self.counts.applied[begin["step"]] += 1
                    if begin["key"] is not None:
                        self._answers[begin["key"]] = record["applied"]

    def _recall_begin(self, record: Mapping[str, Any]) -> None:
        self.counts.calls[record["step"]] += 1
        self.counts.users.add((record["stream"], record["user"]))
        if record["rule"]:
            generation, _, name = record["rule"].partition("/")
            if int(generation) == self.generation:
                self.book.recall(name, record["user"], record["step"], record["time"])


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def read_json(raw: bytes) -> Any:
    """The JSON value; None where the bytes are not JSON."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None


def connection_closed(connection: Any) -> bool:
    """Whether the peer has closed the connection. Asks the socket, as the event loop may not have looked yet."""
    if connection is None or connection.is_closing():
        return True
    shared = connection.get_extra_info("socket")
    if shared is None or shared.fileno() < 0:
        return True
    with socket.socket(fileno=os.dup(shared.fileno())) as own:
        try:
            return own.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
