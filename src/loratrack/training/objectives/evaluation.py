"""What the members say of some rows, all members in one pass over each batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from loratrack.data import Encoded
from loratrack.model.network import Network
from loratrack.model.passes import predict


@dataclass(frozen=True)
class Evaluation:
    """One member's answers to the rows of a split, in the order of the split."""

    truth: dict[str, NDArray[np.int64]]
    predicted: dict[str, NDArray[np.int64]]
    loss: float


def evaluate(
    network: Network, split: Encoded, weights: Mapping[str, Mapping[str, float]]
) -> dict[str, Evaluation]:
    """`weights`: for each member that is asked, the loss weight of each task."""
    members = list(weights)
    logits = predict(network, split, members)
    labels = torch.from_numpy(np.array(split.labels))
    return {member: _judge(network, member, logits[member], labels, weights[member]) for member in members}


def _judge(
    network: Network, member: str, logits: Tensor, labels: Tensor, weights: Mapping[str, float]
) -> Evaluation:
    by_task = network.heads[member].split(logits)
    losses = [
        weights[task] * F.cross_entropy(part, labels[:, column]).item()
        for column, (task, part) in enumerate(by_task.items())
    ]
    return Evaluation(
        truth={task: labels[:, column].numpy() for column, task in enumerate(by_task)},
        predicted={task: part.argmax(dim=-1).numpy() for task, part in by_task.items()},
        loss=float(sum(losses)),
    )
