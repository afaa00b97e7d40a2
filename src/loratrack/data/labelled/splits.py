"""Which rows are held out for validation: stratified, seeded, and no text on both sides."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

Ints = np.ndarray[tuple[int, ...], np.dtype[np.integer[Any]]]
Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


def text_numbers(texts: Sequence[Hashable]) -> Ints:
    """For each row the number of its text, counted in the order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.int64)


def strata(labels: Ints, columns: Sequence[slice]) -> Ints:
    """One number for each row and task, whose shares the held-out rows keep: the label's.

    Of several labels it is the rarest one's, as in iterative stratification: the frequent ones have enough
    rows on both sides anyway. `columns`: those of each task, as LabelMap has them.
    """
    numbers = []
    for task in columns:
        own = labels[:, task]
        if own.shape[1] > 1:
            by_count = np.argsort(own.sum(axis=0), kind="stable")
            own = np.where(own.any(axis=1), by_count[own[:, by_count].argmax(axis=1)], -1)[:, None]
        numbers.append(own)
    return np.hstack(numbers)


def held_out(numbers: Ints, labels: Ints, share: float, seed: int, *, strata: Ints | None = None) -> Mask:
    """True for the rows that go to validation; about `share` of the different texts do.

    Each joint label gives its share to within one text or so. Joint labels too rare for that are
    dealt out together with their neighbours under the same first label. One text of every label of
    every task stays in training, so none is held out (all False) when there are no more than those.
    `strata`: what stands for the joint label, where it is not `labels`.
    """
    different, first_rows = np.unique(numbers, return_index=True)
    order = np.random.default_rng(seed).permutation(len(different))
    shuffled = labels[first_rows[order]]
    # The first text of each label in the shuffled order stays: a label never trained is never learned.
    stays = np.zeros(len(order), dtype=bool)
    for task in range(shuffled.shape[1]):
        stays[np.unique(shuffled[:, task], return_index=True)[1]] = True
    free = order[~stays]
    free_labels = (labels if strata is None else strata)[first_rows[free]]
    # Sorted by joint label, so that picking at equal distances takes the same share of each.
    by_joint_label = free[np.lexsort(free_labels.T[::-1])]
    chosen = np.zeros(len(different), dtype=bool)
    # Equal distances from a random start: each stretch gives its share, and the total is exact.
    count = min(max(1, round(share * len(different))), len(free))
    start = np.random.default_rng([seed, 1]).random()
    positions = np.floor((np.arange(count) + start) * len(free) / max(1, count)).astype(np.int64)
    chosen[by_joint_label[positions]] = True
    return chosen[numbers]


def conflicting(numbers: Ints, labels: Ints) -> Mask:
    """True for the rows whose text stands with different labels somewhere."""
    repeated = np.bincount(numbers)[numbers] > 1
    pairs = np.unique(np.column_stack([numbers[repeated], labels[repeated]]), axis=0)
    texts, num_labels = np.unique(pairs[:, 0], return_counts=True)
    return np.isin(numbers, texts[num_labels > 1])
