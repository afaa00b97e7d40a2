"""A member's parameters as views of one row, and their gradients as views of another."""

from __future__ import annotations

import torch
from torch import nn

from loratrack.model.flat_parameters import FlatParameters


def parameters() -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(*shape, generator=draw)) for shape in ((3, 5), (7,), (2, 9))]


def test_parameters_keep_their_values_and_follow_the_row() -> None:
    mine, before = parameters(), parameters()
    trained = FlatParameters(mine, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(mine, before, strict=True))
    with torch.no_grad():
        trained.matrices.add_(1)
        trained.vectors.add_(2)
    added = [(a - b).mean().item() for a, b in zip(mine, before, strict=True)]
    assert torch.allclose(torch.tensor(added), torch.tensor([1.0, 2.0, 1.0]))


def test_an_optimizer_of_the_row_learns_what_one_of_the_parameters_does() -> None:
    mine, apart = parameters(), parameters()
    trained = FlatParameters(mine, torch.float32)
    decays = ({"weight_decay": 0.1}, {"weight_decay": 0.0})
    groups = (([trained.matrices], [trained.vectors]), ([apart[0], apart[2]], [apart[1]]))
    optimizers = [
        torch.optim.AdamW([{"params": params, **decay} for params, decay in zip(group, decays, strict=True)])
        for group in groups
    ]
    for _ in range(5):
        for those, optimizer in zip((mine, apart), optimizers, strict=True):
            losses = [p.square().sum() * (n + 1) for n, p in enumerate(those)]
            torch.autograd.backward(torch.stack(losses).sum())
            optimizer.step()
        trained.zero_grad()
        optimizers[1].zero_grad()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, apart, strict=True))
    assert not torch.allclose(mine[0], parameters()[0], atol=1e-3)


def test_gradients_of_several_passes_add_up_until_they_are_forgotten() -> None:
    mine = parameters()
    trained = FlatParameters(mine, torch.float32)
    for _ in range(2):
        torch.autograd.backward((mine[1] * 3).sum())
    assert mine[1].grad is not None
    assert trained.vectors.grad is not None
    assert mine[1].grad.tolist() == [6.0] * 7
    assert trained.vectors.grad.sum() == 42
    trained.zero_grad()
    assert mine[1].grad.tolist() == [0.0] * 7


def test_a_cast_shows_the_parameter_as_of_the_last_refresh() -> None:
    mine = parameters()
    trained = FlatParameters(mine, torch.bfloat16)
    trained.refresh()
    assert torch.equal(trained.cast(mine[0]), mine[0].to(torch.bfloat16))
    nn.init.ones_(mine[0])
    assert not torch.equal(trained.cast(mine[0]), torch.ones(3, 5, dtype=torch.bfloat16))
    trained.refresh()
    assert torch.equal(trained.cast(mine[0]), torch.ones(3, 5, dtype=torch.bfloat16))


def test_in_fp32_a_cast_is_the_parameter_itself() -> None:
    mine = parameters()
    trained = FlatParameters(mine, torch.float32)
    nn.init.ones_(mine[0])
    assert torch.equal(trained.cast(mine[0]), torch.ones(3, 5))
