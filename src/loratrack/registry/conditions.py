"""The language of `promote --if`: metrics beside numbers, and beside the champion's.

    avg_f1>=0.93 and intent_f1 not worse than champion by 0.005

Joints and parentheses are those of `compare --filter`. A metric is its value at the best epoch; `test_…`
was measured once.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from loratrack.errors import UserError, did_you_mean
from loratrack.index.comparisons import number
from loratrack.index.expression import Comparison, ExpressionError, comparisons, holds, parse
from loratrack.index.runs import names_of
from loratrack.metrics import is_lower_better

Metrics = Mapping[str, float]

BESIDE_CHAMPION = re.compile(
    r"\s(?P<words>\s*(?P<how>not\s+worse|better)\s+than\s+champion\b(\s+by\b\s*(?P<by>[^\s()]*))?)",
    re.IGNORECASE,
)
MAX_CHARACTERS = 1000
ROUNDING = 1e-12
"""0.93 - 0.005 is not 0.925 in floats."""
ORDERS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
FORMS = "avg_f1>=0.93, avg_f1 not worse than champion by 0.005, or avg_f1 better than champion"


@dataclass(frozen=True)
class Verdict:
    is_met: bool
    findings: tuple[str, ...]
    """One line for each comparison: the values, and whether it holds."""


def judge(text: str, candidate: Metrics, champion: Metrics | None) -> Verdict:
    """Whether the condition holds; where there is no champion, everything is better than it.

    A mistake in the condition, or a metric that a run lacks, is a UserError.
    """
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"--if: must have at most {MAX_CHARACTERS:,} characters, got {len(text):,}")
    margins: dict[int, Margin] = {}
    """By the place of the value that takes the place of the words, which the parser does not know."""

    def as_value(match: re.Match[str]) -> str:
        is_better = match["how"].lower() == "better"
        margins[match.start("how") + 1] = Margin(is_better, _margin(match, text), match.end())
        before = match.start("how") - match.start()
        return f"{' ' * before}=x".ljust(len(match[0]))

    plain = BESIDE_CHAMPION.sub(as_value, text)
    expression = parse(plain, typed=text)
    results = {
        each: _judged(each, margins.get(each.value.start), text, candidate, champion)
        for each in comparisons(expression)
    }
    is_met = holds(expression, lambda each: results[each][0])
    return Verdict(is_met, tuple(f"{'holds' if met else 'fails'}: {line}" for met, line in results.values()))


@dataclass(frozen=True)
class Margin:
    """How a metric must stand beside the champion's."""

    is_better: bool
    """Better than it; else not worse than it."""
    by: float
    end: int
    """Where the words end in the text."""


def _margin(match: re.Match[str], text: str) -> float:
    """The number behind `by`, 0 without one."""
    if match["by"] is None:
        return 0.0
    by = number(match["by"])
    if by is None or by < 0:
        start, end = match.span("by")
        got = repr(match["by"]) if match["by"] else "nothing"
        raise ExpressionError(
            f"behind `by` must be a number from 0 on, such as 0.005, got {got}", text, start, end
        )
    return by


def _judged(
    comparison: Comparison, margin: Margin | None, text: str, candidate: Metrics, champion: Metrics | None
) -> tuple[bool, str]:
    """Whether the comparison holds, and the values as a line."""
    name, value = comparison.name.text, comparison.value.text
    if margin is not None:
        how, by = "better" if margin.is_better else "not worse", margin.by
        words = f"{name} {how} than champion" + (f" by {by:g}" if by else "")
        got = _metric(name, candidate, "the candidate")
        if champion is None:
            return True, f"{words}, got {got:.6g} and no champion"
        best = _metric(name, champion, "the champion")
        gain = best - got if is_lower_better(name) else got - best
        # "better" without a margin still needs a gain: an equal version replaces nobody.
        is_met = (gain > by - ROUNDING and gain > 0) if margin.is_better else gain >= -by - ROUNDING
        return is_met, f"{words}, got {got:.6g}, the champion has {best:.6g}"
    limit = number(value)
    if limit is None or comparison.operator not in ORDERS:
        raise ExpressionError(f"must be like {FORMS}", text, comparison.name.start, comparison.value.end)
    got = _metric(name, candidate, "the candidate")
    return ORDERS[comparison.operator](got, limit), f"{name} {comparison.operator} {value}, got {got:.6g}"


def _metric(name: str, metrics: Metrics, whose: str) -> float:
    """At the best epoch where that was logged, else the last."""
    for key in (*(f"best_{each}" for each in names_of(name)), *names_of(name)):
        if key in metrics:
            return metrics[key]
    names = {key.removeprefix("best_") for key in metrics}
    raise UserError(f"--if: {whose} has no metric {name!r}{did_you_mean(name, names)}")
