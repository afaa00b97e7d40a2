"""What a model answered, kept as counts: the pictures need no more."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratrack.views.answers import as_json, from_json

LABELS = ["低", "mid", "high"]
pairs = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30)


@given(pairs)
def test_each_pair_comes_back_as_often_as_it_was(answered: list[tuple[int, int]]) -> None:
    truth, predicted = (np.array(side) for side in zip(*answered, strict=True))
    labels, *sides = from_json(json.dumps(as_json({"risk": (LABELS, truth, predicted)})))["risk"]
    assert labels == LABELS
    assert sorted(zip(*(side.tolist() for side in sides), strict=True)) == sorted(answered)


def test_several_labels_of_a_row_come_back_too() -> None:
    truth = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1]], dtype=np.int64)
    predicted = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]], dtype=np.int64)
    content = as_json({"topics": (LABELS, truth, predicted)})
    assert content == {"topics": {"labels": LABELS, "answers": [[[], [1], 1], [[0, 2], [0], 2]]}}
    _, again, answered = from_json(json.dumps(content))["topics"]
    assert again.tolist() == [[0, 0, 0], [1, 0, 1], [1, 0, 1]]
    assert answered.tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("text", ["[", '{"a": 1}', '{"a": {"labels": []}}'])
def test_a_changed_file_is_told(text: str) -> None:
    with pytest.raises((ValueError, TypeError, LookupError)):
        from_json(text)
