"""The classifiers: one head for each task, all of them one product."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Heads(nn.Module):
    """Logits of every task from one pooled vector; the heads' weights lie one below the other."""

    def __init__(self, hidden_size: int, classes: Mapping[str, int], seed: int) -> None:
        super().__init__()
        self.classes = dict(classes)
        total = sum(self.classes.values())
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(total, hidden_size, generator=generator) * 0.02)
        self.bias = nn.Parameter(torch.zeros(total))

    def split(self, logits: Tensor) -> dict[str, Tensor]:
        """Columns of all tasks as one tensor for each task."""
        parts = torch.split(logits, list(self.classes.values()), dim=-1)
        return dict(zip(self.classes, parts, strict=True))

    def by_task(self) -> dict[str, Tensor]:
        """`<task>.weight` and `<task>.bias`, as they are saved."""
        sizes = list(self.classes.values())
        named: dict[str, Tensor] = {}
        weights = torch.split(self.weight.detach(), sizes)
        biases = torch.split(self.bias.detach(), sizes)
        for task, weight, bias in zip(self.classes, weights, biases, strict=True):
            named[f"{task}.weight"], named[f"{task}.bias"] = weight, bias
        return named

    def load_by_task(self, named: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.weight.copy_(torch.cat([named[f"{task}.weight"] for task in self.classes]))
            self.bias.copy_(torch.cat([named[f"{task}.bias"] for task in self.classes]))
