from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from loratrack.model.batch import Batch, arrange, sent_bytes
from loratrack.model.packing import Ragged, ragged_bounds

CPU = torch.device("cpu")


def assemble(*batch_layout: Any, **settings: Any) -> Batch:
    return arrange(*batch_layout, **settings).on(CPU)


@dataclass(frozen=True)
class Rows:
    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    token_types: NDArray[np.uint8] | None = None


def rows_of(lengths: list[int]) -> Rows:
    """Row i holds the numbers 100·i, 100·i + 1, …"""
    parts = [np.arange(length, dtype=np.int32) + 100 * row for row, length in enumerate(lengths)]
    return Rows(np.concatenate(parts), np.cumsum([0, *lengths]).astype(np.int64))


def test_packed_rows_stand_one_after_another_and_count_positions_anew() -> None:
    batch = assemble(rows_of([3, 1, 2]), [np.array([2, 0])], "packed")
    assert batch.input_ids.tolist() == [[200, 201, 0, 1, 2]]
    assert batch.position_ids.tolist() == [[0, 1, 0, 1, 2]]
    assert batch.first_tokens.tolist() == [0, 2]
    assert batch.row_of_token.tolist() == [0, 0, 1, 1, 1]
    assert batch.tokens == (5,)


def test_padded_rows_are_filled_up_and_masked() -> None:
    batch = assemble(rows_of([3, 1]), [np.array([0]), np.array([1])], "padded")
    assert batch.input_ids.tolist() == [[0, 1, 2], [100, 0, 0]]
    assert batch.attention_mask is not None
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.real_tokens is not None
    assert batch.real_tokens.tolist() == [0, 1, 2, 3]
    assert batch.slots_each == (3, 3)
    assert batch.rows == (1, 1)


def test_roberta_counts_its_positions_from_behind_the_padding() -> None:
    batch = assemble(rows_of([2]), [np.array([0])], "packed", first_position=2)
    assert batch.position_ids.tolist() == [[2, 3]]


def test_token_counts_are_rounded_up_with_tokens_of_nobody() -> None:
    lengths = [17] * 5 + [9]
    batch = assemble(rows_of(lengths), [np.array([5, 0]), np.array([1, 2, 3, 4])], "packed")
    assert batch.input_ids.shape == (1, 96)
    assert (batch.tokens, batch.slots_each) == ((26, 68), (26, 70))
    assert batch.input_ids[0, -2:].tolist() == [0, 0]
    assert len(batch.row_of_token) == 94


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_token_types_travel_with_their_tokens(layout: str) -> None:
    rows = rows_of([2, 3])
    typed = Rows(rows.tokens, rows.offsets, np.array([0, 1, 0, 1, 1], dtype=np.uint8))
    batch = assemble(typed, [np.array([1, 0])], layout)
    assert batch.token_types is not None
    kept = batch.token_types.flatten()
    real = kept[: len(batch.row_of_token)] if batch.real_tokens is None else kept[batch.real_tokens]
    assert real.tolist() == [0, 1, 1, 0, 1]


def test_ragged_rows_of_like_number_and_length_have_one_shape() -> None:
    first = arrange(rows_of([9, 7, 11]), [np.array([0]), np.array([1, 2])], "packed", is_ragged=True)
    second = arrange(rows_of([11, 11, 6]), [np.array([2]), np.array([0, 1])], "packed", is_ragged=True)
    third = arrange(rows_of([12, 11, 12]), [np.array([2]), np.array([0, 1])], "packed", is_ragged=True)
    assert first.shape == second.shape != third.shape
    assert first.arrays["input_ids"].shape == (1, 28)
    assert third.arrays["input_ids"].shape == (1, 40)


def test_ragged_rows_are_followed_by_tokens_of_nobody() -> None:
    batch_layout = arrange(rows_of([9, 8]), [np.array([0, 1])], "packed", is_ragged=True)
    assert batch_layout.arrays["input_ids"].shape == (1, 20)
    assert batch_layout.arrays["row_of_token"].tolist() == [0] * 9 + [1] * 8 + [2] * 3
    batch = batch_layout.on(CPU)
    assert isinstance(batch.packing, Ragged)
    assert batch.packing.longest == 12
    assert batch.packing.bounds.tolist() == [0, 9, 17, 20, 20]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 70))
def test_bounds_of_ragged_rows_reach_the_end_in_steps_that_are_not_too_long(
    lengths: list[int], filler: int
) -> None:
    total, longest = sum(lengths) + filler, max(lengths)
    bounds = ragged_bounds(np.array(lengths), total, longest)
    steps = np.diff(bounds)
    assert steps[: len(lengths)].tolist() == lengths
    assert bounds[-1] == total
    assert steps.min() >= 0
    assert steps.max() <= longest
    assert len(bounds) == 1 + len(lengths) + -(-total // longest)


def test_what_is_sent_to_a_gpu_lies_side_by_side() -> None:
    arrays: dict[str, np.ndarray] = {
        "a": np.zeros(3, np.int64),
        "b": np.zeros((2, 2), np.int32),
        "c": np.zeros(1, np.float32),
    }
    assert sent_bytes(arrays) == 32 + 16 + 16
