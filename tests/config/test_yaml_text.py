"""What YAML 1.1 would bend stays as it is written."""

from __future__ import annotations

import pytest
import yaml

from loratrack.config.yaml_text import problem_of, value_of

WIDE = "a full-width '：' stands behind"
BARE = "no space stands behind"


def test_scalars_stay_the_text_of_the_file() -> None:
    text = "2e-5, yes, on, 007, 1_000, 2024-01-01, 12:30, =, .nan, 0x1F, True"
    assert value_of(f"[{text}]") == text.split(", ")


@pytest.mark.parametrize("tag", ["bool", "int", "float", "timestamp", "binary", "str"])
def test_scalars_with_a_tag_stay_text_too(tag: str) -> None:
    assert value_of(f"!!{tag} x") == "x"


def test_null_is_null_and_quoted_null_is_text() -> None:
    value = value_of("a: null\nb: ~\nc:\nd: 'null'\ne: [NULL, '~']\n")
    assert value == {"a": None, "b": None, "c": None, "d": "null", "e": [None, "~"]}


def test_anchors_and_merge_keys_work() -> None:
    value = value_of("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\nd: {<<: *a, <<: {z: 0}}\n")
    assert value["b"] == {"x": "1", "y": "3"}
    assert value["c"] == {"x": "1", "y": "2"}
    assert value["d"] == {"x": "1", "y": "2", "z": "0"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "line 4, column 3: the same key twice: c"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed here"),
        ("? [a]\n: 1", "line 1, column 3: found unhashable key"),
        ("exp_id：a\ntask_type: b", f"line 1: {WIDE} exp_id; write ': ', with a space"),
        ("a: 1\n风险：[x]\nb: 2", f"line 2: {WIDE} 风险; write ': ', with a space"),
        ("exp_id:评论\ntask_type: b", f"line 1: {BARE} 'exp_id:'; write ': ', with a space"),
        ("a: 1\nb:\n  lr:2e-5\n  epochs: 2", f"line 3: {BARE} 'lr:'; write ': ', with a space"),
        ("http://a\nb: c", "line 2, column 2: mapping values are not allowed here"),
        ("text: |\n  Note：x\nc: 1\nb: 2\na: b: c", "line 5, column 5: mapping values are not allowed here"),
        ("a:\n\tb: 1", "line 2, column 1: a tab; indent with spaces"),
        ("a: *b", "line 1, column 4: found undefined alias 'b'"),
        (
            "a\0b",
            "unacceptable character #x0000: special characters are not allowed"
            ' in "<unicode string>", position 1',
        ),
    ],
)
def test_a_problem_is_one_line_with_its_place(text: str, words: str) -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        value_of(text)
    assert problem_of(caught.value, text) == words
