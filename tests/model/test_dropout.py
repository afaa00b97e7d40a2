"""What dropout drops, on a CPU by places and on a GPU by draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from loratrack.model.dropout import Draws, Dropout, draw_arrays, drop, factors


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5])
def test_places_are_dropped_each_with_the_same_probability(share: float) -> None:
    rows, columns = 4_000, 64
    dropped = [Dropout(seed, 1, 0).indices(5, rows * columns, share) for seed in range(10)]
    kept = [drop(torch.ones(rows, columns), torch.from_numpy(places)) for places in dropped]
    counts = rows * columns - torch.stack(kept).sum(dim=(1, 2))
    deviation = (rows * columns * share * (1 - share)) ** 0.5
    assert (counts - rows * columns * share).abs().max() < 4.5 * deviation
    assert (counts - counts.mean()).square().mean().sqrt() > 0.4 * deviation
    by_column = 1 - torch.stack(kept).mean(dim=(0, 1))
    assert (by_column - share).abs().max() < 4.5 * (share / (10 * rows)) ** 0.5
    assert set(torch.stack(kept).flatten().tolist()) == {0, 1}


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_gpu_draws_its_share_from_token_layer_and_feature(share: float) -> None:
    tokens, features = 3_000, 96

    def drawn(seed: int, layer: int) -> Tensor:
        arrays = draw_arrays([Dropout(seed, 1, 0)], [share], [tokens], [tokens], None)
        keys, bounds = (torch.from_numpy(arrays[name]) for name in ("drop_keys", "drop_bounds"))
        return factors(Draws(keys, bounds), layer, features).float()

    first = drawn(seed=7, layer=1)
    assert sorted(set(first.flatten().tolist())) == [0, 1]
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
