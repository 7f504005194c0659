"""Which of a process's namespaces can be read: one that cannot is told of once, and keeps no other waiting."""

from __future__ import annotations

import logging

import pytest

from controller.clients.namespaces import Namespaces
from controller.config import Scope
from controller.errors import ApiError, Forbidden, Unavailable

REFUSED = Forbidden("cannot list", status=403)
AWAY = Unavailable("no answer")


def test_without_names_there_is_one_place_for_all() -> None:
    assert (Scope().each, Scope().of("a")) == ((None,), None)
    assert (Scope(("a", "b")).each, Scope(("a", "b")).of("b")) == (("a", "b"), "b")


@pytest.mark.parametrize(
    ("error", "answered"), [(REFUSED, True), (AWAY, False)], ids=["missing or without rights", "no answer yet"]
)
def test_a_refusal_is_an_answer_and_an_api_server_that_is_away_gives_none(error: ApiError, answered: bool) -> None:
    found = Namespaces(Scope(("a", "b")))
    found.failed("a", error)
    assert not found.answered(found.readable), "nothing can be read"
    found.listed("b")
    assert found.answered(found.readable) == answered
    found.listed("a")
    assert found.answered(found.readable)


def test_where_all_of_the_cluster_is_refused_there_is_no_answer_to_begin_with() -> None:
    found = Namespaces(Scope())
    found.failed(None, REFUSED)
    assert not found.answered(found.readable)
    found.listed(None)
    assert found.answered(found.readable)


def test_a_change_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    found = Namespaces(Scope(("a", "b")))
    with caplog.at_level(logging.INFO, "controller.clients.namespaces"):
        for _ in range(3):
            found.failed("a", REFUSED)
        found.listed("b")
        found.changed.clear()
        for _ in range(3):
            found.listed("a")
            found.listed("b")
        assert found.changed.is_set(), "there is another one to watch"
        found.changed.clear()
        found.failed("a", AWAY)
        assert not found.changed.is_set() and found.readable == {"a", "b"}
        found.failed("a", REFUSED)
        assert found.changed.is_set() and found.readable == {"b"}
    told = [(record.levelname, record.getMessage().partition(":")[0]) for record in caplog.records]
    unread = ("WARNING", "Namespace is not read")
    assert told == [unread, ("INFO", "Namespace is read now"), unread]
