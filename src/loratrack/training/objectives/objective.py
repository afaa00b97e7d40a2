"""What an objective is: all that the engine has to know of what is learned.

The engine moves tokens, gradients and memory. The objective says what goes to the device beside the tokens,
what the loss is, how a member is scored, and which numbers must come out again when its model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from numpy.typing import NDArray
from torch import Tensor

from loratrack.config import RunConfig
from loratrack.model.batch import Arrays, Batch, BatchLayout, Sequences
from loratrack.model.network import Network
from loratrack.model.probe import Probe
from loratrack.training.member import Member, Rows

Split = Literal["validation", "test"]
Answers = tuple[NDArray[Any], NDArray[Any]]
"""The local id of the true and of the predicted label of each row; of a multi-label task a row of 0 and 1.

A confusion matrix would take the square of the labels: 800 MB for 10,000."""


class Splits(Protocol):
    """The data of an objective as tokens."""

    @property
    def train(self) -> Sequences: ...
    @property
    def validation(self) -> Sequences: ...
    @property
    def test(self) -> Sequences | None: ...


@dataclass(frozen=True)
class MicroBatch:
    """What one member brings to one pass: all rows of its batch, or some of them when memory is short."""

    member: Member
    rows: Rows
    batch: Rows
    """All rows of the member's optimizer step; a loss is averaged over these."""
    number: int
    """From 0, counted within the batch."""


class Evaluation(Protocol):
    """One member's answers to a split."""

    @property
    def loss(self) -> float: ...

    @property
    def thresholds(self) -> Mapping[str, float]:
        """By task, where answers are decided by thresholds; they belong to the model."""

    def scores(self) -> dict[str, float]:
        """By their names in MLflow; which way each is better stands in `loratrack.metrics`."""

    def answers(self) -> dict[str, Answers]:
        """For each task what is compared in a confusion matrix. May be empty."""


class Objective(Protocol):
    """One for all members of a cohort. It keeps nothing of a member: what is asked comes with each call."""

    @property
    def dataset(self) -> Splits: ...

    @property
    def label_map(self) -> Mapping[str, object]:
        """What `label_map.json` holds; empty where there are no labels."""

    def add_member(self, network: Network, name: str, config: RunConfig) -> None:
        """Give the network an adapter for this member, and the heads that this objective needs, if any."""

    def notices(self, config: RunConfig) -> Sequence[str]:
        """What a member's log says of its loss."""

    def arrays(self, batch_layout: BatchLayout, parts: Sequence[MicroBatch]) -> Arrays:
        """What is sent along with the tokens of these parts: labels by row or by token, and their weights.

        The weights carry the average over each member's whole batch, so that micro-batches add up to it.
        """

    def loss(self, network: Network, batch: Batch, parts: Sequence[MicroBatch]) -> tuple[Tensor, Tensor]:
        """The sum over all members, to be differentiated; and [members, parts of the loss], to be reported.

        What is reported is summed over targets and detached. It must wait for nothing: this part of a step
        may be captured in a CUDA graph, so of the parts it reads nothing but what never changes of a member:
        its name and its config.
        """

    def num_targets(self, rows: Rows) -> int:
        """What the loss of these training rows is averaged over: rows, or the tokens to be predicted."""

    def train_losses(self, member: Member, means: Sequence[float]) -> dict[str, float]:
        """`train/loss` and its parts, from the mean of each part over an epoch."""

    def evaluate(self, network: Network, split: Split, members: Sequence[Member]) -> Mapping[str, Evaluation]:
        """By the members' names; each loss is weighed as the member's config says."""

    def probe(self, network: Network, member: str) -> Probe:
        """A few rows and the member's logits on them: what its saved model must give when it is loaded."""
