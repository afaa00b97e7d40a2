"""The engine: a cohort of one or more members, one forward and one backward pass for all.

A plain run is a cohort of one. Each step takes one batch of every member; every member learns from its
own rows, with its own rate, dropout and order, and ends its epochs in its own time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from loratrack.data import Dataset
from loratrack.errors import UserError
from loratrack.model.batch import send_together
from loratrack.model.dropout import Dropout
from loratrack.model.network import Network
from loratrack.training.cuda_graphs import GraphCache, is_out_of_memory
from loratrack.training.member import Member
from loratrack.training.objectives.evaluation import Evaluation, evaluate
from loratrack.training.schedule import micro_batches

Rows = NDArray[np.int64]


class Watcher(Protocol):
    """Sees the training go by: a progress bar, or nobody."""

    def step(self, members: Sequence[Member]) -> None: ...
    def epoch(self, member: Member) -> None: ...


class Cohort:
    """Members that share one base. They join and leave between steps."""

    def __init__(self, network: Network, dataset: Dataset, notice: Callable[[str], None]) -> None:
        self.network, self.dataset, self.notice = network, dataset, notice
        self.members: list[Member] = []
        self.passes = 1
        """How many passes the members of a step are spread over; more once memory ran out."""
        self.micro_batch_limits: dict[str, int] = {}
        """Members whose micro-batches are no larger than this, since memory ran out for them."""
        self._graphs = GraphCache(network.device, notice)

    def join(self, member: Member) -> None:
        self.members.append(member)
        self._graphs.clear()

    @property
    def training(self) -> list[Member]:
        return [member for member in self.members if member.is_training]

    def step(self) -> list[Member]:
        """One batch of every member; returns those whose epoch this ended."""
        pairs = [(member, member.next_batch()) for member in self.training]
        batches = [(member, rows) for member, rows in pairs if rows is not None]
        if batches:
            self._learn(batches)
        read_back([m for m, _ in batches if m.step % m.config.train.log_steps == 0])
        return [member for member, rows in pairs if rows is None]

    def end_epochs(self, members: Sequence[Member]) -> None:
        """Evaluate members whose epoch is over, and let each decide how it goes on."""
        read_back(members)
        asked = [member for member in members if member.is_training]
        if not asked:
            return
        seconds = {member.name: member.epoch_seconds() for member in asked}
        answers = self._evaluate({member.name: member.loss_weights for member in asked})
        for member in asked:
            member.end_epoch(answers[member.name], seconds[member.name])
        self.network.train()

    def _evaluate(self, weights: dict[str, dict[str, float]]) -> dict[str, Evaluation]:
        try:
            return evaluate(self.network, self.dataset.validation, weights)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or not self._give_up_graphs_by_shape():
                raise
        return evaluate(self.network, self.dataset.validation, weights)

    def _give_up_graphs_by_shape(self) -> bool:
        """Their memory back; whether there was any."""
        held = self._graphs.disable()
        if held:
            self.notice("out of memory: passes are no longer recorded, which is slower and takes less")
        return held

    def _learn(self, batches: list[tuple[Member, Rows]]) -> None:
        """Gradients of every member's whole batch, then one step of each optimizer.

        When memory runs out the step is begun again: first the members are spread over several passes,
        which changes no result, then the micro-batches of the one that is too large are halved. One that
        is too large even so has failed, unless it is alone.
        """
        while batches:
            losses: list[Tensor] = []
            share: list[tuple[Member, Rows]] = []
            try:
                for share in _spread(batches, self.passes):
                    losses += self._accumulate(share)
                break
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            for member, _ in batches:
                member.flat_parameters.zero_grad()
            if not self._give_up_graphs_by_shape():
                self._use_less_memory(batches, share)
            batches = [(member, rows) for member, rows in batches if member.is_training]
        for (member, rows), task_sums in zip(batches, losses, strict=True):
            member.learn(task_sums, len(rows))

    def _accumulate(self, batches: list[tuple[Member, Rows]]) -> list[Tensor]:
        """Gradients of the batches; returns each member's losses, summed over its rows, by task."""
        pieces = [micro_batches(rows, self._micro_batch_size(member)) for member, rows in batches]
        sums: dict[str, Tensor] = {}
        for number in range(max(map(len, pieces))):
            present = [
                (member, parts[number], len(rows))
                for (member, rows), parts in zip(batches, pieces, strict=True)
                if number < len(parts)
            ]
            for name, loss in self._pass(present, number).items():
                sums[name] = sums[name] + loss if name in sums else loss
        return [sums[member.name] for member, _ in batches]

    def _pass(self, present: list[tuple[Member, Rows, int]], number: int) -> dict[str, Tensor]:
        """Forward and backward of one micro-batch of each member that has one."""
        network, names = self.network, [member.name for member, _, _ in present]
        rows = [part for _, part, _ in present]
        dropout = [Dropout(member.config.train.seed, member.step, number) for member, _, _ in present]
        batch_layout = network.arrange(self.dataset.train, rows, names, dropout)
        batch_layout.arrays["labels"] = np.asarray(
            self.dataset.train.labels[np.concatenate(rows)], dtype=np.int64
        )
        batch_layout.arrays["weights"] = row_weights(present)

        def work(sent: Mapping[str, Tensor]) -> Tensor:
            batch = batch_layout.batch(sent, network.device)
            with network.routed(batch, names, dropout):
                logits = network.heads[names[0]].split(network.logits(batch, names))
                losses = task_losses(logits, batch.more["labels"])
                (losses * batch.more["weights"]).sum().backward()  # type: ignore[no-untyped-call]
            parts = torch.split(losses.detach(), list(batch.rows))
            return torch.stack([part.sum(dim=0) for part in parts])

        if network.can_be_captured:
            sums = self._graphs.run(
                batch_layout, tuple(member.flat_parameters for member, _, _ in present), work
            )
        else:
            sums = work(send_together(batch_layout.arrays, network.device))
        return dict(zip(names, sums, strict=True))

    def _micro_batch_size(self, member: Member) -> int | None:
        sizes = (member.config.train.micro_batch_size, self.micro_batch_limits.get(member.name))
        return min((size for size in sizes if size is not None), default=None)

    def _use_less_memory(self, batches: list[tuple[Member, Rows]], share: list[tuple[Member, Rows]]) -> None:
        """`share` is the pass that was too large; it has one member once each has a pass of its own."""
        member, rows = share[0]
        size = min(len(rows), self._micro_batch_size(member) or len(rows))
        too_much = (
            "out of memory with a micro-batch of 1 example; lower data.max_len, set"
            " train.gradient_checkpointing=true, or take a smaller base"
        )
        if self.passes < len(batches):
            self.passes = min(len(batches), self.passes * 2)
            self.notice(f"out of memory: {len(batches)} members now train in {self.passes} passes a step")
        elif size > 1:
            self.micro_batch_limits[member.name] = size // 2
            self.notice(
                f"out of memory: micro-batch halved from {size} to {size // 2} examples;"
                " the step is repeated and the batch stays; results are no longer exact to the last bit"
            )
        elif len(self.training) > 1:
            member.end("failed", too_much)
        else:
            raise UserError(too_much)
        if self.network.device.type == "cuda":
            torch.cuda.empty_cache()


def train(
    cohort: Cohort,
    watcher: Watcher,
    *,
    stop: Callable[[], bool] = lambda: False,
    after_epoch: Callable[[Member], None] = lambda member: None,
) -> None:
    """Until no member trains any more, or `stop` says so. `after_epoch` may end or add members."""
    cohort.network.train()
    while cohort.training:
        if stop():
            for member in cohort.training:
                member.end("stopped", "interrupted")
            return
        ended = cohort.step()
        watcher.step(cohort.training)
        cohort.end_epochs(ended)
        for member in ended:
            watcher.epoch(member)
            after_epoch(member)


def row_weights(present: Sequence[tuple[Member, Rows, int]]) -> NDArray[np.float32]:
    """[rows, tasks]: a row counts by its task's weight, and the less the larger its batch."""
    parts = [
        np.tile([weight / batch for weight in member.loss_weights.values()], (len(rows), 1))
        for member, rows, batch in present
    ]
    return np.concatenate(parts).astype(np.float32)


def task_losses(logits: dict[str, Tensor], labels: Tensor) -> Tensor:
    """[rows, tasks]: the cross-entropy of each row for each task."""
    columns = [
        F.cross_entropy(part, labels[:, column], reduction="none")
        for column, part in enumerate(logits.values())
    ]
    return torch.stack(columns, dim=1)


def read_back(members: Sequence[Member]) -> None:
    """Look at the losses since the last look; a member whose loss is no number any more has failed."""
    for member in members:
        member.check_losses()


def _spread(batches: list[tuple[Member, Rows]], passes: int) -> list[list[tuple[Member, Rows]]]:
    size = -(-len(batches) // passes)
    return [batches[start : start + size] for start in range(0, len(batches), size)]
