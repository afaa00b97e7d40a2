"""Conditions of a promotion: what holds, what fails, and what is no condition."""

from __future__ import annotations

import pytest

from loratrack.errors import UserError
from loratrack.registry.conditions import judge

CANDIDATE = {"best_avg_f1": 0.925, "avg_f1": 0.7, "best_intent_f1": 0.9, "validation/loss": 0.30}
CHAMPION = {"best_avg_f1": 0.93, "avg_f1": 0.93, "best_intent_f1": 0.9, "validation/loss": 0.25}


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("avg_f1>=0.925", True),  # at the best epoch, not the last
        ("avg_f1>0.925", False),
        ("avg_f1 not worse than champion by 0.005", True),  # 0.93 - 0.005 in floats
        ("avg_f1 not worse than champion by 0.004", False),
        ("avg_f1 not worse than champion", False),
        ("intent_f1 NOT WORSE THAN champion", True),
        ("intent_f1 better than champion", False),
        ("validation/loss not worse than champion by 0.06", True),  # less is better
        ("validation/loss better than champion", False),
        ("avg_f1>0.99 or (intent_f1>=0.9 and not avg_f1<0.9)", True),
        ("avg_f1>0.9 and intent_f1 not worse than champion by 1e-3 and avg_f1<0.93", True),
    ],
)
def test_a_condition_holds_or_fails(condition: str, holds: bool) -> None:
    assert judge(condition, CANDIDATE, CHAMPION).is_met is holds


def test_each_comparison_is_reported() -> None:
    text = "avg_f1>=0.93 and intent_f1 not worse than champion by 0.005"
    findings = judge(text, CANDIDATE, CHAMPION).findings
    assert findings == (
        "fails: avg_f1 >= 0.93, got 0.925",
        "holds: intent_f1 not worse than champion by 0.005, got 0.9, the champion has 0.9",
    )


def test_without_a_champion_nothing_is_worse() -> None:
    assert judge("avg_f1 better than champion by 0.5", CANDIDATE, None).is_met
    assert not judge("avg_f1 better than champion and avg_f1>1", CANDIDATE, None).is_met


def test_one_task_has_no_average() -> None:
    assert judge("avg_f1>=0.5", {"best_f1": 0.6}, None).is_met


def test_what_is_no_number_is_not_met() -> None:
    assert not judge("avg_f1>=0.5", {"avg_f1": float("nan")}, None).is_met
    assert not judge("avg_f1 not worse than champion", {"avg_f1": float("nan")}, CHAMPION).is_met


@pytest.mark.parametrize(
    "condition",
    ["", "avg_f1", "avg_f1>", "avg_f1~0.9", "avg_f1=1", "avg_f1>high", "avg_f1 worse than champion"],
)
def test_what_is_no_condition_is_refused(condition: str) -> None:
    with pytest.raises(UserError):
        judge(condition, CANDIDATE, CHAMPION)


def test_a_metric_that_the_champion_lacks_is_reported() -> None:
    with pytest.raises(UserError, match=r"--if: the champion has no metric 'intent_f1'"):
        judge("intent_f1 better than champion", CANDIDATE, {"best_avg_f1": 0.9})


@pytest.mark.parametrize("number", ["0,005", "0.5%", "1.2.3", ".", "-0.1", "nan", "inf", "x", ""])
def test_what_stands_behind_by_is_a_number(number: str) -> None:
    text = f"intent_f1>0.5 and avg_f1 better  than champion by {number}".rstrip()
    with pytest.raises(UserError) as fault:
        judge(text, CANDIDATE, CHAMPION)
    got = repr(number) if number else "nothing"
    marks = " " * text.index(number, 50) + "^" * max(1, len(number)) if number else " " * len(text) + "^"
    assert str(fault.value).splitlines() == [
        f"behind `by` must be a number from 0 on, such as 0.005, got {got}",
        f"  {text}",
        f"  {marks}",
    ]


def test_a_fault_shows_what_was_typed() -> None:
    with pytest.raises(UserError) as fault:
        judge("avg_f1 better than champion by 0.1 avg_f1>0.5", CANDIDATE, CHAMPION)
    assert str(fault.value).splitlines() == [
        "must be `and`, `or` or the end, got 'avg_f1'",
        "  avg_f1 better than champion by 0.1 avg_f1>0.5",
        f"  {' ' * 35}^^^^^^",
    ]
    with pytest.raises(UserError) as fault:
        judge("avg_f1 > better than champion", CANDIDATE, CHAMPION)
    assert str(fault.value).splitlines() == [
        "after > must be a value, got 'better'",
        "  avg_f1 > better than champion",
        f"  {' ' * 9}^^^^^^",
    ]


def test_a_value_that_is_written_like_our_own_mark_is_no_margin() -> None:
    with pytest.raises(UserError, match=r"must be like avg_f1>=0\.93"):
        judge("avg_f1 =x", CANDIDATE, CHAMPION)


def test_a_condition_has_an_end() -> None:
    with pytest.raises(UserError, match="--if: must have at most 1,000 characters, got 100,004"):
        judge(f"f1>0{' ' * 100_000}", {"f1": 0.5}, None)
