"""Members' products side by side, alike in both ways of doing them; what dropout drops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from loratrack.model.routing import Adapter, Draws, Dropout, _drop, _factors, _Grouped, _mixed, _OneByOne

SLOTS = (9, 17, 4, 10)
IN, OUT = 24, 16


def adapter(rank: int, seed: int) -> Adapter:
    draw = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, IN, generator=draw).to(torch.bfloat16)
    up = torch.randn(OUT, rank, generator=draw).to(torch.bfloat16)
    return Adapter(down, up, torch.zeros(rank, IN), torch.zeros(OUT, rank), scaling=0.5 + seed)


def learned(way: _OneByOne | _Grouped, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """What was added, the gradient of `x`, and those of the matrices."""
    out, back = torch.zeros(len(x), OUT, dtype=x.dtype), torch.empty_like(x)
    way.learn(grad, x, way.add(out, x), back)
    adapters = [part[0] for part in way.parts] if isinstance(way, _OneByOne) else way.adapters
    grads = [g for a in adapters if a is not None for g in (a.down_gradient, a.up_gradient)]
    return out, back, grads


def test_one_product_for_all_members_gives_what_each_gives_by_itself() -> None:
    x, grad = (torch.randn(sum(SLOTS), width).to(torch.bfloat16) for width in (IN, OUT))
    scales = [2.0, 0.5, 0.0, 1.5]

    def adapters() -> list[Adapter | None]:
        return [adapter(4, 0), adapter(8, 1), None, adapter(11, 2)]

    ends = torch.tensor(np.cumsum(SLOTS), dtype=torch.int32)
    single = learned(_OneByOne(adapters(), scales, SLOTS), x, grad)
    grouped = learned(_Grouped(adapters(), scales, ends, x, OUT), x, grad)
    assert torch.allclose(single[0], grouped[0], rtol=0.02, atol=0.1)
    assert torch.allclose(single[1], grouped[1], rtol=0.02, atol=0.2)
    assert len(single[2]) == len(grouped[2]) == 6
    for mine, other in zip(single[2], grouped[2], strict=True):
        assert mine.abs().max() > 1
        assert torch.allclose(mine, other, rtol=0.02, atol=0.02 * float(mine.abs().max()))


def test_a_member_that_does_not_train_a_layer_changes_nothing_there() -> None:
    x, grad = torch.randn(sum(SLOTS), IN), torch.randn(sum(SLOTS), OUT)
    one = adapter(4, 0)
    fp32 = Adapter(one.down.float(), one.up.float(), one.down_gradient, one.up_gradient, 1.0)
    out, back, _ = learned(_OneByOne([None, fp32, None, None], [0, 1.0, 0, 0], SLOTS), x, grad)
    assert out[:9].abs().max() == out[26:].abs().max() == 0
    assert back[:9].abs().max() == back[26:].abs().max() == 0
    assert torch.allclose(out[9:26], x[9:26] @ fp32.down.T @ fp32.up.T, atol=1e-5)
    assert torch.allclose(back[9:26], grad[9:26] @ fp32.up @ fp32.down, atol=1e-5)


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5])
def test_places_are_dropped_each_with_the_same_probability(share: float) -> None:
    rows, columns = 4_000, 64
    dropped = [Dropout(seed, 1, 0).places(5, rows * columns, share) for seed in range(10)]
    kept = [_drop(torch.ones(rows, columns), torch.from_numpy(places)) for places in dropped]
    counts = rows * columns - torch.stack(kept).sum(dim=(1, 2))
    deviation = (rows * columns * share * (1 - share)) ** 0.5
    assert (counts - rows * columns * share).abs().max() < 4.5 * deviation
    assert (counts - counts.mean()).square().mean().sqrt() > 0.4 * deviation
    by_column = 1 - torch.stack(kept).mean(dim=(0, 1))
    assert (by_column - share).abs().max() < 4.5 * (share / (10 * rows)) ** 0.5
    assert set(torch.stack(kept).unique().tolist()) == {0, 1}


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_gpu_draws_its_share_from_token_layer_and_feature(share: float) -> None:
    tokens, features = 3_000, 96

    def drawn(seed: int, layer: int) -> Tensor:
        numbers = np.arange(tokens, dtype=np.uint64) + np.uint64(Dropout(seed, 1, 0).key(0))
        keys = torch.from_numpy(_mixed(numbers).astype(np.uint32).view(np.int32))
        bounds = torch.full((tokens, 1), round(share * 2**31), dtype=torch.int32)
        return _factors(Draws(keys[:, None], bounds), layer, features).float()

    first = drawn(seed=7, layer=1)
    assert sorted(first.unique().tolist()) == [0, 1]
    assert abs(1 - first.mean() - share) < 4.5 * (share / first.numel()) ** 0.5
    assert (1 - first.mean(dim=0) - share).abs().max() < 4.5 * (share / tokens) ** 0.5
    assert (1 - first.mean(dim=1) - share).abs().max() < 5.5 * (share / features) ** 0.5
    assert torch.equal(first, drawn(seed=7, layer=1))
    for other in (drawn(seed=8, layer=1), drawn(seed=7, layer=2)):
        both = ((1 - first) * (1 - other)).mean()
        assert abs(both - share**2) < 4.5 * share / first.numel() ** 0.5


def test_dropout_keys_differ_by_seed_step_micro_batch_and_layer() -> None:
    keys = {
        Dropout(seed, step, micro).key(layer)
        for seed in range(8)
        for step in range(8)
        for micro in range(4)
        for layer in range(8)
    }
    assert len(keys) == 8 * 8 * 4 * 8
