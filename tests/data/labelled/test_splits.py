from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratrack.data.labelled.splits import conflicting, held_out, text_numbers

ROWS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=80)
SHARES = st.floats(0.01, 0.9)


def split(rows: list[tuple[int, int, int]], share: float, seed: int) -> tuple[np.ndarray, ...]:
    numbers = text_numbers([row[0] for row in rows])
    labels = np.array([row[1:] for row in rows])
    return numbers, labels, held_out(numbers, labels, share, seed)


@given(ROWS, SHARES, st.integers(0, 2**32 - 1))
def test_no_text_is_on_both_sides(rows: list[tuple[int, int, int]], share: float, seed: int) -> None:
    numbers, _, mask = split(rows, share, seed)
    assert not set(numbers[mask]) & set(numbers[~mask])


@given(ROWS, SHARES, st.integers(0, 2**32 - 1))
def test_each_label_keeps_a_text_for_training(
    rows: list[tuple[int, int, int]], share: float, seed: int
) -> None:
    _, first_rows = np.unique([row[0] for row in rows], return_index=True)
    different = [rows[row] for row in first_rows]  # labels of a text are those of its first row
    _, labels, mask = split(different, share, seed)
    for task in range(labels.shape[1]):
        assert set(labels[~mask, task]) == set(labels[:, task])


@given(st.integers(0, 1000), st.floats(0.05, 0.5), st.lists(st.integers(10, 60), min_size=2, max_size=6))
def test_each_joint_label_gives_its_share(seed: int, share: float, sizes: list[int]) -> None:
    joint = [(label // 2, label % 2) for label, size in enumerate(sizes) for _ in range(size)]
    rows = [(number, *labels) for number, labels in enumerate(joint)]
    _, labels, mask = split(rows, share, seed)
    given_out = Counter(map(tuple, labels[mask]))
    for label, size in enumerate(sizes):
        assert abs(given_out[label // 2, label % 2] - share * size) < 2.5
    assert mask.sum() == max(1, round(share * len(rows)))


def test_rare_joint_labels_are_dealt_out_by_the_first_label() -> None:
    rows = [(number, number % 2, number // 2) for number in range(200)]  # no joint label twice
    numbers = text_numbers([row[0] for row in rows])
    labels = np.array([(first, second % 90) for _, first, second in rows])
    mask = held_out(numbers, labels, 0.1, 0)
    assert abs(int((labels[mask, 0] == 0).sum()) - 10) <= 2
    assert mask.sum() == 20


def test_the_seed_alone_decides() -> None:
    rows = [(number, number % 4, number % 3) for number in range(100)]
    same, again, other = (split(rows, 0.2, seed)[2] for seed in (1, 1, 2))
    assert (same == again).all()
    assert (same != other).any()


def test_nothing_is_held_out_where_every_text_is_needed() -> None:
    assert not split([(0, 0, 0), (1, 1, 1)], 0.5, 0)[2].any()


def test_rows_of_one_text_with_different_labels_conflict() -> None:
    numbers = text_numbers(["a", "b", "a", "c", "b"])
    assert conflicting(numbers, np.array([[0], [1], [1], [0], [1]])).tolist() == [
        True, False, True, False, False,
    ]  # fmt: skip
    assert conflicting(numbers, np.array([[0, 0], [1, 0], [0, 0], [0, 0], [1, 1]])).tolist() == [
        False, True, False, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize("num_rows", [1, 2])
def test_texts_without_repeats_have_no_conflict(num_rows: int) -> None:
    numbers = text_numbers(list(range(num_rows)))
    assert not conflicting(numbers, np.zeros((num_rows, 1), dtype=np.int64)).any()
