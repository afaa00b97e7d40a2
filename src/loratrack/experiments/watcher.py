"""What is shown on the way: a terminal, a web page or nobody sees a piece of work go by."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rich.cells import cell_len

from loratrack.errors import counted
from loratrack.views.columns import heading_of, setting_text

if TYPE_CHECKING:
    from loratrack.training.member import Member

TrialState = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True)
class TrialEnd:
    """A trial that has ended, and how its sweep stands now."""

    number: int
    state: TrialState
    settings: Mapping[str, Any]
    """What was varied."""
    metrics: Mapping[str, float]
    """The metrics of the sweep; empty unless the trial is complete."""
    reason: str
    """Why it failed."""
    seconds: float
    epochs: int
    max_epochs: int
    best_number: int | None
    best_metrics: Mapping[str, float]
    num_done: int
    num_wanted: int | None
    """How many trials the sweep is to have; None where only time ends it."""


@dataclass(frozen=True)
class UnderWay:
    """How a sweep stands between two ends of trials."""

    members: Mapping[int, Member]
    """What this process trains, by the number of the trial."""
    num_done: int
    num_wanted: int | None


class Watcher(Protocol):
    """Everything that `experiments` has to say on the way. It decides nothing."""

    def notice(self, text: str) -> None:
        """One line for a person."""

    def step(self, members: Sequence[Member]) -> None:
        """All members have trained on one more batch."""

    def epoch(self, member: Member) -> None:
        """A member has ended an epoch."""

    def under_way(self, sweep: UnderWay) -> None:
        """All trials in training have taken a step, or there is none in training yet."""

    def trial_epoch(self, number: int, member: Member) -> None:
        """A trial of a sweep has ended an epoch."""

    def trial(self, end: TrialEnd) -> None:
        """A trial of a sweep has ended."""


class Nobody:
    """Watches nothing."""

    def notice(self, text: str) -> None: ...

    def step(self, members: Sequence[Member]) -> None: ...

    def epoch(self, member: Member) -> None: ...

    def under_way(self, sweep: UnderWay) -> None: ...

    def trial_epoch(self, number: int, member: Member) -> None: ...

    def trial(self, end: TrialEnd) -> None: ...


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Lines:
    """Plain lines, in a notebook, a file or a pipe as well as on a terminal."""

    def __init__(self, write: Callable[[str], object] = _print) -> None:
        self._write = write
        self._began = time.monotonic()
        self._members: set[str] = set()
        self._trials_ended = 0

    def notice(self, text: str) -> None:
        self._write(text)

    def step(self, members: Sequence[Member]) -> None:
        for member in members:
            if member.name not in self._members:
                epochs, steps = member.epochs, member.total_steps
                length = f"{counted(steps, 'step')} in {counted(epochs, 'epoch')}"
                self.notice(f"{member.config.exp_id}: training, {length}")
                self._members.add(member.name)

    def epoch(self, member: Member) -> None:
        if not member.history:
            return
        self.notice(epoch_line(member))

    def under_way(self, sweep: UnderWay) -> None: ...

    def trial_epoch(self, number: int, member: Member) -> None:
        """The first epoch alone: it says that the trial is well, and its end says the rest."""
        if len(member.history) == 1:
            self.notice(f"trial {number}  {epoch_line(member)}")

    def trial(self, end: TrialEnd) -> None:
        self._trials_ended += 1
        standing = f"{end.num_done} of {end.num_wanted} done" if end.num_wanted else f"{end.num_done} done"
        if end.best_number is not None:
            standing = f"best so far {metrics_line(end.best_metrics)} (trial {end.best_number}), {standing}"
        if end.num_wanted and end.num_done < end.num_wanted:
            seconds = (time.monotonic() - self._began) / self._trials_ended * (end.num_wanted - end.num_done)
            standing += f", about {duration(seconds)} left"
        self.notice(f"{trial_line(end)}  ({settings_line(end.settings)})\n  {standing}")


def trial_line(end: TrialEnd) -> str:
    """`trial 7  avg_f1 0.9312  103 s`"""
    if end.state == "failed":
        return f"trial {end.number}  failed: {end.reason}"
    if end.state == "pruned":
        return f"trial {end.number}  pruned after epoch {end.epochs} of {end.max_epochs}  {end.seconds:.0f} s"
    return f"trial {end.number}  {metrics_line(end.metrics)}  {end.seconds:.0f} s"


def epoch_line(member: Member, width: int | None = None) -> str:
    """`epoch 2/3  loss 0.314  avg_f1 0.963  domain_f1 0.976  intent_f1 0.951  9.1 s  480 examples/s`

    Where there is a width, what comes last is left out first.
    """
    last = member.history[-1]
    scores = [name for name in member.config.metric_names if name.endswith("f1")]
    parts = [
        f"epoch {len(member.history)}/{member.epochs}",
        f"loss {last['train/loss']:.3f}",
        *(f"{name} {last[name]:.3f}" for name in sorted(scores, key=lambda name: name != "avg_f1")),
        f"{last['system/epoch_seconds']:.1f} s",
        f"{last['system/examples_per_second']:.0f} examples/s",
    ]
    while width is not None and len(parts) > 3 and cell_len("  ".join(parts)) > width:
        parts.pop()
    return "  ".join(parts)


def metrics_line(values: Mapping[str, float]) -> str:
    """`avg_f1 0.9312  trainable_parameters 294,912`"""
    return "  ".join(
        f"{name} {value:,.0f}" if value >= 1000 else f"{name} {value:.4f}" for name, value in values.items()
    )


def settings_line(values: Mapping[str, Any]) -> str:
    """`rank 8, lr 0.0021, weights 0.4/0.6`"""
    return ", ".join(f"{heading_of(key, [*values])} {setting_text(value)}" for key, value in values.items())


def duration(seconds: float) -> str:
    """`3:05`, `2:00:09`"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
