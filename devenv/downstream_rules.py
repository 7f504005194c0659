"""How the sample downstream misbehaves: rules read from JSON.

PUT /control/rules takes a list of rules, or `{"latencySeconds": 0.01, "rules": [...]}`; DELETE removes them. A rule:
`{"name": "…", "user": "userid*", "step": "profile", "stream": "*", "sequence": 3, "action": "busy", "count": 2}`.
`user` and `stream` are names or globs. The first rule that matches a call and is not used up decides. A rule is used up
after `count` calls, or `forSeconds` after its first use; each user and step counts for itself. Pure: time is passed in.

action      what the downstream does, and the rule's further fields (with their defaults)
busy        answers `status` 429, 503 (default), or 2xx with NOT_READY; `retryAfter` is sent as it is
fail        answers `status` (500), with `retryAfter` where it is given
reject      answers `status` (422)
redirect    answers `status` (302) with `location`
hang        does not answer for `seconds`, or for ever
answer      answers `status`, `headers` and `body` as given
slow *      answers after `seconds`
drip *      sends a byte every `intervalSeconds`
reset *     resets the connection `at` the answer, or in the middle of its body (default)
huge *      sends `bytes` more than the answer
gzip *      compresses the answer, which nobody asked for
notJson *   answers 200 with a body that is not JSON; wrongTypes *: values of other types; missingId *: without the id

With `applied: true`, the default of the actions with a star, the call takes effect all the same, and a repeat of its
key gets the good answer once the rule is used up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Any, TypeAlias

STEP_NAMES = ("profile", "permissions", "resources")


class RuleError(ValueError):
    """A rule is invalid. The message names the rule and the field."""


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    action: str
    #: The parameters of the action, defaults filled in.
    options: Mapping[str, Any]
    #: Exact names or globs; the step is one of the three, or any.
    user: str = "*"
    stream: str = "*"
    step: str | None = None
    sequence: int | None = None
    #: Uses per user and step; None: no limit.
    count: int | None = None
    #: Seconds from the first use per user and step; None: for ever.
    for_seconds: float | None = None
    #: Whether the call takes effect, whatever is answered.
    applied: bool = False

    def matches(self, stream: str, user: str, step: str) -> bool:
        return self.step in (None, step) and _glob(self.user, user) and _glob(self.stream, stream)

    def for_json(self) -> dict[str, Any]:
        common = {
            "name": self.name,
            "user": self.user,
            "stream": self.stream,
            "step": self.step,
            "sequence": self.sequence,
            "action": self.action,
            "count": self.count,
            "forSeconds": self.for_seconds,
            "applied": self.applied,
            **self.options,
        }
        return {key: value for key, value in common.items() if value is not None}


def _glob(pattern: str, text: str) -> bool:
    return pattern in ("*", text) or re.match(translate(pattern), text) is not None


Check: TypeAlias = tuple[str, Callable[[Any], bool]]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _status(low: int, high: int, *others: int) -> Check:
    wanted = f"must be a status from {low} to {high}" + "".join(f" or {other}" for other in others)
    return wanted, lambda value: _is_whole(value, low, high) or (isinstance(value, int) and value in others)


def _one_of(*choices: str) -> Check:
    return "must be one of " + ", ".join(choices), lambda value: value in choices


_TEXT: Check = ("must be a text that is not empty", lambda value: isinstance(value, str) and value != "")
_ANY_TEXT: Check = ("must be a text", lambda value: isinstance(value, str))
_SECONDS: Check = ("must be a number of seconds, 0 or more", _is_number)
_COUNT: Check = ("must be a whole number, 1 or more", lambda value: _is_whole(value, 1, 2**53))
_WHOLE: Check = ("must be a whole number, 0 or more", lambda value: _is_whole(value, 0, 2**53))
_FLAG: Check = ("must be true or false", lambda value: isinstance(value, bool))
_RETRY_AFTER: Check = (
    "must be a text or a number, it is sent as it is",
    lambda value: _is_number(value) or (isinstance(value, str) and value.isprintable()),
)
_HEADERS: Check = (
    "must be an object of texts",
    lambda value: isinstance(value, dict) and all(isinstance(text, str) for text in value.values()),
)

_COMMON: dict[str, Check] = {
    "name": _TEXT,
    "user": _TEXT,
    "stream": _TEXT,
    "step": _one_of(*STEP_NAMES),
    "sequence": _WHOLE,
    "count": _COUNT,
    "forSeconds": _SECONDS,
    "applied": _FLAG,
}


@dataclass(frozen=True, slots=True)
class Action:
    """An action of rules: its options, with checks and defaults. `applied` is the default for its rules."""

    applied: bool
    checks: Mapping[str, Check] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ()


ACTIONS: Mapping[str, Action] = {
    "busy": Action(False, {"status": _status(200, 299, 429, 503), "retryAfter": _RETRY_AFTER}, {"status": 503}),
    "fail": Action(False, {"status": _status(300, 599), "retryAfter": _RETRY_AFTER}, {"status": 500}),
    "reject": Action(False, {"status": _status(400, 499)}, {"status": 422}),
    "redirect": Action(
        False, {"status": _status(300, 399), "location": _TEXT}, {"status": 302, "location": "/elsewhere"}
    ),
    "hang": Action(False, {"seconds": _SECONDS}),
    "slow": Action(True, {"seconds": _SECONDS}, required=("seconds",)),
    "drip": Action(True, {"intervalSeconds": _SECONDS}, {"intervalSeconds": 0.1}),
    "reset": Action(True, {"at": _one_of("answer", "body")}, {"at": "body"}),
    "huge": Action(True, {"bytes": _COUNT}, {"bytes": 1 << 20}),
    "gzip": Action(True),
    "notJson": Action(True),
    "wrongTypes": Action(True),
    "missingId": Action(True),
    "answer": Action(
        False, {"status": _status(200, 599), "headers": _HEADERS, "body": _ANY_TEXT}, {"status": 200, "body": ""}
    ),
}


@dataclass(frozen=True, slots=True)
class Rules:
    """A whole rules document."""

    rules: tuple[Rule, ...] = ()
    #: Seconds until a call is answered.
    latency_seconds: float = 0.0

    def for_json(self) -> dict[str, Any]:
        return {"latencySeconds": self.latency_seconds, "rules": [rule.for_json() for rule in self.rules]}


def read_rules(document: Any) -> Rules:
    """Read a document of rules. Raises RuleError, which names the rule and the field."""
    fields = {"rules": document} if isinstance(document, list) else document
    if not isinstance(fields, dict) or not isinstance(fields.get("rules", []), list):
        raise RuleError("the rules must be a list, or an object with the fields rules and latencySeconds")
    unknown = fields.keys() - {"rules", "latencySeconds"}
    if unknown:
        raise RuleError(f"field {min(unknown)}: unknown; known are rules and latencySeconds")
    latency = fields.get("latencySeconds", 0.0)
    _check("field latencySeconds", latency, _SECONDS)
    rules = tuple(_read_rule(number, body) for number, body in enumerate(fields.get("rules", []), start=1))
    _check_names(rules)
    return Rules(rules, latency)


def _check_names(rules: Iterable[Rule]) -> None:
    seen: set[str] = set()
    for number, rule in enumerate(rules, start=1):
        if rule.name in seen:
            raise RuleError(f"rule {number} ({rule.name}), field name: another rule has it already")
        seen.add(rule.name)


def _read_rule(number: int, body: Any) -> Rule:
    if not isinstance(body, dict):
        raise RuleError(f"rule {number}: must be an object")
    name = body.get("name", f"rule-{number}")
    where = f"rule {number} ({name})"
    kind = body.get("action")
    if not isinstance(kind, str) or kind not in ACTIONS:
        raise RuleError(f"{where}, field action: must be one of {', '.join(ACTIONS)}")
    action = ACTIONS[kind]
    known = {**_COMMON, **action.checks}
    for key, value in body.items():
        if key == "action":
            continue
        if key not in known:
            raise RuleError(f"{where}, field {key}: unknown for {kind}; known are {', '.join(known)}")
        _check(f"{where}, field {key}", value, known[key])
    for key in action.required:
        if key not in body:
            raise RuleError(f"{where}, field {key}: is missing, {kind} needs it")
    return Rule(
        name=name,
        action=kind,
        options={**action.defaults, **{key: body[key] for key in action.checks if key in body}},
        user=body.get("user", "*"),
        stream=body.get("stream", "*"),
        step=body.get("step"),
        sequence=body.get("sequence"),
        count=body.get("count"),
        for_seconds=body.get("forSeconds"),
        applied=body.get("applied", action.applied),
    )


def _check(where: str, value: Any, check: Check) -> None:
    wanted, holds = check
    if not holds(value):
        raise RuleError(f"{where}: {wanted}")


class RuleBook:
    """The rules and their uses: says which rule applies to a call."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._uses: dict[tuple[str, str, str], int] = {}
        self._first_use: dict[tuple[str, str, str], int] = {}
        self._candidates: dict[tuple[str, str, str], tuple[Rule, ...]] = {}

    def choose(self, stream: str, user: str, step: str, sequence: int | None, time_ns: int) -> Rule | None:
        """The rule that applies to a call. Counts a use of it."""
        if not self.rules.rules:
            return None
        where = (stream, user, step)
        if where not in self._candidates:
            self._candidates[where] = tuple(rule for rule in self.rules.rules if rule.matches(*where))
        for rule in self._candidates[where]:
            if rule.sequence in (None, sequence) and self._has_uses(rule, user, step, time_ns):
                self.recall(rule.name, user, step, time_ns)
                return rule
        return None

    def recall(self, rule: str, user: str, step: str, time_ns: int) -> None:
        """Count a use, also one by an earlier process, from the journal."""
        key = (rule, user, step)
        self._uses[key] = self._uses.get(key, 0) + 1
        self._first_use.setdefault(key, time_ns)

    def forget(self) -> None:
        self._uses.clear()
        self._first_use.clear()

    def uses(self) -> dict[str, int]:
        """Uses by rule name."""
        total = {rule.name: 0 for rule in self.rules.rules}
        for (name, _, _), uses in self._uses.items():
            total[name] = total.get(name, 0) + uses
        return total

    def _has_uses(self, rule: Rule, user: str, step: str, time_ns: int) -> bool:
        key = (rule.name, user, step)
        if rule.count is not None and self._uses.get(key, 0) >= rule.count:
            return False
        first = self._first_use.get(key, time_ns)
        return rule.for_seconds is None or time_ns - first < rule.for_seconds * 1e9
