"""Timestamps: all that the API server lets pass is read, and what is written is read back to the microsecond."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api import timestamps


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("2026-11-23T12:00:07Z", datetime(2026, 11, 23, 12, 0, 7, tzinfo=UTC)),
        ("2026-11-23T12:00:07.1Z", datetime(2026, 11, 23, 12, 0, 7, 100_000, tzinfo=UTC)),
        ("2026-11-23T12:00:07.123456789Z", datetime(2026, 11, 23, 12, 0, 7, 123_456, tzinfo=UTC)),
        ("2026-11-23T13:30:07+01:30", datetime(2026, 11, 23, 12, 0, 7, tzinfo=UTC)),
        ("2026-11-23t12:00:07z", datetime(2026, 11, 23, 12, 0, 7, tzinfo=UTC)),
        ("1970-01-01T00:00:00.000000Z", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
    ids=["whole seconds", "a tenth", "nanoseconds", "another zone", "lower case", "the epoch"],
)
def test_what_the_api_server_lets_pass_is_read(text: str, want: datetime) -> None:
    time = timestamps.from_text(text)
    assert time == want
    assert time.tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2026-11-23T12:00:07",
        "2026-11-23",
        "2026-13-23T12:00:07Z",
        # The API server lets these pass.
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
    ],
)
def test_what_is_no_time_is_refused_and_never_taken_for_local_time(text: str) -> None:
    with pytest.raises(ValueError):
        timestamps.from_text(text)


def test_the_text_is_utc_to_the_microsecond() -> None:
    noon_in_kathmandu = datetime(2026, 11, 23, 17, 45, 0, 7, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    assert timestamps.to_text(noon_in_kathmandu) == "2026-11-23T12:00:00.000007Z"


ZONES = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(datetime(1900, 1, 1), datetime(2999, 1, 1), timezones=ZONES))
def test_a_time_is_read_back_as_it_was_written(time: datetime) -> None:
    text = timestamps.to_text(time)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text)
    assert timestamps.from_text(text) == time


@given(st.text() | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,12})?(Z|[+-]\d\d:\d\d)", fullmatch=True))
def test_any_text_is_a_time_in_utc_or_none(text: str) -> None:
    try:
        assert timestamps.from_text(text).tzinfo is UTC
    except ValueError:
        pass


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9000, 1, 1)))
def test_a_time_is_rounded_up_to_a_millisecond_and_shown_so(naive: datetime) -> None:
    time = naive.replace(tzinfo=UTC)
    rounded = timestamps.whole_milliseconds(time)
    assert timedelta(0) <= rounded - time < timedelta(milliseconds=1)
    text = timestamps.to_short_text(rounded)
    assert len(text) == len("2026-11-23T12:00:07.123Z") and timestamps.from_text(text) == rounded
    assert timestamps.from_text(timestamps.to_short_text(time)) == time, "an earlier version's is kept as it is"
