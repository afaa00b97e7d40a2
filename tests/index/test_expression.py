"""The language of filters: what it reads, what it refuses and where."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratrack.index.expression import (
    OPERATORS,
    And,
    Comparison,
    Expression,
    ExpressionError,
    Not,
    Or,
    Word,
    comparisons,
    holds,
    parse,
)


def written(expression: Expression) -> str:
    """An expression in full parentheses, its values as they were told apart."""
    match expression:
        case Comparison(name, operator, value):
            shown = value.text.replace("\\", "\\\\").replace('"', '\\"')
            return (
                f'{name.text}{operator}"{shown}"' if value.is_quoted else f"{name.text}{operator}{value.text}"
            )
        case Not(part):
            return f"not ({written(part)})"
        case And(parts):
            return " and ".join(f"({written(part)})" for part in parts)
        case Or(parts):
            return " or ".join(f"({written(part)})" for part in parts)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("avg_f1>0.9", "avg_f1>0.9"),
        ("  avg_f1 >= .9 ", "avg_f1>=.9"),
        ("a==1", "a=1"),
        ("a=1 and b=2 or c=3", "((a=1) and (b=2)) or (c=3)"),
        ("a=1 or b=2 and c=3", "(a=1) or ((b=2) and (c=3))"),
        ("(a=1 or b=2) and c=3", "((a=1) or (b=2)) and (c=3)"),
        ("not a=1 and b=2", "(not (a=1)) and (b=2)"),
        ("not (a=1 AND b=2)", "not ((a=1) and (b=2))"),
        ("NOT not a=1", "not (not (a=1))"),
        ("a=1 and b=2 and c=3", "(a=1) and (b=2) and (c=3)"),
        ("arch=bert-base-chinese", "arch=bert-base-chinese"),
        ("train/loss<2e-5", "train/loss<2e-5"),
        ("exp_id~'two words'", 'exp_id~"two words"'),
        ('a="and"', 'a="and"'),
        (r'a="say \"no\""', r'a="say \"no\""'),
        ("a='it\\'s'", 'a="it\'s"'),
        ("项目=风险等级", "项目=风险等级"),
        ("((a=1))", "a=1"),
        ("started<2026-11-01T14:30", "started<2026-11-01T14:30"),
        ("a!~b", "a!~b"),
        ("notes=1", "notes=1"),
        ("android=1 and order=2", "(android=1) and (order=2)"),
        ("metrics.avg_f1 > 0.9 AND param.`lr` = 1", "(metrics.avg_f1>0.9) and (params.lr=1)"),
        ("params.\"model.lora.rank\" = '8'", 'params.model.lora.rank="8"'),
        ("attributes.run_name = a and attr.start_time > 1d", "(name=a) and (started>1d)"),
        ("tag.`mlflow.user` ILIKE 'A%'", 'tags.mlflow.userilike"A%"'),
        ("a IN ('x', 'y,z')", '(a="x") or (a="y,z")'),
        ("a in (8,16, 32)", "(a=8) or (a=16) or (a=32)"),
        ("a NOT IN (8) and b not like c", "(not ((a=8))) and (not (blikec))"),
        ("a IS NULL and b is not null", "(a=NULL) and (not (b=null))"),
        ("in=1 and like=2", "(in=1) and (like=2)"),
    ],
)
def test_a_filter_is_read_as_meant(text: str, meant: str) -> None:
    assert written(parse(text)) == meant


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a name, such as avg_f1>0.9, got nothing\n  \n  ^"),
        ("a", "after 'a' must be one of =  !=  <  <=  >  >=  ~  !~  in  like, got nothing\n  a\n   ^"),
        (
            "avg_f1＞0.3",
            "must be one of =  !=  <  <=  >  >=  ~  !~  in  like; write '>' for the full-width '＞'\n"
            "  avg_f1＞0.3\n  ^^^^^^^^^^^",
        ),
        (
            "a ！＝ 1",
            "must be one of =  !=  <  <=  >  >=  ~  !~  in  like; write '!' for the full-width '！';"
            " write '=' for the full-width '＝'\n  a ！＝ 1\n    ^^^^",
        ),
        ("a=", "after = must be a value, got nothing\n  a=\n    ^"),
        ("a=>1", "must be one of =  !=  <  <=  >  >=  ~  !~\n  a=>1\n   ^^"),
        ("a=1 b=2", "must be `and`, `or` or the end, got 'b'\n  a=1 b=2\n      ^"),
        ("a=1 and", "must be a name, such as avg_f1>0.9, got nothing\n  a=1 and\n         ^"),
        (
            "a=1 and or b=2",
            "must be a name, such as avg_f1>0.9 (a value that is 'or' is put in quotes), got 'or'\n"
            "  a=1 and or b=2\n"
            "          ^^",
        ),
        ("(a=1 or b=2", "must be `and`, `or` or `)`, got nothing\n  (a=1 or b=2\n             ^"),
        ("a=1)", "must be `and`, `or` or the end, got ')'\n  a=1)\n     ^"),
        ("a='b", "a quoted value must end with the same quote\n  a='b\n    ^^"),
        ("风险=高 又 b=2", "must be `and`, `or` or the end, got '又'\n  风险=高 又 b=2\n          ^^"),
        ("a in 8", "after in must be a list, such as (8, 16), got '8'\n  a in 8\n       ^"),
        ("a in ()", "after in must be a list, such as (8, 16), got ')'\n  a in ()\n        ^"),
        ("a in (x y)", "after in must be a list, such as (8, 16)\n  a in (x y)\n          ^"),
        ("a in (8", "after in must be a list, such as (8, 16), got nothing\n  a in (8\n         ^"),
        ("a not 8", "after `not` must be in or like, got '8'\n  a not 8\n        ^"),
        ("a is 8", "after `is` must be null\n  a is 8\n       ^"),
        ("`a=1", "a quoted value must end with the same quote\n  `a=1\n  ^^^^"),
        (
            "a=1\nand\tb",
            "after 'b' must be one of =  !=  <  <=  >  >=  ~  !~  in  like, got nothing\n"
            "  a=1 and b\n           ^",
        ),
    ],
)
def test_a_mistake_is_shown_where_it_is(text: str, message: str) -> None:
    with pytest.raises(ExpressionError) as fault:
        parse(text)
    assert str(fault.value) == message


def test_nesting_has_an_end() -> None:
    parse("(" * 99 + "a=1" + ")" * 99)
    with pytest.raises(ExpressionError, match=r"^must not be nested deeper than 100"):
        parse("(" * 5000 + "a=1" + ")" * 5000)
    with pytest.raises(ExpressionError, match=r"^must not be nested deeper than 100"):
        parse("not " * 5000 + "a=1")


@given(st.text(alphabet="ab=<>!~()'\" \\12.风andortn\n", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        expression = parse(text)
    except ExpressionError:
        return
    assert list(comparisons(expression))


names = st.text(alphabet="abz_./-风", min_size=1, max_size=6).filter(
    lambda text: text not in ("and", "or", "not")
)
values = st.builds(
    lambda text: Word(text, 0, 0, is_quoted=True), st.text(min_size=0, max_size=8)
) | st.builds(lambda text: Word(text, 0, 0), names)
leaves: st.SearchStrategy[Expression] = st.builds(
    Comparison, st.builds(lambda text: Word(text, 0, 0), names), st.sampled_from(OPERATORS), values
)
expressions = st.recursive(
    leaves,
    lambda below: (
        st.builds(Not, below)
        | st.builds(lambda parts: And(tuple(parts)), st.lists(below, min_size=2, max_size=3))
        | st.builds(lambda parts: Or(tuple(parts)), st.lists(below, min_size=2, max_size=3))
    ),
    max_leaves=8,
)


@given(expressions)
def test_what_is_written_is_read_back(expression: Expression) -> None:
    assert written(parse(written(expression))) == written(expression)


@given(expressions, st.randoms())
def test_and_or_not_mean_what_they_mean_in_python(expression: Expression, chance: Random) -> None:
    truth = {each: chance.random() < 0.5 for each in comparisons(expression)}

    def value(part: Expression) -> bool:
        match part:
            case Comparison():
                return truth[part]
            case Not(inner):
                return not value(inner)
            case And(parts):
                return all(value(each) for each in parts)
            case Or(parts):
                return any(value(each) for each in parts)

    assert holds(expression, truth.__getitem__) == value(expression)
