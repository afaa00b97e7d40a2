"""The engine: a cohort of one or more members, one forward and one backward pass for all.

A plain run is a cohort of one. Each step takes one batch of every member; every member learns from its
own rows, with its own rate, dropout and order, and ends its epochs in its own time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch

from loratrack.errors import StoppedError
from loratrack.model.network import Network
from loratrack.model.out_of_memory import TooLargeError
from loratrack.training.cuda_graphs import GraphCache
from loratrack.training.keeper import Keeper
from loratrack.training.member import Member
from loratrack.training.memory import Memory
from loratrack.training.objectives.objective import Evaluation, Objective
from loratrack.training.step import take_step
from loratrack.training.threads import Pace


class Watcher(Protocol):
    """Sees the training go by: a progress bar, or nobody."""

    def step(self, members: Sequence[Member]) -> None: ...
    def epoch(self, member: Member) -> None: ...


class Stop(Protocol):
    """Whether somebody wants the training to end."""

    def __bool__(self) -> bool: ...

    def at_once(self) -> AbstractContextManager[None]:
        """While this lasts the wish raises StoppedError: what is done there leaves nothing half done."""


@dataclass(frozen=True)
class StopWhen:
    """A wish that is looked at between steps alone."""

    condition: Callable[[], bool]

    def __bool__(self) -> bool:
        return self.condition()

    def at_once(self) -> AbstractContextManager[None]:
        return nullcontext()


NEVER = StopWhen(lambda: False)


class Cohort:
    """Members that share one base and one objective. They join and leave between steps."""

    def __init__(self, network: Network, objective: Objective, notice: Callable[[str], None]) -> None:
        self.network, self.objective = network, objective
        self.members: list[Member] = []
        self.best_evaluations: dict[str, Evaluation] = {}
        """By member, on the validation set; kept so that none is asked the same again at its end."""
        self.graphs = GraphCache(network.device, notice)
        self.memory = Memory(network, self.graphs, notice)
        self.notice = notice
        self.stop: Stop = NEVER
        self.choose_threads: Callable[[], None] | None = None
        """Measures which number is the fastest; None where it is given, or a GPU computes."""
        self.threads_at_start: int | None = None
        """Where the number was changed in the middle: results are then no longer exact to the last bit."""
        self._pace = Pace()
        self._paced: list[Member] = []
        self._told_of_pace = False

    def join(self, member: Member) -> None:
        self.members.append(member)
        self.graphs.clear()

    def leave(self, member: Member) -> None:
        self.members.remove(member)
        self.best_evaluations.pop(member.name, None)

    @property
    def training(self) -> list[Member]:
        return [member for member in self.members if member.is_training]

    @property
    def epoch_over(self) -> list[Member]:
        """Those who have taken all steps of their epoch and are not yet evaluated."""
        return [member for member in self.training if member.is_epoch_over]

    def step(self) -> list[Member]:
        """One batch of every member; returns those whose epoch is over now."""
        members, started = self.training, time.perf_counter()
        rows_before = sum(member.meter.rows for member in members)
        take_step(members, self.network, self.objective, self.graphs, self.memory)
        rows = sum(member.meter.rows for member in members) - rows_before
        if self.network.device.type == "cpu":
            self.watch_pace(members, time.perf_counter() - started, rows)
        return self.epoch_over

    def watch_pace(self, members: list[Member], seconds: float, rows: int) -> None:
        """When steps became several times slower, say so once, and measure the threads again."""
        if members != self._paced:  # other members have steps of another size
            self._pace, self._paced = Pace(), members
        times, before = self._pace.slower(seconds, rows), torch.get_num_threads()
        if times is None:
            return
        if not self._told_of_pace:
            remedy = ""
            if self.choose_threads is None and before > 1:
                remedy = f"; train.threads: null, in place of {before}, lets the threads be measured again"
            self.notice(
                f"steps take {times:.0f} times as long as before: something else keeps this machine busy"
                + remedy
            )
            self._told_of_pace = True
        if self.choose_threads is not None and self.training:
            self.choose_threads()
        self._pace = Pace()  # what is usual begins anew
        if torch.get_num_threads() != before:
            self.threads_at_start = self.threads_at_start or before
            self.notice(
                f"threads: {torch.get_num_threads()} instead of {before} from here on; results are no longer"
                " exact to the last bit"
            )

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
                before = member.best
                member.evaluated({**evaluation.scores(), "validation/loss": evaluation.loss}, seconds)
                if member.best is not before:
                    self.best_evaluations[member.name] = evaluation

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
            before = member.best
            member.end_epoch(values, seconds[member.name])
            if member.best is not before:
                self.best_evaluations[member.name] = evaluation

    def _evaluate(self, members: Sequence[Member]) -> Mapping[str, Evaluation]:
        with self.stop.at_once():
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
    stop: Stop = NEVER,
    keeper: Keeper | None = None,
    after_epoch: Callable[[Member], None] = lambda member: None,
) -> None:
    """Until no member trains any more; StoppedError, with all members saved, when `stop` says so.

    Nothing is half done between two steps: there checkpoints are made, and there a training ends. An
    evaluation is given up for it, and done again by whoever goes on. `after_epoch` may end or add members.
    """
    cohort.stop, keeper = stop, keeper or Keeper(cohort)
    cohort.network.train()
    try:
        while cohort.training:
            if cohort.stop or keeper.has_given_up:
                raise StoppedError
            cohort.evaluate_due()
            ended = cohort.epoch_over
            if ended:
                cohort.end_epochs(ended)
                for member in ended:
                    watcher.epoch(member)
                    after_epoch(member)
            else:
                cohort.step()
                watcher.step(cohort.training)
            keeper.between_steps(ended)
    except StoppedError:
        keeper.save(cohort.training)
        raise
    finally:
        keeper.wait()
