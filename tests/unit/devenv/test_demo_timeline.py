"""The picture of the demo: whatever was called is seen in it, be its columns ever so wide."""

from __future__ import annotations

from demo.timeline import LEGEND, render
from devenv.journal import STEPS, Call


def calls(*spans: tuple[str, float, float], status: int = 200) -> list[Call]:
    """(step, begin, end) in seconds, of one user's update; each succeeded, but with another `status`."""
    answers = {"profile": {"userId": "u"}, "permissions": {"roleId": "r"}, "resources": {}}
    return [
        Call(
            number=number,
            time_ns=int(begin * 1e9),
            step=step,
            stream="s",
            user="ana",
            sequence=1,
            source="manual",
            key="k",
            body={},
            end=number,
            end_time_ns=int(end * 1e9),
            status=status,
            answer=answers[step],
        )
        for number, (step, begin, end) in enumerate(spans)
    ]


def row(*spans: tuple[str, float, float], status: int = 200) -> str:
    return render(calls(*spans, status=status), [])[-1].removeprefix("ana").strip()


def test_each_call_with_columns_of_its_own_is_a_digit() -> None:
    assert row(*[(step, 0.4 * index, 0.4 * index + 0.39) for index, step in enumerate(STEPS)]) == "112233"


def test_a_short_call_between_others_is_not_left_out() -> None:
    """`133` was three calls, in which the second looked as if it had never been made."""
    assert row(("profile", 0.0, 0.12), ("permissions", 0.13, 0.18), ("resources", 0.19, 0.59)) == "+33"


def test_all_of_an_update_in_one_column() -> None:
    assert row(*[(step, 0.05 * index, 0.05 * index + 0.04) for index, step in enumerate(STEPS)]) == "+"


def test_how_a_call_ended_stands_where_it_ended() -> None:
    assert row(("profile", 0.0, 0.1), ("profile", 0.7, 0.75), status=503) == "b··b"


def test_the_legend_explains_each_sign() -> None:
    assert all(f"{sign} " in LEGEND for sign in "123+bx!·")
