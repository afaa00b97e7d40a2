"""What one comparison means: text, numbers, moments, lengths of time, and values that are not there."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from loratrack.index.expression import PATTERNS, Comparison, ExpressionError

Value = str | float
"""What a run has under a name; a moment is seconds since 1970, a length of time is seconds."""
Test = Callable[[Sequence[Value]], bool]
"""Whether a comparison holds for a run with these values; there are none where the run lacks the name."""

MOMENTS = ("started", "ended")
LENGTHS = ("duration",)
TASK_TYPE = "task_type"
SAME_TASK_TYPES = ("double_cls", "multi_cls")
"""A double_cls is a multi_cls with two tasks, so each name finds both."""
NOTHING = ("null", "none")
SECONDS_A_DAY = 86_400

_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_MILLISECONDS = re.compile(r"\d{12,14}")
"""A moment as MLflow stores it: milliseconds since 1970."""
_MOMENT = re.compile(
    r"\d{4}-\d{2}-\d{2}(?P<hour>[T ]\d{2}(?P<minute>:\d{2}(?P<second>:\d{2}(?P<part>\.\d+)?)?)?"
    r"(Z|[+-]\d{2}:\d{2})?)?"
)
_ORDERS: dict[str, Callable[[float, float], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def meaning(comparison: Comparison, text: str, now: datetime) -> Test:
    """How to test a run; ExpressionError shows in `text` a value that makes no sense there."""
    if comparison.operator.startswith("!"):
        positive = _positive_meaning(
            comparison, comparison.operator[1:] if "~" in comparison.operator else "=", text, now
        )
        return lambda values: not positive(values)
    return _positive_meaning(comparison, comparison.operator, text, now)


def number(text: str) -> float | None:
    """The number that `text` is; None when it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def like(pattern: str, *, is_any_case: bool) -> re.Pattern[str]:
    """SQL's pattern as a regular expression: `%` is any letters, `_` one letter."""
    parts = {"%": ".*", "_": "."}
    text = "".join(parts.get(letter, re.escape(letter)) for letter in pattern)
    return re.compile(re.sub(r"(\.\*)+", ".*", text), re.DOTALL | (re.IGNORECASE if is_any_case else 0))


def _positive_meaning(comparison: Comparison, sign: str, text: str, now: datetime) -> Test:
    name, value = comparison.name.text, comparison.value
    if sign == "~":
        part = value.text.casefold()
        return lambda values: any(part in _shown(each).casefold() for each in values)
    if sign in PATTERNS:
        pattern = like(value.text, is_any_case=sign == "ilike")
        return lambda values: any(pattern.fullmatch(_shown(each)) for each in values)
    if sign == "=" and not value.is_quoted and value.text.lower() in NOTHING:
        return lambda values: all(_shown(each).lower() in NOTHING for each in values)
    if name in MOMENTS:
        return _in_time(sign, comparison, text, now)
    if name in LENGTHS:
        return _compared(sign, _length(comparison, text))
    if sign == "=":
        return _equal(comparison)
    return _compared(sign, _number(comparison, text))


def _equal(comparison: Comparison) -> Test:
    """Numbers are equal however they are written, texts whatever their case."""
    value = comparison.value
    sought = None if value.is_quoted else number(value.text)
    texts = {value.text.casefold()}
    if comparison.name.text == TASK_TYPE and texts & set(SAME_TASK_TYPES):
        texts = set(SAME_TASK_TYPES)

    def is_equal(each: Value) -> bool:
        return _shown(each).casefold() in texts or (sought is not None and _as_number(each) == sought)

    return lambda values: any(map(is_equal, values))


def _compared(sign: str, limit: float) -> Test:
    compare = _ORDERS[sign]
    return lambda values: any(compare(found, limit) for found in map(_as_number, values) if found is not None)


def _in_time(sign: str, comparison: Comparison, text: str, now: datetime) -> Test:
    """A day is a span, and a moment after it is not in it; so many days ago is one moment."""
    begin, end = _span(comparison, text, now)
    if begin == end and sign == "=":
        raise _error(comparison, text, f"{_moment_text(comparison)} is one moment; use > (since then) or <")
    tests: dict[str, Callable[[float], bool]] = {
        "=": lambda moment: begin <= moment < end,
        "<": lambda moment: moment < begin,
        "<=": lambda moment: moment < max(end, begin),
        ">": lambda moment: moment >= end,
        ">=": lambda moment: moment >= begin,
    }
    is_in = tests[sign]
    return lambda values: any(is_in(float(each)) for each in values)


def _moment_text(comparison: Comparison) -> str:
    text = comparison.value.text
    return f"{text} ago" if _LENGTH.fullmatch(text) else text


def _span(comparison: Comparison, text: str, now: datetime) -> tuple[float, float]:
    text_of_value = comparison.value.text
    if length := _LENGTH.fullmatch(text_of_value):
        moment = now.timestamp() - _seconds(length)
        return moment, moment
    if _MILLISECONDS.fullmatch(text_of_value):
        return float(text_of_value) / 1000, float(text_of_value) / 1000
    form = _MOMENT.fullmatch(text_of_value)
    try:
        begin = datetime.fromisoformat(text_of_value) if form else None
    except ValueError:
        begin = None
    if form is None or begin is None:
        raise _error(
            comparison,
            text,
            "must be a date, such as 2026-11-01 or 2026-11-01T14:30, or a time ago, such as 7d",
        )
    # A moment lasts as long as it is exact: a day, an hour, a minute or a second.
    units = {"part": "microseconds", "second": "seconds", "minute": "minutes", "hour": "hours"}
    unit = next((unit for part, unit in units.items() if form[part]), "days")
    try:
        return begin.timestamp(), (begin + timedelta(**{unit: 1})).timestamp()
    except (OverflowError, ValueError):  # at the ends of the calendar
        utc = begin.replace(tzinfo=UTC).timestamp()
        return utc, utc + SECONDS_A_DAY


def _length(comparison: Comparison, text: str) -> float:
    length = _LENGTH.fullmatch(comparison.value.text)
    if length is None:
        raise _error(comparison, text, "must be a length of time, such as 90s, 30m or 2h")
    return _seconds(length)


def _seconds(length: re.Match[str]) -> float:
    return float(length[1]) * _UNIT_SECONDS[length[2]]


def _number(comparison: Comparison, text: str) -> float:
    wanted = number(comparison.value.text)
    if wanted is None:
        raise _error(comparison, text, f"{comparison.operator} must have a number behind it")
    return wanted


def _error(comparison: Comparison, text: str, fault: str) -> ExpressionError:
    value = comparison.value
    return ExpressionError(f"{fault}, got {value.text!r}", text, value.start, value.end)


def _as_number(value: Value) -> float | None:
    return number(value) if isinstance(value, str) else value


def _shown(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:g}"
