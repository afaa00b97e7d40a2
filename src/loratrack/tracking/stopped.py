"""Runs that were stopped or killed and can go on, by the checkpoints that lie beside the store."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from loratrack.checkpoints import About, home_of, homes
from loratrack.errors import RefusedError, UserError, did_you_mean
from loratrack.store import leases

MAX_LISTED = 5


@dataclass(frozen=True)
class StoppedRun:
    run_id: str
    folder: Path
    about: About
    is_held: bool
    """A living process trains it: it is not stopped at all."""
    age_seconds: float
    """Since its last checkpoint."""

    @property
    def remedy(self) -> str:
        if self.about.sweep:
            return f"loratrack sweep CONFIG, the command of the sweep {self.about.sweep}"
        return f"loratrack resume {self.run_id}"

    def __str__(self) -> str:
        """`epoch 2.4 of 8, resume with loratrack resume 0a1b…`"""
        return f"{self.about}, resume with {self.remedy}"


def stopped_run(store: Path, run_id: str) -> StoppedRun | None:
    """The run, where it has left something to go on from, also while a process trains it."""
    home = home_of(store, run_id)
    about = home.about()
    if about is None:
        return None
    return StoppedRun(run_id, home.folder, about, leases.is_held(store, run_id), home.age_seconds())


def unfinished_runs(store: Path) -> list[StoppedRun]:
    """All that have checkpoints, the newest first, also those that a process trains."""
    found = [run for run_id in homes(store) if (run := stopped_run(store, run_id)) is not None]
    return sorted(found, key=lambda run: run.age_seconds)


def stopped_runs(store: Path) -> list[StoppedRun]:
    """All that have checkpoints and no living process, the newest first."""
    return [run for run in unfinished_runs(store) if not run.is_held]


def clear_away(store: Path) -> None:
    """Remove what nobody can go on from: of runs killed before anything was saved, of removals cut short."""
    for run_id, home in homes(store).items():
        if not home.folders() and not leases.is_held(store, run_id):
            home.remove()
    for half_removed in (store / "checkpoints").glob(".*"):
        shutil.rmtree(half_removed, ignore_errors=True)


def find(store: Path, text: str) -> StoppedRun:
    """The run that `text` means: its id or the beginning of it, or an exp_id for the newest one stopped."""
    runs = sorted(unfinished_runs(store), key=lambda run: run.is_held)
    words = text.removeprefix("runs:/").strip()
    if not words:
        raise UserError(f"RUN|EXP: must be a run's id, the beginning of one, or an exp_id, got {text!r}")
    named = [run for run in runs if words in (run.run_id, run.about.exp_id)]
    if named:
        return named[0]
    begins = [run for run in runs if run.run_id.startswith(words)]
    if len(begins) > 1:
        listed = ", ".join(f"{run.run_id} ({run.about.exp_id})" for run in begins[:MAX_LISTED])
        raise UserError(f"{text}: must be the beginning of one run's id, got {len(begins)}: {listed}")
    if begins:
        return begins[0]
    trial = next((run for run in runs if run.about.sweep == words), None)
    if trial is not None:
        raise RefusedError(f"{text}: is a sweep; go on with {trial.remedy}")
    close = did_you_mean(words, {run.about.exp_id for run in runs})
    shown = ", ".join(
        f"{run.about.exp_id} ({run.run_id[:8]})" for run in runs[:MAX_LISTED] if not run.is_held
    )
    if words.endswith((".yaml", ".yml")):
        raise UserError(
            f"{text}: must be a run's id or an exp_id, got a config; loratrack run {words} --resume auto goes"
            f" on with a run of it; stopped are: {shown or 'none'}"
        )
    raise RefusedError(
        f"{text}: no run of this name has checkpoints in {store / 'checkpoints'}{close}; stopped are:"
        f" {shown or 'none'}; one of another project goes on in its folder, and a finished one has none:"
        " loratrack reproduce trains it once more"
    )
