"""When the API server counts as untrusted: certificates refused for minutes; not when it is merely away."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest

from controller.clients.access import RECENT_SECONDS, UNTRUSTED_SECONDS, Trust, is_refusal


def verification() -> ssl.SSLCertVerificationError:
    return ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed certificate")


def alert(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


def behind(error: Exception) -> Exception:
    outer = ConnectionError("cannot connect")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    "error",
    [
        verification(),
        behind(verification()),
        alert("TLSV1_ALERT_UNKNOWN_CA"),
        alert("SSLV3_ALERT_CERTIFICATE_EXPIRED"),
        alert("TLSV13_ALERT_CERTIFICATE_REQUIRED"),
    ],
)
def test_certificates_that_are_refused(error: Exception) -> None:
    assert is_refusal(error)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        alert("WRONG_VERSION_NUMBER"),
        ssl.SSLEOFError(8, "EOF"),
        behind(OSError()),
    ],
)
def test_an_api_server_that_is_merely_away(error: Exception) -> None:
    assert not is_refusal(error)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Iterator[Clock]:
    yield Clock()


def refused_for(trust: Trust, clock: Clock, seconds: float) -> None:
    until = clock.now + seconds
    while clock.now < until:
        trust.failed(verification())
        clock.now += 10


def test_refused_for_minutes_it_is_lost_and_an_answer_ends_that(clock: Clock) -> None:
    trust = Trust(clock)
    refused_for(trust, clock, UNTRUSTED_SECONDS - 10)
    assert not trust.lost
    refused_for(trust, clock, 20)
    assert trust.lost
    trust.answered()
    assert not trust.lost
    assert not trust.regained.is_set(), "one of several API servers may be refused, and the next one not"


def test_it_is_regained_by_the_first_answer_after_other_certificates_were_read(clock: Clock) -> None:
    trust = Trust(clock)
    trust.failed(verification())
    trust.renewed()
    assert not trust.regained.is_set()
    trust.answered()
    assert trust.regained.is_set()
    trust.regained.clear()
    trust.failed(verification())
    trust.answered()
    assert not trust.regained.is_set()


def test_an_outage_is_no_loss_however_long_and_whatever_was_before(clock: Clock) -> None:
    trust = Trust(clock)
    refused_for(trust, clock, UNTRUSTED_SECONDS * 2)
    trust.failed(ConnectionRefusedError())
    assert not trust.lost
    clock.now += 9999
    trust.failed(ConnectionRefusedError())
    refused_for(trust, clock, 20)
    assert not trust.lost
    assert trust.refused, "what is read again is asked for all the same"


def test_what_was_refused_long_ago_is_no_loss_now(clock: Clock) -> None:
    trust = Trust(clock)
    refused_for(trust, clock, UNTRUSTED_SECONDS * 2)
    clock.now += RECENT_SECONDS
    assert not trust.lost


def test_an_answer_without_a_refusal_is_no_news() -> None:
    trust = Trust()
    trust.answered()
    trust.failed(ConnectionRefusedError())
    trust.answered()
    assert not trust.regained.is_set()
