"""What the person at the terminal sees of a sweep: one line a trial, the best so far, the time left."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from loratrack.sweep.study import Search, Trial
    from loratrack.training.member import Member


class SweepScreen:
    def __init__(self, console: Console, search: Search) -> None:
        self.console, self.search = console, search
        self._began = time.monotonic()
        self._ended = 0

    def notice(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def trial(self, trial: Trial, member: Member, state: str, values: Sequence[float]) -> None:
        """One trial has ended."""
        if state == "failed":
            self.failed(trial, member.reason)
            return
        scores = dict(zip(self.search.sweep.metrics, values, strict=False))
        shown = "  ".join(f"{name} {_number(value)}" for name, value in scores.items())
        epochs = f"epoch {len(member.history)} of {member.config.train.epochs}"
        result = shown if state == "complete" else f"pruned after {epochs}"
        seconds = time.monotonic() - trial.started
        self._tell(trial, f"{result}  {seconds:.0f} s  ({settings(trial.values)})")

    def failed(self, trial: Trial, reason: str) -> None:
        self._tell(trial, f"failed: {reason}  ({settings(trial.values)})")

    def _tell(self, trial: Trial, text: str) -> None:
        self._ended += 1
        self.notice(f"trial {trial.number}  {text}\n  {self._standing()}")

    def _standing(self) -> str:
        best, wanted, done = self.search.best(), self.search.num_wanted(), self.search.num_done()
        parts = [f"{done} of {wanted} done" if wanted else f"{done} done"]
        if best is not None:
            metrics = zip(self.search.sweep.metrics, best.values, strict=True)
            shown = "  ".join(f"{name} {_number(value)}" for name, value in metrics)
            parts.insert(0, f"best so far {shown} (trial {best.number})")
        if wanted and done < wanted:
            seconds = (time.monotonic() - self._began) / self._ended * (wanted - done)
            parts.append(f"about {duration(seconds)} left")
        return ", ".join(parts)


def settings(values: Mapping[str, Any]) -> str:
    """`rank 8, lr 0.0021, loss_weight 0.4/0.6`"""
    return ", ".join(f"{key.rpartition('.')[2]} {_value(value)}" for key, value in values.items())


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "/".join(_value(part) for part in value.values())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4f}"
