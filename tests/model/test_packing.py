from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loratrack.model.packing import MAX_WIDTHS, WIDTH, Packing, pack, rounded_up

CPU = torch.device("cpu")
LENGTHS = st.lists(st.integers(1, 150), min_size=1, max_size=40)


def packed(lengths: list[int]) -> Packing:
    counts = np.array(lengths, dtype=np.int64)
    return pack(counts, [len(counts)], CPU)


def own_rows(lengths: list[int]) -> Tensor:
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))


@given(LENGTHS, st.integers(1, 3))
def test_every_token_has_one_slot_and_comes_back_from_it(lengths: list[int], heads: int) -> None:
    packing, total = packed(lengths), sum(lengths)
    tokens = torch.randn(total, heads, 4)
    parts = packing.spread(tokens)
    assert torch.equal(packing.collect(parts, total), tokens)
    shapes = [(group.count, heads, group.width, 4) for group in packing.groups]
    assert [tuple(part.shape) for part in parts] == shapes


@given(LENGTHS)
def test_gradients_come_back_to_the_tokens_they_belong_to(lengths: list[int]) -> None:
    packing, total = packed(lengths), sum(lengths)
    tokens = torch.randn(total, 2, 3, requires_grad=True)
    weights = torch.randn(total, 2, 3)
    (packing.collect(packing.spread(tokens), total) * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert tokens.grad is not None
    assert torch.equal(tokens.grad, weights)


@given(LENGTHS, st.booleans(), st.sampled_from([None, 1, 5, 40]))
def test_a_token_sees_its_own_sequence_and_no_other(
    lengths: list[int], causal: bool, window: int | None
) -> None:
    packing = packed(lengths)
    rows, steps = (
        packing.spread(own_rows(lengths).view(-1, 1, 1)),
        torch.cat([torch.arange(n) for n in lengths]),
    )
    columns = packing.spread(steps.view(-1, 1, 1))
    for number, group in enumerate(packing.groups):
        row, column = rows[number][:, 0, :, 0], columns[number][:, 0, :, 0]
        distance = column[:, :, None] - column[:, None, :]
        expected = row[:, :, None] == row[:, None, :]
        if causal:
            expected &= distance >= 0
        if window is not None:
            expected &= distance.abs() < window
        real = torch.ones_like(row, dtype=torch.bool) if group.sequences is None else group.sequences >= 0
        bias = packing.bias(number, causal, window, torch.float32)
        seen = (torch.zeros(1) if bias is None else bias) == 0
        seen = (seen if seen.ndim < 4 else seen[:, 0]).expand(expected.shape)
        both = real[:, :, None] & real[:, None, :]
        assert torch.equal(seen & both, expected & both)
        assert bool(seen.any(dim=-1).all()), "a slot that sees nothing has no softmax"


def test_long_sequences_by_themselves_need_no_square_mask() -> None:
    packing = packed([90, 80, 75])
    keys = packing.visible(0, causal=False, window=None)
    assert keys is not None
    assert keys.shape == (3, 1, 1, 96)
    assert packing.visible(0, causal=True, window=None) is None


@given(LENGTHS, LENGTHS)
def test_members_share_no_bin(first: list[int], second: list[int]) -> None:
    lengths = [*first, *second]
    packing = pack(np.array(lengths), [len(first), len(second)], CPU)
    owner = (own_rows(lengths) >= len(first)).float().view(-1, 1, 1)
    for part in packing.spread(owner):
        assert torch.equal(part.amin(dim=2), part.amax(dim=2))


@given(LENGTHS)
def test_bins_are_of_few_widths_and_mostly_full(lengths: list[int]) -> None:
    packing = packed(lengths)
    assert len(packing.groups) <= MAX_WIDTHS
    assert all(group.width % WIDTH == 0 for group in packing.groups)
    assert max(group.width for group in packing.groups) < max(lengths) + WIDTH
    slots = sum(group.count * group.width for group in packing.groups)
    padded = rounded_up(len(lengths), 16) * -(-max(lengths) // WIDTH) * WIDTH
    assert slots <= padded


def test_eleven_tokens_on_average_leave_a_tenth_of_the_slots_empty() -> None:
    lengths = np.random.default_rng(0).poisson(8, 256) + 3
    [group] = packed(lengths.tolist()).groups
    assert group.width == WIDTH
    assert lengths.sum() / (group.count * group.width) > 0.9


def test_whole_bins_of_one_length_need_no_moving() -> None:
    packing = packed([64, 64, 64])
    assert packing.slots is None
    tokens = torch.randn(192, 2, 4)
    [part] = packing.spread(tokens)
    assert torch.equal(part, tokens.view(3, 64, 2, 4).transpose(1, 2))
    assert torch.equal(packing.collect([part], 192), tokens)


def test_a_mask_lies_where_the_tokens_do() -> None:
    packing = pack(np.array([64, 64]), [2], torch.device("meta"))
    seen = packing.visible(0, causal=False, window=5)
    assert seen is not None
    assert seen.device.type == "meta"


def test_tokens_of_nobody_see_nothing_and_get_zeros() -> None:
    packing = packed([5, 40])
    tokens = torch.randn(48, 2, 4, requires_grad=True)
    back = packing.collect(packing.spread(tokens), 48)
    assert torch.equal(back[:45], tokens[:45])
    assert not back[45:].any()
    back.sum().backward()  # type: ignore[no-untyped-call]
    assert tokens.grad is not None
    assert tokens.grad.sum(dim=(1, 2)).tolist() == [8.0] * 45 + [0.0] * 3


def test_what_is_seen_looking_back_and_nearby() -> None:
    packing = packed([3, 2])
    causal = packing.visible(0, causal=True, window=None)
    near = packing.visible(0, causal=True, window=2)
    assert causal is not None
    assert near is not None
    assert causal[0, 0, :5, :5].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    assert near[0, 0, 2, :5].tolist() == [False, True, True, False, False]


@pytest.mark.parametrize(("count", "rounded"), [(1, 1), (16, 16), (17, 18), (93, 96), (352, 352), (353, 384)])
def test_few_shapes(count: int, rounded: int) -> None:
    assert rounded_up(count, 16) == rounded
