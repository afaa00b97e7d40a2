"""Generation: a causal LM learns to say the target tokens of each row, given all that comes before them.

    row        <s> Who are you ? </s> I am Ada </s>
    is_target   .   .   .   .  .  .   x  x  x   x
                                   |  |  |  |          each x is predicted at the position before it
                                   +--+--+--+

The loss is the sum over a member's targets divided by their number, over its whole optimizer step: a mean of
the means of rows or micro-batches would give the tokens of short answers more weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loratrack.config import RunConfig
from loratrack.data import Tokens
from loratrack.errors import DataError, counted
from loratrack.model.batch import Arrays, Batch, BatchLayout, Sequences
from loratrack.model.network import Network
from loratrack.model.out_of_memory import TooLargeError
from loratrack.model.packing import rounded_up
from loratrack.model.passes import check_tokens, passes, predict
from loratrack.model.probe import Probe, probe_of
from loratrack.training.member import Member, Rows
from loratrack.training.objectives.objective import Answers, MicroBatch, Split

PROBE_ROWS = 4
"""Each has as many logits as the vocabulary has tokens."""
TOKENS_IN_A_PASS = 8192
"""Without gradients: the widest passes set the peak of memory."""
TARGETS_PER_OCTAVE = 8
"""Targets are rounded up to one of this many counts per power of two: a CUDA graph serves one shape."""


class Prompts(Sequences, Protocol):
    """Tokenised rows, and which of their tokens are learned."""

    @property
    def is_target(self) -> NDArray[np.bool_]: ...


class PromptSplits(Protocol):
    @property
    def train(self) -> Prompts: ...
    @property
    def validation(self) -> Prompts: ...
    @property
    def test(self) -> Prompts | None: ...


@dataclass(frozen=True)
class Likelihood:
    """How probable a member finds the targets of a split."""

    loss: float
    """The mean over all targets, in nats."""
    token_accuracy: float
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def scores(self) -> dict[str, float]:
        return {"perplexity": perplexity(self.loss), "token_accuracy": self.token_accuracy}

    def answers(self) -> dict[str, Answers]:
        return {}


def perplexity(loss: float) -> float:
    """Among how many equally probable tokens the model might as well have chosen."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


class Generation:
    """The members' own matrices are all that they train: the output embedding is the base's."""

    def __init__(self, dataset: PromptSplits) -> None:
        self.dataset = dataset
        self._counts = target_counts(dataset.train)
        parts = {"training": dataset.train, "validation": dataset.validation, "test": dataset.test}
        for name, split in parts.items():
            if split is not None and (without := np.flatnonzero(target_counts(split) == 0)).size:
                raise DataError(
                    f"{counted(len(without), f'{name} row')} without a token to be learned, the first is row"
                    f" {without[0] + 1}; leave them out, or raise data.max_len"
                )

    @property
    def label_map(self) -> Mapping[str, object]:
        return {}

    def add_member(self, network: Network, name: str, config: RunConfig) -> None:
        network.add(name, config.model.lora, {}, config.train.seed)

    def notices(self, config: RunConfig) -> list[str]:
        return []

    def arrays(self, batch_layout: BatchLayout, parts: Sequence[MicroBatch]) -> Arrays:
        """For each target of these rows, member after member, and then fillers that weigh nothing:

        `positions`, the flattened one before it; `targets`, its token; `weights`, one by the targets of its
        member's whole batch; `members`, whose it is.
        """
        arrays = target_arrays(self.dataset.train, batch_layout, [part.rows for part in parts])
        totals = np.array([self.num_targets(part.batch) for part in parts] + [np.inf])
        arrays["weights"] = (1 / totals[arrays["members"]]).astype(np.float32)
        return arrays

    def loss(self, network: Network, batch: Batch, parts: Sequence[MicroBatch]) -> tuple[Tensor, Tensor]:
        """Reported are the sum of each member's losses and how many of its targets were hit, [members, 2]."""
        more = batch.more
        result = network.token_loss(batch, more["positions"], more["targets"], more["weights"])
        return result.total, by_member(result.losses, result.is_hit, more["members"], len(parts))

    def num_targets(self, rows: Rows) -> int:
        return int(self._counts[rows].sum())

    def train_losses(self, member: Member, means: Sequence[float]) -> dict[str, float]:
        """The tokens of an epoch are hit or missed as they are learned, with dropout."""
        loss, accuracy = means
        return {"train/loss": loss, "train/token_accuracy": accuracy}

    def evaluate(self, network: Network, split: Split, members: Sequence[Member]) -> dict[str, Likelihood]:
        """All members in one pass over each batch of the split."""
        rows = self.dataset.test if split == "test" else self.dataset.validation
        assert rows is not None, "a test set is evaluated only where there is one"
        return likelihoods(network, rows, [member.name for member in members])

    def probe(self, network: Network, member: str) -> Probe:
        """The first rows of the validation set up to their last target, and the logits for that."""
        split = self.dataset.validation
        rows = _before_last_targets(split, min(PROBE_ROWS, len(split.offsets) - 1))
        return probe_of(rows, predict(network, rows, [member])[member], network.device)


def target_counts(split: Prompts) -> NDArray[np.int64]:
    """How many tokens of each row are predicted: its first has nothing before it."""
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(split.is_target, dtype=np.int64)])
    starts, ends = split.offsets[:-1], split.offsets[1:]
    counts: NDArray[np.int64] = before[ends] - before[np.minimum(starts + 1, ends)]
    return counts


def target_arrays(
    split: Prompts, batch_layout: BatchLayout, rows_by_member: Sequence[NDArray[np.int64]]
) -> Arrays:
    """`positions`, `targets` and `members`, as `Generation.arrays` has them."""
    rows = np.concatenate(list(rows_by_member))
    starts, lengths = split.offsets[rows], np.diff(split.offsets)[rows]
    row = np.repeat(np.arange(len(rows)), lengths)
    columns = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tokens = starts[row] + columns
    predicted = np.flatnonzero(split.is_target[tokens] & (columns > 0))
    row, columns, tokens = row[predicted], columns[predicted], tokens[predicted]
    member_of_row = np.repeat(np.arange(len(rows_by_member)), [len(each) for each in rows_by_member])
    missing = rounded_up(len(predicted), TARGETS_PER_OCTAVE) - len(predicted)
    return {
        "positions": _filled(batch_layout.arrays["first_tokens"][row] + columns - 1, missing, 0),
        "targets": _filled(split.tokens[tokens], missing, 0),
        "members": _filled(member_of_row[row], missing, len(rows_by_member)),
    }


def _filled(numbers: NDArray[np.integer], missing: int, filler: int) -> NDArray[np.int64]:
    return np.concatenate([numbers, np.full(missing, filler)]).astype(np.int64)


def by_member(losses: Tensor, is_hit: Tensor, members: Tensor, count: int) -> Tensor:
    """[members, 2]: the sum of the losses and the number of hits of each, whatever the others' are."""
    own = members == torch.arange(count, device=members.device)[:, None]
    return torch.stack([torch.where(own, losses, 0).sum(dim=1), (own & is_hit).sum(dim=1).float()], dim=1)


@torch.inference_mode()
def likelihoods(network: Network, rows: Prompts, members: Sequence[str]) -> dict[str, Likelihood]:
    """Of each member: as in `passes.predict`, rows of similar length together, in passes that fit."""
    check_tokens(rows, network)
    network.eval()
    lengths = np.diff(rows.offsets)
    order = np.argsort(-lengths, kind="stable")
    sums, targets = np.zeros((len(members), 2)), int(target_counts(rows).sum())
    try:
        for part in passes(
            network,
            order,
            len(members),
            partial(_pass, network, rows, members),
            lambda row: TOKENS_IN_A_PASS // int(lengths[row]),
        ):
            sums += part.double().cpu().numpy()
    except TooLargeError:
        if len(members) == 1:
            raise
        half = len(members) // 2
        network.rows_in_a_pass = half
        return likelihoods(network, rows, members[:half]) | likelihoods(network, rows, members[half:])
    losses, accuracies = (sums / targets).T.tolist()
    return {
        member: Likelihood(loss, accuracy)
        for member, loss, accuracy in zip(members, losses, accuracies, strict=True)
    }


def _pass(
    network: Network, rows: Prompts, members: Sequence[str], wanted: NDArray[np.int64], count: int
) -> Tensor:
    """Of the first `count` wanted rows, as `by_member`."""
    each = [wanted[:count]] * len(members)
    batch_layout = network.arrange(rows, each, members)
    batch_layout.arrays.update(target_arrays(rows, batch_layout, each))
    batch = batch_layout.on(network.device)
    more = batch.more
    with network.routed(batch, members):
        weights = torch.zeros(len(more["targets"]), device=network.device)
        result = network.token_loss(batch, more["positions"], more["targets"], weights)
    return by_member(result.losses, result.is_hit, more["members"], len(members))


def _before_last_targets(split: Prompts, count: int) -> Tokens:
    """The first `count` rows, each up to the token before its last target."""
    rows = []
    for start, end in zip(split.offsets[:count], split.offsets[1 : count + 1], strict=True):
        last = np.flatnonzero(split.is_target[start:end])[-1]
        rows.append(split.tokens[start : start + last])
    lengths = [len(row) for row in rows]
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    return Tokens(np.concatenate(rows).astype(np.int32), offsets, None)
