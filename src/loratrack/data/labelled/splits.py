"""Which rows are held out for validation: stratified, seeded, and no text on both sides."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


def text_numbers(texts: Sequence[Hashable]) -> Ints:
    """For each row the number of its text, counted in the order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.int64)


def held_out(numbers: Ints, labels: Ints, share: float, seed: int) -> Mask:
    """True for the rows that go to validation; about `share` of the different texts do.

    Each joint label gives its share to within one text or so. Joint labels too rare for that are
    dealt out together with their neighbours under the same first label. One text of every label of
    every task stays in training, so none is held out (all False) when there are no more than those.
    """
    different, first_rows = np.unique(numbers, return_index=True)
    order = np.random.default_rng(seed).permutation(len(different))
    shuffled = labels[first_rows[order]]
    stays = np.zeros(len(order), dtype=bool)
    for task in range(shuffled.shape[1]):
        stays[np.unique(shuffled[:, task], return_index=True)[1]] = True
    free, free_labels = order[~stays], shuffled[~stays]
    by_joint_label = free[np.lexsort(free_labels.T[::-1])]
    chosen = np.zeros(len(different), dtype=bool)
    chosen[by_joint_label[_evenly_spaced(len(free), max(1, round(share * len(different))), seed)]] = True
    return chosen[numbers]


def _evenly_spaced(num_places: int, num_wanted: int, seed: int) -> Ints:
    """Places at equal distances from a random start: every stretch gets its share, the total is exact."""
    num_wanted = min(num_wanted, num_places)
    start = np.random.default_rng([seed, 1]).random()
    return np.floor((np.arange(num_wanted) + start) * num_places / max(1, num_wanted)).astype(np.int64)


def conflicting(numbers: Ints, labels: Ints) -> Mask:
    """True for the rows whose text stands with different labels somewhere."""
    repeated = np.bincount(numbers)[numbers] > 1
    pairs = np.unique(np.column_stack([numbers[repeated], labels[repeated]]), axis=0)
    texts, num_labels = np.unique(pairs[:, 0], return_counts=True)
    return np.isin(numbers, texts[num_labels > 1])
