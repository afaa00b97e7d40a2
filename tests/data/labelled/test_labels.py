from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratrack.data import LabelMap, TaskLabels
from loratrack.data.labelled.labels import read_global_map, subset_problems, task_labels
from loratrack.errors import DataError

LABELS = st.lists(st.text(max_size=8), min_size=2, max_size=6, unique=True)


@st.composite
def label_maps(draw: st.DrawFn) -> LabelMap:
    tasks = []
    for name in draw(st.lists(st.text(max_size=8), min_size=1, max_size=3, unique=True)):
        labels = draw(LABELS)
        ids = draw(st.permutations(range(len(labels) + 2)))
        tasks.append(TaskLabels(name, tuple(labels), tuple(ids[: len(labels)])))
    return LabelMap(tuple(tasks))


@given(label_maps())
def test_a_label_map_comes_back_from_json(label_map: LabelMap) -> None:
    back = LabelMap.from_dict(json.loads(json.dumps(label_map.to_dict())))
    assert back == label_map
    assert back.sha256 == label_map.sha256


def test_label_map_json_holds_both_ids_of_each_label() -> None:
    label_map = LabelMap((TaskLabels("risk", ("high", "low"), (7, 3)),))
    assert label_map.to_dict() == {
        "risk": {"high": {"local_id": 0, "global_id": 7}, "low": {"local_id": 1, "global_id": 3}}
    }


def test_the_sha256_depends_on_order_ids_and_names() -> None:
    maps = [
        LabelMap((TaskLabels("risk", ("a", "b"), (0, 1)),)),
        LabelMap((TaskLabels("risk", ("b", "a"), (1, 0)),)),
        LabelMap((TaskLabels("risk", ("a", "b"), (0, 2)),)),
        LabelMap((TaskLabels("mood", ("a", "b"), (0, 1)),)),
    ]
    assert len({label_map.sha256 for label_map in maps}) == len(maps)


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        ({"a": 0, "b": 1}, "risk: each label must have a local_id and a global_id"),
        ({"a": {"local_id": 1, "global_id": 0}}, r"risk: local ids must be 0…0, got \[1\]"),
        (["a"], "risk: each label must have a local_id and a global_id"),
    ],
)
def test_a_broken_label_map_is_reported(numbers: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        LabelMap.from_dict({"risk": numbers})


def chosen(file: Path, content: Any, subsets: dict[str, Any], labels: dict[str, set[str]]) -> Any:
    """The labels of each task and what is reported, with that global map (None: without one)."""
    problems: list[str] = []
    global_map = None
    if content is not None:
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        global_map = read_global_map(file, tuple(subsets), problems)
    if problems:
        return [problem.removeprefix(f"{file}: ") for problem in problems]
    tasks = [
        task_labels(task, subset, labels[task], global_map, problems) for task, subset in subsets.items()
    ]
    return problems or {task.name: dict(zip(task.labels, task.global_ids, strict=True)) for task in tasks}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "map.json"


def test_without_a_global_map_the_sorted_labels_of_the_data_are_it(file: Path) -> None:
    labels = {"risk": {"low", "high", "mid"}}
    assert chosen(file, None, {"risk": "all"}, labels) == {"risk": {"high": 0, "low": 1, "mid": 2}}
    assert chosen(file, None, {"risk": ("mid", "high")}, labels) == {"risk": {"mid": 2, "high": 0}}


def test_all_are_the_labels_of_the_global_map_by_id(file: Path) -> None:
    assert chosen(file, {"low": 5, "high": 2}, {"risk": "all"}, {"risk": {"low"}}) == {
        "risk": {"high": 2, "low": 5}
    }


def test_a_subset_keeps_its_own_order_and_the_global_ids(file: Path) -> None:
    content = {"risk": {"low": 0, "mid": 1, "high": 2}, "other": {"x": 0}}
    subsets = {"risk": ("high", "low")}
    assert chosen(file, content, subsets, {"risk": {"low"}}) == {"risk": {"high": 2, "low": 0}}


def test_of_a_flat_map_for_several_tasks_all_means_those_in_the_column(file: Path) -> None:
    content = {"low": 0, "high": 1, "yes": 2, "no": 3}
    labels = {"risk": {"low", "high"}, "adopt": {"yes", "no"}}
    assert chosen(file, content, {"risk": "all", "adopt": "all"}, labels) == {
        "risk": {"low": 0, "high": 1},
        "adopt": {"yes": 2, "no": 3},
    }


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        ("{", ["the global label map must be JSON in UTF-8: Expecting property name"]),
        ("[]", ["the global label map must map labels to ids, got []"]),
        ({}, ["the global label map must map labels to ids, got {}"]),
        ('{"a": 0, "a": 1}', ["the global label map must be JSON in UTF-8: the same key twice: ['a']"]),
        ({"a": 0, "b": "1"}, ["'b': the id must be a whole number from 0, got '1'"]),
        (
            {"a": -1, "b": True},
            ["'a': the id must be", "'b': the id must be a whole number from 0, got True"],
        ),
        ({"a": 0, "b": 0}, ["id 0 belongs to more than one label: ['a', 'b']"]),
        ({"a": 0, "risk": {"b": 1}}, ["must map labels to ids or tasks to such maps, not both; got ['a']"]),
        ({"risks": {"a": 0}}, ["has no task 'risk'; did you mean 'risks'?"]),
        ({"risk": {"a": 0, "b": 0}}, ["risk: id 0 belongs to more than one label: ['a', 'b']"]),
        ({"a": 0, "b": 1}, ["data.label_subset.risk: label 'c' is not in data.global_label_map"]),
    ],
)
def test_a_bad_global_map_is_reported(file: Path, content: Any, problems: list[str]) -> None:
    messages = chosen(file, content, {"risk": ("a", "c")}, {"risk": {"a"}})
    assert len(messages) == len(problems)
    for problem, start in zip(messages, problems, strict=True):
        assert problem.startswith(start)


@pytest.mark.parametrize(
    ("subset", "in_data", "problem"),
    [
        (("low", "hihg"), {"low", "high"}, "label 'hihg' is not in the data; did you mean 'high'?"),
        (("高风险", "低风险"), {"高风险", "无"}, "label '低风险' is not in the data"),
        (
            ("a", "x", "yes", "no"),
            {"a", "yess"},
            "3 labels are not in the data: 'x', 'yes', 'no'; did you mean 'yess' for 'yes'?",
        ),
        (("高", "低"), {"高"}, "the data has only '高'; a task needs rows of two labels or more"),
        (
            ("高", "中", "低"),
            {"0", "1", "2"},
            "none of its labels is in the data, which has '0', '1', '2'; the config names '高', '中', '低';"
            " name the labels of the data, or another column: data.label_columns: {risk: COLUMN}",
        ),
    ],
)
def test_what_a_subset_and_the_data_say_against_each_other_is_one_problem(
    subset: tuple[str, ...], in_data: set[str], problem: str
) -> None:
    problems = subset_problems("risk", subset, in_data, must_be_in_data=True)
    assert problems == [f"data.label_subset.risk: {problem}"]


def test_a_label_of_the_global_map_needs_no_row() -> None:
    assert subset_problems("risk", ("low", "high"), {"low"}, must_be_in_data=False) == []


def test_one_label_alone_is_no_task(file: Path) -> None:
    assert chosen(file, None, {"risk": "all"}, {"risk": {"low"}}) == [
        "data.label_subset.risk: a task needs at least two labels, got ['low']"
    ]
