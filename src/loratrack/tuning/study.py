"""The study of a sweep: which trial next, when to stop one, and which was best. Optuna keeps it on disk.

Any number of processes may work on one study. What must not happen twice happens in turn, under a lock
beside the runs; a process that dies is noticed, and its trials wait for whoever goes on with them.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from loratrack import disk
from loratrack.config import RunConfig
from loratrack.config.sweep import Sweep, SweepConfig
from loratrack.errors import ConfigError, RefusedError, StoreError, UserError
from loratrack.tuning import fingerprint, objectives, samplers, space
from loratrack.tuning.report import SETTINGS

MISSED_HEARTBEATS = 3
"""A process that misses this many counts as dead."""
MAX_RETRIES = 3
"""A trial that kills its process each time is given up after this many retries."""
RETRIES = "retries"
"""How many epochs it had when its process died, and how often since it had so many."""
SQLITE_WAIT_SECONDS = 60
WORKER, RUN, PARENT, CONCLUDED = "worker", "run_id", "parent_run_id", "concluded"

WITH_RESULTS = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
"""States of trials that have results, or still may."""

Notice = Callable[[str], None]


@dataclass
class Trial:
    """One trial that this process trains."""

    number: int
    values: space.Values
    config: RunConfig
    handle: optuna.Trial
    reported_epochs: int = 0
    run_id: str | None = None
    """Of the process that began it and is gone."""
    started: float = field(default_factory=time.monotonic)


class Search:
    """This process's part in a study."""

    def __init__(
        self,
        config: SweepConfig,
        url: str,
        lock: Path,
        notice: Notice,
        shown: SweepConfig | None = None,
    ) -> None:
        """Opens the study, or makes it; ConfigError where it was begun with other settings.

        `shown`: the config as the study may store it, where that is another one.
        """
        shown = shown or config
        self.config, self.sweep, self.notice = config, config.sweep, notice
        self._lock, self._running = lock, dict[int, Trial]()
        self._name = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self.locked():
            self._storage = storage(url, self.sweep.heartbeat_seconds)
            try:
                self.study = _study(self._storage, self.sweep)
                changes = fingerprint.changes(self.study, shown)
                if changes and any(trial.state in WITH_RESULTS for trial in self.trials()):
                    raise fingerprint.refusal(config, changes)
                if changes:  # a study without results may be restarted with other settings
                    optuna.delete_study(study_name=self.sweep.name, storage=self._storage)
                    self.study = _study(self._storage, self.sweep)
                fingerprint.keep(self.study, shown)
                new_choosers = fingerprint.new_choosers(self.study, config)
            except StorageInternalError as error:
                raise StoreError(f"sweep.storage: the database must answer, got {error}") from error
            if self.sweep.sampler == "grid":
                for point in space.combinations(config):
                    self.study.enqueue_trial(point, skip_if_exists=True)
        for change in new_choosers:
            notice(f"{change} from here on; the {len(self.trials())} trials so far stay")
        self.study.pruner = samplers.pruner(config)
        hours = self.sweep.max_hours
        self._deadline = None if hours is None else time.monotonic() + 3600 * hours
        self._heartbeat = _Heartbeat(self._storage, self.sweep.heartbeat_seconds)
        self._lease = disk.try_lock(self._lease_of(self._name))
        """Held as long as this process works on the study, however it ends."""

    def locked(self) -> AbstractContextManager[None]:
        """One process at a time. SQLite has no row locks, so Optuna's own steps need this too."""
        return disk.locked(self._lock)

    @contextmanager
    def last_one_out(self) -> Iterator[bool]:
        """Whether this process is the one that concludes the sweep; held until the block ends."""
        lease = disk.try_lock(self._lock.with_name(f"{self._lock.name}.{self.sweep.name}"))
        try:
            yield lease is not None
        finally:
            if lease is not None:
                lease.close()

    def next(self) -> Trial | None:
        """The next trial, now ours; None when there is none to start now."""
        while True:
            with self.locked():
                self._take_back_stale()
                trials = self.trials()
                if self._deadline is not None and time.monotonic() > self._deadline:
                    return None
                # The points of a grid were queued when the study was opened: nothing queued, nothing left.
                is_queue_empty = not any(trial.state == TrialState.WAITING for trial in trials)
                if self.sweep.sampler == "grid" and is_queue_empty:
                    return None
                if self.sweep.trials is not None and self.num_started() >= self.sweep.trials:
                    return None
                self.study.sampler = samplers.sampler(self.config, len(trials))
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Heartbeat of storage is supposed", UserWarning)
                    handle = self.study.ask()
                self._heartbeat.add(handle._trial_id)
                handle.set_user_attr(WORKER, self._name)
                values = space.sample(handle, self.config)
                shown = {  # `8` in a file is text
                    key: space.as_stored(value) if isinstance(value, str) else value
                    for key, value in values.items()
                }
                handle.set_user_attr(SETTINGS, shown)
            try:
                config = space.trial_config(self.config, handle.number, values)
            except ConfigError as error:  # settings that do not fit together are this trial's failure alone
                self._tell(handle, TrialState.FAIL, reason=str(error))
                self.notice(f"trial {handle.number} failed: {error}")
                continue
            trial = self._running[handle.number] = Trial(
                handle.number,
                values,
                config,
                handle,
                reported_epochs=max(self._storage.get_trial(handle._trial_id).intermediate_values, default=0),
                run_id=handle.user_attrs.get(RUN),
            )
            return trial

    def report(self, trial: Trial, epoch: int, value: float) -> None:
        """The first metric after an epoch; pruning looks at it."""
        if epoch > trial.reported_epochs and len(self.sweep.metrics) == 1:
            trial.handle.report(value, step=epoch)
            trial.reported_epochs = epoch

    def should_prune(self, trial: Trial) -> bool:
        """Whether the trial should be stopped, by what is reported of it and of the others."""
        if len(self.sweep.metrics) > 1 or trial.reported_epochs < self.sweep.min_epochs:
            return False
        return trial.handle.should_prune()

    def complete(self, trial: Trial, values: Sequence[float]) -> None:
        self._tell(trial.handle, TrialState.COMPLETE, values)

    def prune(self, trial: Trial) -> None:
        self._tell(trial.handle, TrialState.PRUNED)

    def fail(self, trial: Trial, reason: str) -> None:
        self._tell(trial.handle, TrialState.FAIL, reason=reason)

    def give_all_back(self) -> None:
        """Our trials were interrupted: they wait for whoever goes on with them, if nobody has done so yet."""
        for trial in tuple(self._running.values()):
            with self.locked():
                stored = self._storage.get_trial(trial.handle._trial_id)
                if stored.state == TrialState.RUNNING and stored.user_attrs.get(WORKER) == self._name:
                    self._storage.set_trial_state_values(trial.handle._trial_id, TrialState.WAITING)
                self._heartbeat.drop(trial.handle._trial_id)
            del self._running[trial.number]

    def note_run(self, trial: Trial, run_id: str) -> None:
        trial.handle.set_user_attr(RUN, run_id)

    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def is_over(self, number: int) -> bool:
        """Whether the trial with this number has come to its end."""
        trials = self.trials()
        return number < len(trials) and trials[number].state.is_finished()

    def running_elsewhere(self) -> int:
        return sum(t.state == TrialState.RUNNING and t.number not in self._running for t in self.trials())

    def num_started(self) -> int:
        """Trials that are done or in training; one that was interrupted or died is not."""
        return len([t for t in _without_retried(self.trials()) if t.state != TrialState.WAITING])

    def num_done(self) -> int:
        return len([t for t in _without_retried(self.trials()) if t.state.is_finished()])

    def num_wanted(self) -> int | None:
        """How many trials the sweep has in all; None where only the time is limited."""
        if self.sweep.sampler == "grid":
            points = len(_without_retried(self.trials()))
            return points if self.sweep.trials is None else min(points, self.sweep.trials)
        return self.sweep.trials

    def best(self) -> FrozenTrial | None:
        """The best trial; of several objectives, the one of the front that is best at the first."""
        if not any(trial.state == TrialState.COMPLETE for trial in self.trials()):
            return None
        if len(self.sweep.metrics) == 1:
            return self.study.best_trial
        sign = objectives.sign(self.sweep)
        return max(self.study.best_trials, key=lambda trial: sign * trial.values[0])

    def is_best(self, values: Sequence[float]) -> bool:
        """Whether no trial so far is better at the first metric."""
        best = self.best()
        sign = objectives.sign(self.sweep)
        return best is None or sign * values[0] >= sign * best.values[0]

    def set_attr(self, key: str, value: object) -> None:
        self.study.set_user_attr(key, value)

    def attr(self, key: str) -> Any:
        return self.study.user_attrs.get(key)

    def close(self) -> None:
        """Stop the heartbeats, and let the database go."""
        self._heartbeat.stop()
        self._storage.engine.dispose()
        if self._lease is not None:
            self._lease_of(self._name).unlink(missing_ok=True)
            self._lease.close()

    def _take_back_stale(self) -> None:
        """Trials whose process is gone wait again, with the values that were drawn for them."""
        gone = set[str]()
        silent = set(self._storage._get_stale_trial_ids(self.study._study_id))
        patience = timedelta(seconds=MISSED_HEARTBEATS * self.sweep.heartbeat_seconds)
        for trial in self.trials():
            if trial.state != TrialState.RUNNING or trial.number in self._running:
                continue
            worker = trial.user_attrs.get(WORKER)
            is_alive = None if worker is None else self._is_alive(worker)
            if worker is not None and is_alive is False:
                gone.add(worker)
            # Optuna does not see a process that died between drawing a trial and its first heartbeat.
            is_unowned = WORKER not in trial.user_attrs and trial.datetime_start is not None
            is_late = is_unowned and datetime.now() - (trial.datetime_start or datetime.now()) > patience
            if is_alive is False or (is_alive is None and (trial._trial_id in silent or is_late)):
                epochs = len(trial.intermediate_values)
                before, retries = trial.user_attrs.get(RETRIES, (0, 0))
                retries = 0 if epochs > before else retries  # it got further, so it did not kill its process
                self._storage.set_trial_user_attr(trial._trial_id, RETRIES, (epochs, retries + 1))
                state = TrialState.WAITING if retries < MAX_RETRIES else TrialState.FAIL
                self._storage.set_trial_state_values(trial._trial_id, state)
        for worker in gone:
            self._lease_of(worker).unlink(missing_ok=True)

    def _is_alive(self, worker: str) -> bool | None:
        """Whether the process lives; None on another machine, of which only its heartbeat can tell."""
        lease = self._lease_of(worker)
        return disk.is_locked(lease) if lease.exists() else None

    def _lease_of(self, worker: str) -> Path:
        return self._lock.with_name(f"{self._lock.name}.{worker.replace('/', '_')}")

    def _tell(
        self, handle: optuna.Trial, state: TrialState, values: Sequence[float] | None = None, reason: str = ""
    ) -> None:
        """Tell Optuna how a trial of ours ended."""
        self._running.pop(handle.number, None)
        if self._storage.get_trial(handle._trial_id).state == TrialState.WAITING:  # taken for dead
            self._storage.set_trial_state_values(handle._trial_id, TrialState.RUNNING)
        if reason:
            handle.set_user_attr("reason", reason)
        ended = self.study.tell(handle, values, state=state, skip_if_finished=True)
        self._heartbeat.drop(handle._trial_id)
        if ended.state != state:
            self.notice(
                f"trial {handle.number} was taken for dead and given to another process;"
                " give sweep.heartbeat_seconds a larger value"
            )


def storage(url: str, heartbeat_seconds: int) -> RDBStorage:
    """Optuna's tables at `url`, made where there are none; call it under the lock."""
    is_sqlite = url.startswith("sqlite")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return RDBStorage(
                url,
                engine_kwargs={"connect_args": {"timeout": SQLITE_WAIT_SECONDS}} if is_sqlite else None,
                heartbeat_interval=heartbeat_seconds,
                grace_period=MISSED_HEARTBEATS * heartbeat_seconds,
            )
    except (ImportError, ValueError) as error:
        raise UserError(f"sweep.storage: must be a database that SQLAlchemy opens, got {error}") from None


def existing(url: str, name: str) -> optuna.Study:
    """The study of this name; RefusedError lists the ones there are."""
    tables = storage(url, heartbeat_seconds=60)
    names = optuna.get_all_study_names(tables)
    if name not in names:
        listed = f"there are {', '.join(sorted(names))}" if names else "there is none yet"
        raise RefusedError(f"sweep show: no sweep named {name!r}; {listed}")
    return optuna.load_study(study_name=name, storage=tables)


def _study(tables: RDBStorage, sweep: Sweep) -> optuna.Study:
    directions = list(objectives.directions(sweep))
    study = optuna.create_study(
        storage=tables, study_name=sweep.name, directions=directions, load_if_exists=True
    )
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(sweep.metrics))
    return study


def _without_retried(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Without trials that an earlier version replaced by a new one when their process had died."""
    replaced = {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}
    return [trial for trial in trials if trial.number not in replaced]


class _Heartbeat(threading.Thread):
    """Tells the database, for all running trials of this process, that it is alive."""

    def __init__(self, tables: RDBStorage, seconds: int) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._tables, self._seconds = tables, seconds
        self._trials: set[int] = set()
        self._over = threading.Event()
        self.start()

    def add(self, trial_id: int) -> None:
        self._tables.record_heartbeat(trial_id)
        self._trials.add(trial_id)

    def drop(self, trial_id: int) -> None:
        self._trials.discard(trial_id)

    def stop(self) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.wait(self._seconds):
            for trial_id in tuple(self._trials):
                try:
                    self._tables.record_heartbeat(trial_id)
                except StorageInternalError:  # busy or away: the next beat may come through
                    continue
