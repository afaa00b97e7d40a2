"""Tasks with any number of labels a row: how cells are read, which rows are held out, what is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratrack.config import RunConfig
from loratrack.data import Corpus, read
from loratrack.data.labelled.labels import labels_of_cell
from loratrack.data.labelled.splits import held_out, strata
from loratrack.errors import DataError

MakeConfig = Callable[..., RunConfig]

LINES = ["text,label", "one,a; b", "two,", "three,c;a;", "four,b", "five,a", "six,c"]


def matrix_of(corpus: Corpus) -> dict[str, list[int]]:
    """The labels of each text."""
    parts = corpus.parts.values()
    return {
        text: labels.tolist()
        for part in parts
        for text, labels in zip(part.columns[0], part.labels, strict=True)
    }


def test_a_cell_holds_any_number_of_labels(config: MakeConfig) -> None:
    corpus = read(config("\n".join(LINES), multi_label=True))
    assert corpus.label_map.tasks[0].labels == ("a", "b", "c")
    assert matrix_of(corpus) == {
        "one": [1, 1, 0],
        "two": [0, 0, 0],
        "three": [1, 0, 1],
        "four": [0, 1, 0],
        "five": [1, 0, 0],
        "six": [0, 0, 1],
    }
    counts = corpus.report["labels"]["label"]
    assert {label: sum(rows.values()) for label, rows in counts.items()} == {"a": 3, "b": 2, "c": 2}
    assert sum(corpus.report["rows_without_label"]["label"].values()) == 1


def test_json_has_lists_and_texts(config: MakeConfig) -> None:
    labels: list[object] = [["a", "b"], [], ["c", "a"], "b", [1], None, "a;c"]
    lines = [json.dumps({"text": f"n{number}", "label": each}) for number, each in enumerate(labels)]
    corpus = read(config("\n".join(lines), name="raw.jsonl", multi_label=True))
    assert corpus.label_map.tasks[0].labels == ("1", "a", "b", "c")
    assert matrix_of(corpus)["n2"] == [0, 1, 0, 1]
    assert matrix_of(corpus)["n4"] == [1, 0, 0, 0]
    assert matrix_of(corpus)["n1"] == matrix_of(corpus)["n5"] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (
            ["a;b"],
            "'label' lists a label with the separator ';' in it; set data.label_separator to a character",
        ),
        ([["a"]], "'label' must be text, a number or true/false, got a list at line 1"),
        (["a", None], "'label' must list labels, got null among them at line 1"),
    ],
)
def test_a_list_that_holds_no_labels_is_refused(config: MakeConfig, labels: Any, problem: str) -> None:
    content = json.dumps({"text": "x", "label": labels})
    with pytest.raises(DataError, match="1 problem") as caught:
        read(config(content, name="raw.jsonl", multi_label=True))
    assert problem in str(caught.value)


def test_labels_outside_the_task_are_refused_with_their_lines(config: MakeConfig) -> None:
    with pytest.raises(DataError) as caught:
        read(config("\n".join(LINES), multi_label=True, label_subset=["a", "b"]))
    assert "the label 'label' must be one of the task's 2, got 'c' at lines 4, 7" in str(caught.value)


def test_dropped_labels_leave_their_rows(config: MakeConfig) -> None:
    data = {"multi_label": True, "label_subset": ["a", "b"], "unknown_label": "drop"}
    corpus = read(config("\n".join(LINES), **data))
    assert matrix_of(corpus)["three"] == [1, 0]
    assert matrix_of(corpus)["six"] == [0, 0]
    described = corpus.report["files"]["data.raw_data_path"]
    assert (described["rows"], described["rows_with_unknown_label"]) == (6, 2)
    assert corpus.report["warnings"][0].endswith(
        "raw.csv: labels outside data.label_subset are left out of 2 rows, which stay"
    )


def test_a_task_with_one_label_stands_beside_one_with_several(config: MakeConfig) -> None:
    lines = [
        f"text {number},{'yes' if number % 2 else 'no'},{'a b' if number % 3 else ''}" for number in range(9)
    ]
    labels = {"sure": ["yes", "no"], "topics": ["a", "b"]}
    corpus = read(
        config(
            "\n".join(["text,sure,topics", *lines]),
            task_type="multi_cls",
            label_subset=labels,
            multi_label=["topics"],
            label_separator=" ",
        )
    )
    assert corpus.train.labels.dtype == np.int8
    assert corpus.label_map.columns == {"sure": slice(0, 1), "topics": slice(1, 3)}
    assert matrix_of(corpus)["text 4"] == [1, 1, 1]
    assert matrix_of(corpus)["text 3"] == [0, 0, 0]


def test_a_label_that_still_joins_others_is_doubted(config: MakeConfig) -> None:
    lists = [f'text {number},"{("a", "b", "a|b")[number % 3]}"' for number in range(30)]
    warnings = read(config("\n".join(["text,label", *lists]), multi_label=True)).report["warnings"]
    assert warnings == [
        "label: 1 label joins other labels, such as 'a|b': it is learned as a class of its own; for several"
        " labels a row set data.label_separator: '|'"
    ]


def test_a_weight_for_no_label_is_refused(config: MakeConfig) -> None:
    made = config("\n".join(LINES), multi_label=True)
    weights = made.train.model_copy(update={"class_weight": {"a": 2.0, "bb": 1.0}})
    with pytest.raises(DataError) as caught:
        read(made.model_copy(update={"train": weights}))
    assert "train.class_weight: label 'bb' is not among the 3 of label" in str(caught.value)


def test_a_cell_without_a_separator_is_one_label() -> None:
    assert labels_of_cell("a; b") == ["a; b"]
    assert labels_of_cell(" a;;b ;", ";") == ["a", "b"]
    assert labels_of_cell(None) == labels_of_cell("", ";") == []


@given(
    st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=60),
    st.floats(0.05, 0.9),
    st.integers(0, 99),
)
def test_each_label_keeps_a_row_for_training(rows: list[list[bool]], share: float, seed: int) -> None:
    labels = np.array(rows, dtype=np.int8)
    mask = held_out(np.arange(len(rows)), labels, share, seed, strata=strata(labels, [slice(0, 5)]))
    assert (labels[~mask].any(axis=0) == labels.any(axis=0)).all()


@pytest.mark.parametrize("seed", range(5))
def test_rare_labels_have_their_share_of_the_held_out_rows(seed: int) -> None:
    chances = np.array([0.5, 0.3, 0.1, 0.02])
    labels = (np.random.default_rng(seed).random((2000, 4)) < chances).astype(np.int8)
    mask = held_out(np.arange(2000), labels, 0.2, seed, strata=strata(labels, [slice(0, 4)]))
    shares = labels[mask].sum(axis=0) / labels.sum(axis=0)
    assert abs(labels[mask][:, 3].sum() - 0.2 * labels[:, 3].sum()) < 2
    assert (abs(shares - 0.2) < 0.05).all()
