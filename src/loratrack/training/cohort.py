"""The engine: a cohort of one or more members, one forward and one backward pass for all.

A plain run is a cohort of one. Each step takes one batch of every member; every member learns from its
own rows, with its own rate, dropout and order, and ends its epochs in its own time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from loratrack.model.network import Network
from loratrack.model.out_of_memory import TooLargeError
from loratrack.training.cuda_graphs import GraphCache
from loratrack.training.member import Member
from loratrack.training.memory import Memory
from loratrack.training.objectives.objective import Evaluation, Objective
from loratrack.training.step import take_step


class Watcher(Protocol):
    """Sees the training go by: a progress bar, or nobody."""

    def step(self, members: Sequence[Member]) -> None: ...
    def epoch(self, member: Member) -> None: ...


class Cohort:
    """Members that share one base and one objective. They join and leave between steps."""

    def __init__(self, network: Network, objective: Objective, notice: Callable[[str], None]) -> None:
        self.network, self.objective = network, objective
        self.members: list[Member] = []
        self.graphs = GraphCache(network.device, notice)
        self.memory = Memory(network, self.graphs, notice)

    def join(self, member: Member) -> None:
        self.members.append(member)
        self.graphs.clear()

    @property
    def training(self) -> list[Member]:
        return [member for member in self.members if member.is_training]

    def step(self) -> list[Member]:
        """One batch of every member; returns those whose epoch this ended."""
        return take_step(self.training, self.network, self.objective, self.graphs, self.memory)

    def evaluate_due(self) -> None:
        """Evaluate the members that `eval_steps` asks for in the middle of an epoch."""
        for member in self.training:
            if member.is_due:
                member.check_losses()
        members = [member for member in self.training if member.is_due]
        if members:
            started = time.perf_counter()
            evaluations = self._evaluate(members)
            seconds = time.perf_counter() - started
            for member in members:
                evaluation = evaluations[member.name]
                member.evaluated({**evaluation.scores(), "validation/loss": evaluation.loss}, seconds)

    def end_epochs(self, ended: Sequence[Member]) -> None:
        """Evaluate the members whose epoch is over, in shared passes; each decides how it goes on."""
        for member in ended:
            member.check_losses()
        members = [member for member in ended if member.is_training]
        if not members:
            return
        seconds = {member.name: member.epoch_seconds() for member in members}
        evaluations = self._evaluate(members)
        for member in members:
            evaluation = evaluations[member.name]
            values = evaluation.scores()
            values |= self.objective.train_losses(member, member.meter.means())
            values["validation/loss"] = evaluation.loss
            member.end_epoch(values, seconds[member.name])

    def _evaluate(self, members: Sequence[Member]) -> Mapping[str, Evaluation]:
        try:
            evaluations = self.objective.evaluate(self.network, "validation", members)
        except TooLargeError:  # CUDA graphs hold memory that nothing else can use
            if not self.memory.free_graphs():
                raise
            evaluations = self.objective.evaluate(self.network, "validation", members)
        self.network.train()
        return evaluations


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
        cohort.evaluate_due()
        cohort.end_epochs(ended)
        for member in ended:
            watcher.epoch(member)
            after_epoch(member)
