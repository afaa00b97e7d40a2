"""A run that was stopped or killed goes on: the same MLflow run, from its last checkpoint, to the bit.

result = resume("0a1b2c3d")                     # or an exp_id, for the newest of its runs that can go on
result.run_id, result.status
unfinished(config, corpus.sha256)               # the run of exactly this config and data, if there is one
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch

from loratrack.bases import base as bases
from loratrack.bases.trust import Trust, said_by_loader
from loratrack.checkpoints import home_of
from loratrack.config import RunConfig, files, load
from loratrack.config.schema import data_paths
from loratrack.data import Corpus
from loratrack.errors import RefusedError
from loratrack.experiments import checking
from loratrack.experiments.differences import Difference, environment_differences, surroundings
from loratrack.experiments.hiding import storable, texts_hidden
from loratrack.experiments.interrupt import interruptible
from loratrack.experiments.recording import Attempt, WriterLog
from loratrack.experiments.result import Training
from loratrack.experiments.run import Work, carry_out, run
from loratrack.experiments.trained_bases import pinned
from loratrack.experiments.watcher import Nobody, Watcher
from loratrack.places import CONFIG_COPY
from loratrack.store import leases
from loratrack.store.client import DELETED, status_of
from loratrack.store.place import store_folder
from loratrack.store.secrets import HIDDEN
from loratrack.tracking.outbox import work_folder
from loratrack.tracking.stopped import StoppedRun, find, stopped_runs, unfinished_runs
from loratrack.tracking.writer import RunWriter, tell_made_run
from loratrack.training.checkpoint import Saved, read
from loratrack.training.session import Prepared

SENDING_SECONDS = 3.0
"""How long a run may be held by a process that only sends what is left of it."""
LOOK_SECONDS = 0.05
OVER = ("FINISHED", DELETED)


def resume(
    named: str,
    *,
    force: bool = False,
    end: bool = False,
    watcher: Watcher | None = None,
    trust_remote_code: str | None = None,
) -> Training:
    """Go on with a run, named by its id, the beginning of it, or its exp_id.

    `force`: also where packages, machine, data or base have changed, so that its numbers are other ones.
    `end`: train no more; the best epoch so far becomes the run's model. `trust_remote_code`: the sha256 of
    the base whose code may run; what the checkpoint says of that does not count.
    """
    watcher = watcher or Nobody()
    stopped = find(store_folder(), named)
    # Finished: it was killed before it removed its checkpoints, or its end is now.
    if not _is_trained(store_folder(), stopped.run_id) and status_of(stopped.run_id) == "FINISHED":
        raise RefusedError(
            f"run {stopped.run_id}: is finished, so there is nothing to go on with; loratrack show"
            f" {stopped.run_id} tells of it"
        )
    if stopped.about.sweep:
        raise RefusedError(f"run {stopped.run_id}: is a part of a sweep; go on with {stopped.remedy}")
    saved, config = left_behind(stopped.run_id, watcher.notice)
    if any(HIDDEN in str(path) for path in data_paths(config).values()):
        raise RefusedError(
            f"run {stopped.run_id}: its data paths hold a secret, which is not stored; go on with"
            " loratrack run CONFIG --resume auto"
        )
    trust = said_by_loader(trust_remote_code) if config.model.trust_remote_code else False
    if end and saved.state.best is None:
        raise RefusedError(
            f"run {stopped.run_id}: no epoch of it has ended, so it has no model to keep; without --end it"
            " trains on"
        )
    return _go_on(saved, config, checking.check(config), trust, watcher, force=force, end=end)


def run_or_resume(
    config: RunConfig,
    watcher: Watcher | None = None,
    corpus: Corpus | None = None,
    changed: Sequence[str] = (),
    resume: Literal["auto", "never"] = "never",
) -> Training:
    """A new run, or with `auto` the run of exactly this config and data that was left unfinished."""
    watcher, corpus = watcher or Nobody(), checking.check(config) if corpus is None else corpus
    left = unfinished(config, corpus.sha256)
    if left is not None and resume == "auto":
        saved, own = left_behind(left.run_id, watcher.notice)
        # What was measured or chosen is the run's; all else is ours, such as trust and paths with a secret.
        measured = {name: getattr(own.train, name) for name in ("layout", "precision", "lr")}
        config = texts_hidden(pinned(config))
        config = config.model_copy(update={"train": config.train.model_copy(update=measured)})
        return _go_on(saved, config, corpus, None, watcher)
    if left is not None:
        watcher.notice(f"the same was begun before and stopped at {left}; this is a new run")
    elif resume == "auto" and (other := _other_than(config, corpus.sha256)):
        watcher.notice(other)
    return run(config, watcher, corpus, changed)


def _other_than(config: RunConfig, data_sha256: str) -> str:
    """Of the newest stopped run of this exp_id, which is another: how far it is, and what is other in it."""
    named = (each for each in stopped_runs(store_folder()) if each.about.exp_id == config.exp_id)
    left = (each for each in named if not each.about.sweep and status_of(each.run_id) not in OVER)
    if (newest := next(left, None)) is None:
        return ""
    is_other = {
        "settings": newest.about.config_sha256 != _sha256_of(config),
        "data": newest.about.data_sha256 != data_sha256,
    }
    what = " and ".join(name for name, is_so in is_other.items() if is_so)
    return f"a run of {config.exp_id} with other {what} stopped at {newest}; this is a new run"


def _sha256_of(config: RunConfig) -> str:
    return files.sha256(storable(texts_hidden(pinned(config))))


def unfinished(config: RunConfig, data_sha256: str, sweep: str = "") -> StoppedRun | None:
    """The newest run of exactly this config and data that was stopped, or whose process is gone; with
    `sweep` of those that are a part of it.
    """
    wanted = _sha256_of(config), data_sha256, sweep
    store = store_folder()
    for left in unfinished_runs(store):
        is_same = wanted == (left.about.config_sha256, left.about.data_sha256, left.about.sweep)
        if is_same and not _is_trained(store, left.run_id) and status_of(left.run_id) not in OVER:
            return left
    return None


def left_behind(run_id: str, notice: Callable[[str], None]) -> tuple[Saved, RunConfig]:
    """The newest whole checkpoint of a run, and its settings; RefusedError where a process trains it."""
    store = store_folder()
    if _is_trained(store, run_id):
        raise RefusedError(f"run {run_id}: is being trained, by a process that lives; stop that one first")
    home = home_of(store, run_id)
    checkpoint = home.newest(notice)
    if checkpoint is None:
        raise RefusedError(f"run {run_id}: has no whole checkpoint in {home.folder}; begin a new run")
    if checkpoint.about.run_id != run_id:
        raise RefusedError(f"{checkpoint.folder}: is of run {checkpoint.about.run_id}; begin a new run")
    return read(checkpoint.folder, checkpoint.about), load(checkpoint.folder / CONFIG_COPY)


def _is_trained(store: Path, run_id: str) -> bool:
    """Whether a living process trains it: one that sends what a dead one has left holds it for a moment."""
    return not _comes_true(lambda: not leases.is_held(store, run_id))


def _comes_true(condition: Callable[[], bool]) -> bool:
    """Whether it is so within the moment that a lease may be held to send something."""
    deadline = time.monotonic() + SENDING_SECONDS
    while not (is_so := condition()) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    return is_so


def changes(saved: Saved, data_sha256: str, base_sha256: str) -> list[Difference]:
    """What is different now: data, base, packages, machine."""
    pairs = [("data", saved.about.data_sha256, data_sha256), ("base", saved.state.base_sha256, base_sha256)]
    found = [Difference(what, then[:12], now[:12]) for what, then, now in pairs if then != now]
    then, now = saved.state.environment.model_dump(), surroundings()
    threads, can_have = saved.state.threads, max(os.cpu_count() or 1, torch.get_num_threads())
    then["torch"], now["torch"] = {"threads": threads}, {"threads": min(threads, can_have)}
    return found + environment_differences(then, now)


def refuse_changes(saved: Saved, different: Sequence[Difference]) -> None:
    """RefusedError where the run would not go on to the bit."""
    if counting := [each for each in different if each.counts]:
        raise RefusedError(
            f"run {saved.about.run_id}: would not go on to the bit; different since then:"
            f" {_listed(counting)}; make it as it was, or go on all the same with --force, and the run gets"
            " a tag that says so"
        )


def take_over(
    saved: Saved, show: Callable[[str], None], different: Sequence[Difference] = ()
) -> tuple[WriterLog, Attempt]:
    """The run is ours to write, and RUNNING again; RefusedError when another process was quicker."""
    run_id = saved.about.run_id
    if _is_trained(store_folder(), run_id) or not saved.folder.is_dir():
        raise RefusedError(f"run {run_id}: another process has gone on with it")
    writer = RunWriter.attach(run_id, with_sampler=True)
    if not _comes_true(lambda: writer.is_ours):
        writer.leave()
        raise RefusedError(f"run {run_id}: is being trained by another process")
    shutil.rmtree(work_folder(store_folder(), run_id), ignore_errors=True)  # of an attempt that died
    home = home_of(store_folder(), run_id)
    number = home.claim()
    writer.set_tags({"attempt": str(number)})
    where = f"at {saved.about}, step {saved.about.step:,}" if saved.about.step else "at its beginning"
    notices = (
        f"attempt {number} goes on {where}",
        *(f"different since then: {difference}" for difference in different),
    )
    about = saved.about
    changed = _listed([each for each in different if each.counts])
    attempt = Attempt(home, number, about.config_sha256, saved, notices, about.sweep, changed)
    return WriterLog(writer, show), attempt


def take_up(
    run_id: str, prepared: Prepared, notice: Callable[[str], None]
) -> tuple[RunConfig, WriterLog, Attempt]:
    """A run that was left, for a member of a cohort; UserError where it cannot go on to the bit."""
    saved, config = left_behind(run_id, notice)
    different = changes(saved, prepared.dataset.sha256, prepared.base.sha256)
    refuse_changes(saved, different)
    return config, *take_over(saved, lambda text: None, different)


def _go_on(
    saved: Saved,
    config: RunConfig,
    corpus: Corpus,
    trust: Trust | None,
    watcher: Watcher,
    *,
    force: bool = False,
    end: bool = False,
) -> Training:
    trusted = config.model.trust_remote_code if trust is None else trust
    different = changes(saved, corpus.sha256, bases.resolve(config.model.arch, trust=trusted).sha256)
    if not force:
        refuse_changes(saved, different)
    with interruptible() as interruption:
        log, attempt = take_over(saved, watcher.notice, different)
        tell_made_run(saved.about.run_id, config.exp_id)
        for line in (f"{config.exp_id}: run {saved.about.run_id}", *attempt.notices):
            watcher.notice(line)
        return carry_out(Work(config, corpus, log, attempt, watcher, interruption, trust, is_ended=end))


def _listed(changes: Sequence[Difference]) -> str:
    return "; ".join(str(change) for change in changes)
