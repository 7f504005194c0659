"""Rules for the sample downstream, drawn at random: every way of its to misbehave. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

from devenv.downstream_rules import STEP_NAMES

#: Seconds that the run's stream gives a call, so that hanging ones end soon.
TIMEOUT_SECONDS = 3.0
BUSY_DELAY_SECONDS = 1.5
#: Ways that pass: the action and its options, drawn anew for each rule.
_WAYS = ("busy", "busy", "busy", "fail", "fail", "slow", "hang", "reset", "drip", "huge", "notJson", "missingId", "401")


def step_spec(url: str) -> dict[str, Any]:
    """What the run's UpdateStream says of a step."""
    return {
        "url": url,
        "timeoutSeconds": TIMEOUT_SECONDS,
        "busyDelaySeconds": BUSY_DELAY_SECONDS,
        "retry": {"initialSeconds": 0.5, "maxSeconds": 3},
    }


def refusals(random: Random, refused: Iterable[tuple[str, int]]) -> Iterator[dict[str, Any]]:
    """A final no for these updates, at one of their steps, however often they are called."""
    for number, (user, sequence) in enumerate(sorted(refused)):
        yield {
            "name": f"refused-{number}",
            "user": glob_of(user),
            "sequence": sequence,
            "step": random.choice(STEP_NAMES),
            "action": "reject",
            "status": random.choice((400, 409, 410, 422, 451)),
        }


def passing(random: Random, users: list[str]) -> Iterator[dict[str, Any]]:
    """Misbehaviour that ends by itself, for a third of the users and each time for one step."""
    for number, user in enumerate(random.sample(users, max(1, len(users) // 3))):
        way = random.choice(_WAYS)
        rule = {"user": glob_of(user), "step": random.choice(STEP_NAMES), "count": random.randint(1, 4)}
        yield {**rule, **_action(way, random), "name": f"{way}-{number}"}


def glob_of(user: str) -> str:
    """The user as a pattern that matches nothing else."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in user)


def _action(way: str, random: Random) -> dict[str, Any]:
    match way:
        case "busy":
            asked = random.choice(({}, {"retryAfter": random.randint(1, 3)}, {"retryAfter": "soon"}))
            return {"action": "busy", "status": random.choice((200, 429, 503)), **asked}
        case "fail":
            return {"action": "fail", "status": random.choice((500, 502, 504, 408, 425))}
        case "slow":
            return {"action": "slow", "seconds": random.uniform(0.2, TIMEOUT_SECONDS + 1)}
        case "hang":
            return {"action": "hang", "seconds": TIMEOUT_SECONDS + 2, "applied": random.random() < 0.5}
        case "reset":
            return {"action": "reset", "at": random.choice(("answer", "body"))}
        case "drip":
            return {"action": "drip", "intervalSeconds": 0.02}
        case "401":
            return {"action": "fail", "status": random.choice((401, 403, 404, 302))}
    return {"action": way}
