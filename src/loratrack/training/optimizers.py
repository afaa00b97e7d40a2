"""The optimizers of `train.optimizer`, each as torch, transformers or its paper has it.

Most treat every number by itself. They are given two flat tensors, the matrices and the vectors of a member,
so that a step is a few operations whatever the number of layers. Adafactor keeps a mean for each row and
column, so it is given the matrices one by one, which are views of the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from transformers.optimization import Adafactor

from loratrack.config.train import Train
from loratrack.model.flat_parameters import FlatParameters

SGD_MOMENTUM = 0.9
LION_BETAS = (0.9, 0.99)


def new_optimizer(train: Train, flat: FlatParameters, parameters: Sequence[nn.Parameter]) -> Optimizer:
    """The optimizer of one member, whose `parameters` are views of `flat`; weight decay for matrices only."""
    matrices, vectors = [flat.matrices], [flat.vectors]
    if train.optimizer == "adafactor":
        matrices = [parameter for parameter in parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": train.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    rate = train.peak_rate  # the schedule sets it before each step
    match train.optimizer:
        case "adamw":
            return AdamW(groups, lr=rate, fused=True)
        case "adam":
            return Adam(groups, lr=rate, fused=True)
        case "sgd":
            return SGD(groups, lr=rate, momentum=SGD_MOMENTUM, fused=True)
        case "lion":
            return Lion(groups, rate)
        case "adafactor":  # with the rate of our schedule instead of its own
            adafactor: Optimizer = Adafactor(groups, lr=rate, scale_parameter=False, relative_step=False)
            return adafactor


class Lion(Optimizer):
    """Lion (Chen et al. 2023): a step of the same size for every number, along the sign of a momentum."""

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        first, second = LION_BETAS
        for group in self.param_groups:
            for parameter in group["params"]:
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                direction = momentum.lerp(parameter.grad, 1 - first).sign_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction, alpha=-group["lr"])
                momentum.lerp_(parameter.grad, 1 - second)
