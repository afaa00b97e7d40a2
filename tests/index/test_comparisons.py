"""What a comparison means for the values of a run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import pytest

from loratrack.index.comparisons import Value, meaning
from loratrack.index.expression import Comparison, ExpressionError, parse

NOW = datetime(2026, 11, 20, 12, 0)


def is_true(text: str, *values: Value) -> bool:
    comparison = parse(text)
    assert isinstance(comparison, Comparison)
    return meaning(comparison, text, NOW)(values)


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


NO_DATE = "must be a date, such as 2026-11-01 or 2026-11-01T14:30, or a time ago, such as 7d"


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("a=16", ["16"], True),
        ("a=16", ["16.0"], True),
        ("a=2e-5", ["0.00002"], True),
        ("a='16'", ["16.0"], False),
        ("a=True", ["true"], True),
        ("a=Bert", ["bert"], True),
        ("a=bert", ["bert-base"], False),
        ("a~BASE", ["bert-base"], True),
        ("a!~base", ["bert-base"], False),
        ("a!~base", [], True),
        ("a!=16", ["16"], False),
        ("a!=16", ["8"], True),
        ("a!=16", [], True),
        ("a=16", [], False),
        ("a>8", ["16"], True),
        ("a>8", ["8"], False),
        ("a>=8", ["8"], True),
        ("a<8", ["None"], False),
        ("a<8", [], False),
        ("a>8", ["minilm"], False),
        ("a>0.5", [0.75], True),
        ("a=null", [], True),
        ("a=null", ["None"], True),
        ("a=none", ["x"], False),
        ("a!=null", [], False),
        ("a!=null", ["x"], True),
        ("a='null'", ["null"], True),
        ("a='null'", [], False),
        ("a=champion", ["best", "champion"], True),
        ("a!=champion", ["best", "champion"], False),
        ("a=3", [3], True),
        ("a~3", [3.5], True),
        ("task_type=multi_cls", ["double_cls"], True),
        ("task_type=double_cls", ["multi_cls"], True),
        ("task_type='double_cls'", ["multi_cls"], True),
        ("task_type!=multi_cls", ["double_cls"], False),
        ("task_type=single_cls", ["double_cls"], False),
        ("other=multi_cls", ["double_cls"], False),
        ("duration>2h", [7201.0], True),
        ("duration>2h", [7199.0], False),
        ("duration<=1.5m", [90.0], True),
    ],
)
def test_values_are_compared_as_a_person_means_it(text: str, values: Sequence[Value], expected: bool) -> None:
    assert is_true(text, *values) is expected


@pytest.mark.parametrize(
    ("text", "started", "expected"),
    [
        ("started>7d", "2026-11-14T12:00", True),  # later than 7 days ago
        ("started>7d", "2026-11-13T11:59", False),
        ("started<7d", "2026-11-13T11:59", True),
        ("started>=90m", "2026-11-20T10:31", True),
        ("started>4w", "2026-10-23T12:01", True),
        ("started=2026-11-14", "2026-11-14T23:59", True),
        ("started=2026-11-14", "2026-11-15T00:00", False),
        ("started>2026-11-14", "2026-11-14T23:59", False),
        ("started>2026-11-14", "2026-11-15T00:00", True),
        ("started>=2026-11-14", "2026-11-14T00:00", True),
        ("started<2026-11-14", "2026-11-14T00:00", False),
        ("started<=2026-11-14", "2026-11-14T23:59", True),
        ("started!=2026-11-14", "2026-11-14T23:59", False),
        ("started='2026-11-14 14:30'", "2026-11-14T14:30:59", True),
        ("ended<2026-11-14T14:30", "2026-11-14T14:29", True),
        ("started=2026-11-14T01", "2026-11-14T01:59", True),
        ("started=2026-11-14T01", "2026-11-14T02:00", False),
        ("started=2026-11-14T01:30:10", "2026-11-14T01:30:10.999", True),
        ("started=2026-11-14T01:30:10", "2026-11-14T01:30:11", False),
        ("started<9999-12-31", "2026-11-14T01:30", True),
        ("started<=9999-12-31", "2026-11-14T01:30", True),
        ("started>0001-01-01", "2026-11-14T01:30", True),
    ],
)
def test_moments_are_days_minutes_or_so_long_ago(text: str, started: str, expected: bool) -> None:
    assert is_true(text, moment(started)) is expected


def test_a_run_that_is_not_over_has_not_ended() -> None:
    assert not is_true("ended<2030-01-01")
    assert is_true("ended=null")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a>high", "> must have a number behind it, got 'high'\n  a>high\n    ^^^^"),
        ("a>nan", "> must have a number behind it, got 'nan'\n  a>nan\n    ^^^"),
        (
            "ended>soon",
            f"{NO_DATE}, got 'soon'\n  ended>soon\n        ^^^^",
        ),
        ("started=20260329", f"{NO_DATE}, got '20260329'"),
        ("started=2026-W13", f"{NO_DATE}, got '2026-W13'"),
        ("started=2026-03", f"{NO_DATE}, got '2026-03'"),
        (
            "started=7d",
            "7d ago is one moment; use > (since then) or <, got '7d'\n  started=7d\n          ^^",
        ),
        (
            "duration>2",
            "must be a length of time, such as 90s, 30m or 2h, got '2'\n  duration>2\n           ^",
        ),
        (
            "started>2026-13-01",
            f"{NO_DATE}, got '2026-13-01'",
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_shown(text: str, message: str) -> None:
    comparison = parse(text)
    assert isinstance(comparison, Comparison)
    with pytest.raises(ExpressionError) as fault:
        meaning(comparison, text, NOW)
    assert str(fault.value).startswith(message)
