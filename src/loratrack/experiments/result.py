"""What a piece of work came to: an object for programs, which the command line prints."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from loratrack.checkpoints import About
from loratrack.experiments.interrupt import PAUSE, PAUSED
from loratrack.places import artifact_folder
from loratrack.store import links

if TYPE_CHECKING:
    from loratrack.config import RunConfig
    from loratrack.tuning.report import Report

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """A run that has ended, as it stands in MLflow."""

    exp_id: str
    run_id: str
    status: RunStatus
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What is logged once: `best_avg_f1`, `best_epoch`, `test_avg_f1`, …; of a run `baseline_avg_f1`, …"""
    version: str | None = None
    """`NAME/NUMBER` of the registered version; None when none was made."""
    notices: tuple[str, ...] = ()
    artifact_uri: str = ""
    ended_by: signal.Signals | None = None
    """The signal that ended it early."""
    experiment_id: str = ""
    """MLflow's own; empty while the tracking store does not answer."""
    is_sent: bool = True
    """False: something still waits for the tracking store, and goes out with `loratrack sync`."""

    @property
    def exit_code(self) -> int:
        """Of the process: 0 when all is done, 75 when it asks to be resumed, 130 and 143 after a signal."""
        if self.status == "FINISHED":
            return 0
        return PAUSED if self.ended_by in (None, PAUSE) else 128 + self.ended_by

    @property
    def model(self) -> str:
        """What `loratrack predict --model` and `loratrack.Classifier` take."""
        return f"models:/{self.version}" if self.version else f"runs:/{self.run_id}"

    @property
    def link(self) -> str:
        """The run's page in MLflow."""
        return links.run_page(self.experiment_id, self.run_id)

    def facts(self) -> dict[str, object]:
        """What `--json` prints."""
        return {
            "exp_id": self.exp_id,
            "run_id": self.run_id,
            "status": self.status,
            "metrics": dict(self.metrics),
            "version": self.version,
            "model": self.model,
            "artifact_uri": self.artifact_uri,
            "link": self.link,
            "notices": list(self.notices),
            "ended_by": None if self.ended_by is None else self.ended_by.name,
            "is_sent": self.is_sent,
        }

    @property
    def folder(self) -> Path | None:
        """Where its files lie; None where a server keeps them."""
        return artifact_folder(self.artifact_uri) if self.artifact_uri else None


@dataclass(frozen=True, kw_only=True)
class Training(Result):
    """One run, or the run that reproduces another one."""

    config: RunConfig
    epochs: tuple[Mapping[str, float], ...] = ()
    """The metrics of each epoch."""
    best_epoch: int | None = None
    stopped_at: About | None = None
    """How far it was when it was stopped; `resume` goes on from there."""

    def facts(self) -> dict[str, object]:
        return super().facts() | {
            "best_epoch": self.best_epoch,
            "stopped_at": None if self.stopped_at is None else str(self.stopped_at),
            "epochs": [dict(values) for values in self.epochs],
        }


@dataclass(frozen=True, kw_only=True)
class Sweep(Result):
    """What this process saw of a sweep; the last process to leave concludes it."""

    name: str
    is_concluded: bool = False
    num_done: int = 0
    report: Report | None = None
    best_run_id: str | None = None
    best_settings: Mapping[str, Any] = field(default_factory=dict)
    """What was varied, as it was in the best trial."""

    def facts(self) -> dict[str, object]:
        return super().facts() | {
            "name": self.name,
            "num_done": self.num_done,
            "is_concluded": self.is_concluded,
            "best_run_id": self.best_run_id,
            "best_settings": dict(self.best_settings),
        }
