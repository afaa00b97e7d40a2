from __future__ import annotations

import torch

from loratrack.model.heads import Heads

CLASSES = {"risk": 3, "taken": 2}


def test_each_task_gets_its_own_columns() -> None:
    parts = Heads(4, CLASSES, seed=0).split(torch.arange(10.0).view(2, 5))
    assert parts["risk"].tolist() == [[0, 1, 2], [5, 6, 7]]
    assert parts["taken"].tolist() == [[3, 4], [8, 9]]


def test_saved_heads_come_back_task_by_task() -> None:
    first, second = Heads(4, CLASSES, seed=0), Heads(4, CLASSES, seed=1)
    named = first.by_task()
    assert {name: tuple(value.shape) for name, value in named.items()} == {
        "risk.weight": (3, 4),
        "risk.bias": (3,),
        "taken.weight": (2, 4),
        "taken.bias": (2,),
    }
    assert not torch.equal(first.weight, second.weight)
    second.load_by_task(named)
    assert torch.equal(first.weight, second.weight)


def test_heads_are_drawn_from_their_seed_alone() -> None:
    torch.manual_seed(5)
    first = Heads(4, CLASSES, seed=3)
    torch.manual_seed(6)
    assert torch.equal(first.weight, Heads(4, CLASSES, seed=3).weight)
