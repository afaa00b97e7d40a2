"""What the person at the terminal sees of a training: a bar with the time left and the scores so far."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from loratrack.training.member import Member


class ProgressBar:
    """A bar on a terminal; elsewhere a line once it runs, and one for each epoch."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[scores]}"),
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
        for member in members:
            if member.name not in self._bars and not self.console.is_terminal:
                epochs, steps = member.config.train.epochs, member.total_steps
                self.console.print(f"{member.config.exp_id}: training, {steps:,} steps in {epochs} epochs")
            bar = self._bar(member)
            if member.step % member.config.train.log_steps == 0:
                self._progress.update(bar, completed=member.step)

    def epoch(self, member: Member) -> None:
        if not member.history:
            return
        shown = scores_line(member)
        self._progress.update(self._bar(member), completed=member.step, scores=shown)
        last = member.history[-1]
        self.console.print(
            f"epoch {len(member.history)}/{member.config.train.epochs}  loss {last['train/loss']:.3f}"
            f"  validation {shown}  {last['time/epoch_seconds']:.1f} s"
            f"  {last['time/examples_per_second']:.0f} examples/s",
            highlight=False,
            soft_wrap=True,
        )

    def _bar(self, member: Member) -> TaskID:
        if member.name not in self._bars:
            self._bars[member.name] = self._progress.add_task(
                member.config.exp_id, total=member.total_steps, scores=""
            )
        return self._bars[member.name]


def scores_line(member: Member) -> str:
    """The F1 of each task after the last epoch: `domain_f1 0.976  intent_f1 0.951`."""
    names = [name for name in member.config.metric_names if name.endswith("f1")]
    return "  ".join(f"{name} {member.history[-1][name]:.3f}" for name in names)
