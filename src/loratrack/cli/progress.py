"""What the person at the terminal sees of a training: a bar with the time left, and each epoch's scores."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn

from loratrack.cli.screen import BAR_OF_MLFLOW
from loratrack.experiments.watcher import (
    Lines,
    TrialEnd,
    UnderWay,
    epoch_line,
    metrics_line,
    settings_line,
    trial_line,
)
from loratrack.views.columns import shortened

if TYPE_CHECKING:
    from loratrack.training.member import Member

WIDE = 100
"""From this many columns on, a bar also says how many steps are done."""
MAX_NAME_WIDTH = 24


class LiveLines(Lines):
    """Lines above bars that move as long as the block takes; MLflow's own bar would run through them."""

    def __init__(self, console: Console, *, is_in_steps: bool = False) -> None:
        super().__init__(console.print)
        self.console = console
        self._progress = progress(console, is_in_steps=is_in_steps)
        self._bar_of_mlflow = os.environ.get(BAR_OF_MLFLOW)

    def __enter__(self) -> Self:
        os.environ[BAR_OF_MLFLOW] = "false"
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._bar_of_mlflow is None:
            del os.environ[BAR_OF_MLFLOW]
        else:
            os.environ[BAR_OF_MLFLOW] = self._bar_of_mlflow


class ProgressBar(LiveLines):
    """A bar and a line for each epoch on a terminal; elsewhere lines alone."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, is_in_steps=True)
        self._bars: dict[str, TaskID] = {}

    def step(self, members: Sequence[Member]) -> None:
        if not self.console.is_terminal:
            super().step(members)
            return
        for member in members:
            bar = self._bar(member)
            if member.step % member.config.train.log_steps == 0:
                self._progress.update(bar, completed=member.step)

    def epoch(self, member: Member) -> None:
        if not self.console.is_terminal:
            super().epoch(member)
        elif member.history:
            self._progress.update(self._bar(member), completed=member.step)
            self.notice(epoch_line(member, self.console.width))

    def _bar(self, member: Member) -> TaskID:
        if member.name not in self._bars:
            self._bars[member.name] = self._progress.add_task(
                shortened(member.config.exp_id, MAX_NAME_WIDTH),
                total=member.total_steps,
                completed=member.step,
            )
        return self._bars[member.name]


class SweepBar(LiveLines):
    """One bar for all trials on a terminal; elsewhere lines alone."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._best = ""
        self._in_training: Mapping[int, Member] = {}
        self._bar = self._progress.add_task("loading", total=None)

    def under_way(self, sweep: UnderWay) -> None:
        self._in_training = sweep.members
        done, wanted, members = sweep.num_done, sweep.num_wanted, sweep.members.values()
        name = f"{done}/{wanted} trials" if wanted else f"{done} trials"
        begun = sum(member.step / member.total_steps for member in members)
        self._progress.update(
            self._bar,
            description=f"{name}, {self._best or f'{len(members)} in training'}",
            total=wanted,
            completed=done + begun,
        )

    def trial(self, end: TrialEnd) -> None:
        if not self.console.is_terminal:
            super().trial(end)
            return
        if end.best_number is not None:
            self._best = f"best {metrics_line(dict([next(iter(end.best_metrics.items()))]))}"
        self.notice(f"{trial_line(end)}\n  {settings_line(end.settings)}")
        others = {number: member for number, member in self._in_training.items() if number != end.number}
        self.under_way(UnderWay(others, end.num_done, end.num_wanted))


Row = TypeVar("Row")


def counting(rows: Iterable[Row], total: int, name: str, console: Console) -> Iterator[Row]:
    """The same rows; at a terminal a bar counts them."""
    with progress(console) as bar:
        task = bar.add_task(shortened(name, MAX_NAME_WIDTH), total=total)
        for row in rows:
            yield row
            bar.advance(task)


def progress(console: Console, *, is_in_steps: bool = False) -> Progress:
    """Name, bar, share and time left; for a file or a pipe nothing."""
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False),
        # rich's own colours are two greys on a terminal with sixteen
        BarColumn(40 if console.width >= WIDE else 20, complete_style="cyan", finished_style="green"),
        TextColumn("{task.percentage:>3.0f} %", markup=False),
        TimeRemainingColumn(),
        TextColumn("left", markup=False),
    ]
    if console.width >= WIDE and is_in_steps:
        columns.append(TextColumn("{task.completed}/{task.total} steps", markup=False))
    return Progress(*columns, console=console, disable=not console.is_terminal)
