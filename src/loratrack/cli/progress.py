"""What the person at the terminal sees of a training: a bar with the time left and the scores so far."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from loratrack.experiments.watcher import Lines, scores_line

if TYPE_CHECKING:
    from loratrack.training.member import Member


class ProgressBar(Lines):
    """A bar and a line for each epoch on a terminal; elsewhere lines alone."""

    def __init__(self, console: Console) -> None:
        super().__init__(console.print)
        self.console = console
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[scores]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, members: Sequence[Member]) -> None:
        if not self.console.is_terminal:
            super().step(members)
            return
        for member in members:
            bar = self._bar(member)
            if member.step % member.config.train.log_steps == 0:
                self._progress.update(bar, completed=member.step)

    def epoch(self, member: Member) -> None:
        if member.history:
            self._progress.update(self._bar(member), completed=member.step, scores=scores_line(member))
        super().epoch(member)

    def _bar(self, member: Member) -> TaskID:
        if member.name not in self._bars:
            self._bars[member.name] = self._progress.add_task(
                member.config.exp_id, total=member.total_steps, scores=""
            )
        return self._bars[member.name]
