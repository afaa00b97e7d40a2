"""The language of `--filter`: comparisons, joined by and, or, not and parentheses.

parse("task_type=multi_cls and (model.lora.rank>=8 or not exp_id~v4)")
parse("metrics.avg_f1 > 0.9 AND params.`model.lora.rank` IN ('8', '16')")     # as MLflow spells it
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from rich.cells import cell_len

from loratrack.errors import UserError, full_width, is_text, printable

OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "~", "!~")
PATTERNS = ("like", "ilike")
"""Operators whose value may hold `%` for any letters and `_` for one; ilike takes letters of any case."""
_ALL_OPERATORS = "  ".join((*OPERATORS, "in", "like"))
_JOINTS = ("and", "or", "not")
_KINDS = {
    **dict.fromkeys(("attribute", "attributes", "attr", "run"), ""),
    **dict.fromkeys(("metric", "metrics"), "metrics."),
    **dict.fromkeys(("parameter", "parameters", "param", "params"), "params."),
    **dict.fromkeys(("tag", "tags"), "tags."),
}
"""What MLflow writes before a dot, and what we do."""
_ATTRIBUTES = {"run_name": "name", "start_time": "started", "created": "started", "end_time": "ended"}
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<parenthesis>[()])
      | (?P<operator>[=!<>~]+)
      | (?P<marked>(?:\w+\.)?`[^`]+`|\w+\."[^"]+")
      | (?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<open_quote>["'`].*)
      | (?P<word>[^\s()=!<>~"']+)""",
    re.VERBOSE | re.DOTALL,
)
_WIDE_OPERATOR = re.compile("[＝！＜＞～（）]")
_MAX_DEPTH = 100
"""Of parentheses and nots; a person needs a few."""


class ExpressionError(UserError):
    """What cannot be understood, with the text and a mark below the place."""

    def __init__(self, fault: str, text: str, start: int, end: int) -> None:
        shown = printable(text)
        marks = "^" * max(1, cell_len(shown[start:end]))
        super().__init__(f"{fault}\n  {shown}\n  {' ' * cell_len(shown[:start])}{marks}")


@dataclass(frozen=True)
class Word:
    """A name or a value, and where it stands."""

    text: str
    start: int
    end: int
    is_quoted: bool = False


@dataclass(frozen=True)
class Comparison:
    name: Word
    operator: str
    value: Word


@dataclass(frozen=True)
class Not:
    part: Expression


@dataclass(frozen=True)
class And:
    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Or:
    parts: tuple[Expression, ...]


Expression = Comparison | Not | And | Or


def parse(text: str, typed: str | None = None) -> Expression:
    """The expression that `text` says; ExpressionError shows where it stops making sense.

    `typed`: what stands at the same places in the words of the user, where that is another text.
    """
    return _Parser(text, typed or text).whole()


def comparisons(expression: Expression) -> Iterator[Comparison]:
    """From left to right."""
    match expression:
        case Comparison():
            yield expression
        case Not(part):
            yield from comparisons(part)
        case And(parts) | Or(parts):
            for part in parts:
                yield from comparisons(part)


def holds(expression: Expression, is_true: Callable[[Comparison], bool]) -> bool:
    """Whether the whole holds, where `is_true` answers for each comparison."""
    match expression:
        case Comparison():
            return is_true(expression)
        case Not(part):
            return not holds(part, is_true)
        case And(parts):
            return all(holds(part, is_true) for part in parts)
        case Or(parts):
            return any(holds(part, is_true) for part in parts)


def our_name(name: str) -> str:
    """A name in MLflow's spelling as we write it: `attributes.run_name` is `name`, `param.x` `params.x`."""
    kind, dot, rest = name.partition(".")
    if not dot or kind not in _KINDS:
        return name
    return _KINDS[kind] + (rest if _KINDS[kind] else _ATTRIBUTES.get(rest, rest))


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int

    @property
    def joint(self) -> str:
        """`and`, `or` or `not`, in any case; else nothing."""
        return self.text.lower() if self.kind == "word" and self.text.lower() in _JOINTS else ""


class _Parser:
    """One method for each rule: either := both (or both)*; both := single (and single)*."""

    def __init__(self, text: str, typed: str) -> None:
        self.text, self.typed = text, typed
        if not is_text(text):
            start = next(place for place, letter in enumerate(text) if not is_text(letter))
            raise ExpressionError("must be text in UTF-8", typed, start, start + 1)
        self.tokens = list(self._read())
        self.depth = 0

    def whole(self) -> Expression:
        expression = self._either()
        if self._next.kind != "end":
            raise self._error("must be `and`, `or` or the end")
        return expression

    def _read(self) -> Iterator[_Token]:
        for match in _TOKEN.finditer(self.text):
            token = _Token(str(match.lastgroup), match[0], match.start(), match.end())
            if token.kind == "open_quote":
                raise ExpressionError(
                    "a quoted value must end with the same quote", self.typed, *match.span()
                )
            if token.kind == "marked":
                yield replace(token, kind="name", text=re.sub('[`"]', "", token.text))
                continue
            if token.kind == "operator" and token.text not in (*OPERATORS, "=="):
                raise ExpressionError(f"must be one of {'  '.join(OPERATORS)}", self.typed, *match.span())
            if token.kind != "space":
                yield token
        yield _Token("end", "", len(self.text.rstrip()), len(self.text.rstrip()) + 1)

    @property
    def _next(self) -> _Token:
        return self.tokens[0]

    def _take(self) -> _Token:
        return self.tokens.pop(0)

    def _error(self, fault: str) -> ExpressionError:
        start, end = self._next.start, self._next.end
        if self.typed[start:end] != self.text[start:end]:  # the first of the words that stand there
            end = start + len(self.typed[start:].split(maxsplit=1)[0])
        got = f"got {self.typed[start:end]!r}" if self._next.text else "got nothing"
        return ExpressionError(f"{fault}, {got}", self.typed, start, end)

    def _either(self) -> Expression:
        parts = [self._both()]
        while self._next.joint == "or":
            self._take()
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _both(self) -> Expression:
        parts = [self._single()]
        while self._next.joint == "and":
            self._take()
            parts.append(self._single())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _single(self) -> Expression:
        if self._next.joint != "not" and self._next.text != "(":
            return self._comparison()
        if self.depth == _MAX_DEPTH:
            raise self._error(f"must not be nested deeper than {_MAX_DEPTH}")
        self.depth += 1
        expression = self._negation() if self._take().joint else self._group()
        self.depth -= 1
        return expression

    def _negation(self) -> Expression:
        return Not(self._single())

    def _group(self) -> Expression:
        expression = self._either()
        if self._next.text != ")":
            raise self._error("must be `and`, `or` or `)`")
        self._take()
        return expression

    def _comparison(self) -> Expression:
        name = self._word("must be a name, such as avg_f1>0.9", kinds=("word", "quoted", "name"))
        name = replace(name, text=our_name(name.text))
        if self._next.kind == "word" and self._next.text.lower() in ("in", "is", "not", *PATTERNS):
            return self._comparison_in_words(name)
        if self._next.kind != "operator":
            self._refuse_full_width(name)
            raise self._error(f"after {name.text!r} must be one of {_ALL_OPERATORS}")
        operator = self._take().text
        value = self._word(f"after {operator} must be a value")
        return Comparison(name, "=" if operator == "==" else operator, value)

    def _refuse_full_width(self, name: Word) -> None:
        """`avg_f1＞0.3` is one word, and `avg_f1 ＞ 0.3` has a word where an operator must be."""
        for start, end in ((name.start, name.end), (self._next.start, self._next.end)):
            if hint := full_width("".join(_WIDE_OPERATOR.findall(self.text[start:end]))):
                raise ExpressionError(f"must be one of {_ALL_OPERATORS}{hint}", self.typed, start, end)

    def _comparison_in_words(self, name: Word) -> Expression:
        """[not] in (a, b), [not] like 'a%', [not] ilike, is [not] null."""
        operator, is_not = self._take().text.lower(), False
        if operator == "not":
            if self._next.text.lower() not in ("in", *PATTERNS):
                raise self._error("after `not` must be in or like")
            operator, is_not = self._take().text.lower(), True
        elif operator == "is" and self._next.text.lower() == "not":
            self._take()
            is_not = True
        expression: Expression
        if operator == "in":
            expression = Or(tuple(Comparison(name, "=", value) for value in self._list()))
        elif operator in PATTERNS:
            expression = Comparison(name, operator, self._word(f"after {operator} must be a value"))
        else:
            value = self._word("after `is` must be null")
            if value.text.lower() != "null":
                raise ExpressionError("after `is` must be null", self.typed, value.start, value.end)
            expression = Comparison(name, "=", replace(value, is_quoted=False))
        return Not(expression) if is_not else expression

    def _list(self) -> list[Word]:
        """(8, 16) or ('a', 'b'): one value or more."""
        fault = "after in must be a list, such as (8, 16)"
        if self._next.text != "(":
            raise self._error(fault)
        self._take()
        values: list[Word] = []
        is_comma_due = False
        while self._next.text != ")":
            token = self._next
            if token.kind == "quoted" and not is_comma_due:
                values.append(self._word(fault))
                is_comma_due = True
                continue
            if token.kind != "word":
                raise self._error(fault)
            for part in re.finditer(r",|[^,]+", self._take().text):
                if is_comma_due != (part[0] == ","):
                    raise ExpressionError(fault, self.typed, token.start, token.end)
                if part[0] != ",":
                    values.append(Word(part[0], token.start + part.start(), token.start + part.end()))
                is_comma_due = not is_comma_due
        if not values or not is_comma_due:
            raise self._error(fault)
        self._take()
        return values

    def _word(self, fault: str, kinds: tuple[str, ...] = ("word", "quoted")) -> Word:
        if self._next.kind not in kinds:
            raise self._error(fault)
        if self._next.joint:
            raise self._error(f"{fault} (a value that is {self._next.text!r} is put in quotes)")
        token = self._take()
        if token.kind == "quoted":
            text = re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL)
            return Word(text, token.start, token.end, is_quoted=True)
        return Word(token.text, token.start, token.end)
