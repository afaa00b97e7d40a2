"""Trials in training: cohorts one after the other, each trial a member with a tracked run of its own.

next trial ──> set up its base ──> cohort: this trial and all that can share the base
     ^                               │  a trial that ends or is pruned gives its place to the next
     └───────────────────────────────┘

A trial that another process has left in the middle of its training goes on from its last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from optuna.exceptions import StorageInternalError
from safetensors import SafetensorError

from loratrack.checkpoints import FencedError
from loratrack.config import RunConfig
from loratrack.data import Corpus
from loratrack.disk import is_full
from loratrack.errors import StoppedError, StoreError, UserError
from loratrack.experiments import recording, resumption
from loratrack.experiments.recording import Attempt, WriterLog
from loratrack.experiments.result import RunStatus
from loratrack.experiments.watcher import TrialEnd, TrialState, UnderWay, Watcher
from loratrack.model.out_of_memory import is_out_of_memory
from loratrack.tracking.writer import RunWriter
from loratrack.training import session
from loratrack.training.cohort import Stop, train
from loratrack.training.keeper import Keeper
from loratrack.training.member import Member, Status
from loratrack.training.session import Prepared
from loratrack.tuning import samplers
from loratrack.tuning.cohorts import group, is_own
from loratrack.tuning.parallelism import Parallelism
from loratrack.tuning.study import Search, Trial

WAIT_SECONDS = 2.0
"""How long to wait before looking again whether other processes have left something to do."""
STORE_WAIT_SECONDS = 5.0
"""How long the end of a trial waits for a tracking store that is away."""
TRIAL_STATES: dict[Status, TrialState] = {"finished": "complete", "failed": "failed", "stopped": "pruned"}
RUN_STATUS: dict[TrialState, RunStatus] = {"complete": "FINISHED", "failed": "FAILED", "pruned": "KILLED"}


@dataclass
class RunningTrial:
    trial: Trial
    member: Member
    log: WriterLog
    work: Path
    attempt: Attempt


class TrialRunner:
    """This process's trials. It watches the cohort: it sees every step and every epoch."""

    def __init__(
        self,
        search: Search,
        parent: RunWriter,
        watcher: Watcher,
        stop: Stop,
        corpus: Corpus | None = None,
    ) -> None:
        self.search, self.parent, self.watcher, self.stop = search, parent, watcher, stop
        self.corpus = corpus
        """What the data of the sweep's own config holds, where it was read before."""
        most = samplers.max_parallel(search.config)
        self.places = Parallelism(search.sweep.parallel, memory_left, most)
        self.is_stopped = False
        """Before all was done: by a signal, or because the disk is full."""
        self.prepared: Prepared | None = None
        self._keeper: Keeper | None = None
        self._group = ""
        self._running: dict[str, RunningTrial] = {}
        """By the name of its member."""
        self._writers: dict[int, RunWriter] = {}
        """The open runs, by the number of the trial."""
        self._backlog: list[Trial] = []
        self._step_began = time.perf_counter()
        self._num_done, self._num_wanted = search.num_done(), search.num_wanted()

    def work(self) -> None:
        """Train until no trial is left; wait for other processes, whose trials come back if they die."""
        try:
            self._show()
            while not self.stop:
                trial = self._backlog.pop(0) if self._backlog else self.search.next()
                if trial is not None:
                    self._train_cohort(trial)
                elif self.search.running_elsewhere():
                    time.sleep(WAIT_SECONDS)
                else:
                    return
            self.is_stopped = True
        except StoppedError:
            self.is_stopped = True
        except (OSError, SafetensorError, StorageInternalError, UserError) as error:
            if not is_full(error):
                raise
            self.watcher.notice(str(error))
            self.is_stopped = True
        finally:
            # trials in the middle of their training are left here, and whoever goes on takes them up
            for running in self._running.values():
                recording.remove_work_folder(running.work)
                self._leave(running)
            for writer in self._writers.values():
                with suppress(StoreError):  # on a full disk it stays RUNNING, with a process that is gone
                    writer.finish("KILLED", STORE_WAIT_SECONDS)
            with suppress(StorageInternalError):  # the same: their process will be seen to be gone
                self.search.give_all_back()
            self._running.clear()
            self._writers.clear()

    def _leave(self, running: RunningTrial) -> None:
        """The trial's run says that it was left, unless another process has taken it over."""
        try:
            running.attempt.home.check_attempt(running.attempt.number)
        except FencedError:
            self._writers.pop(running.trial.number).leave()
            return
        with suppress(StoreError):
            running.log.writer.set_tags({"trial_state": "interrupted"})

    def _train_cohort(self, first: Trial) -> None:
        """One cohort: the trial, and all that can share its base, until no more come."""
        if first.config.train.threads is not None:
            torch.set_num_threads(first.config.train.threads)
        try:
            is_same_data = first.config.data == self.search.config.data
            corpus = self.corpus if is_same_data else None
            with self.stop.at_once():
                prepared = session.set_up(first.config, self.watcher.notice, corpus=corpus)
        except UserError as error:
            if all(is_own(setting) for setting in first.values):
                raise  # what is wrong is shared by all trials: none can be trained
            self._fail(first, str(error))
            return
        self.prepared, self._group = prepared, group(first.config)
        keeper = self._keeper = Keeper(prepared.cohort)
        if self._enter(first, prepared, keeper):
            self._fill()
        while prepared.cohort.training:
            try:
                train(prepared.cohort, self, stop=self.stop, keeper=keeper, after_epoch=self.after_epoch)
            except (UserError, RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                # outside a step, as in an evaluation, nobody knows who took too much: the largest has failed
                network, members = prepared.network, prepared.cohort.training
                largest = max(members, key=lambda member: network.parameter_counts(member.name)[0])
                largest.end("failed", str(error))
                self._settle(self._running[largest.name])
                self._fill()
        self.prepared = self._keeper = None

    def step(self, members: Sequence[Member]) -> None:
        """A diverged trial frees its place in the middle of an epoch."""
        now = time.perf_counter()
        examples = sum(member.config.train.batch_size for member in members)
        self.places.step(len(members), examples, now - self._step_began)
        for running in [each for each in self._running.values() if each.member.status == "failed"]:
            self._settle(running)
        self._fill()
        self._show()
        self._step_began = time.perf_counter()

    def epoch(self, member: Member) -> None:
        """All that is new is reported before anything is judged by it."""
        metric = self.search.sweep.metrics[0]
        for running in self._running.values():
            for epoch, values in enumerate(running.member.history, start=1):
                if metric in values:
                    self.search.report(running.trial, epoch, values[metric])

    def after_epoch(self, member: Member) -> None:
        running = self._running.get(member.name)
        if running is None:
            return
        self.watcher.trial_epoch(running.trial.number, member)
        if member.is_training and self.search.should_prune(running.trial):
            member.end("stopped", "pruned")
        if not member.is_training:
            self._settle(running)
            self._fill()
        self._step_began = time.perf_counter()

    def _show(self) -> None:
        members = {running.trial.number: running.member for running in self._running.values()}
        self.watcher.under_way(UnderWay(members, self._num_done, self._num_wanted))

    def _fill(self) -> None:
        """Trials of the same group until every place is taken.

        Trials for another base wait in the backlog, never more of them than there are places.
        """
        prepared, keeper = self.prepared, self._keeper
        if prepared is None or keeper is None or not prepared.network.use_lora:
            return
        while len(self._running) < self.places.count and not self.stop:
            trial = next((each for each in self._backlog if group(each.config) == self._group), None)
            if trial is not None:
                self._backlog.remove(trial)
            while trial is None and len(self._backlog) < self.places.count:
                new = self.search.next()
                if new is None:
                    return
                if group(new.config) == self._group:
                    trial = new
                else:
                    self._backlog.append(new)
            if trial is None:
                return
            self._enter(trial, prepared, keeper)

    def _enter(self, trial: Trial, prepared: Prepared, keeper: Keeper) -> bool:
        """The trial becomes a member of the cohort, where it was left or from its beginning; False when it
        could not even begin.
        """
        left = self._left(trial, prepared)
        config, log, attempt = left or self._begun(trial)
        self._writers[trial.number] = log.writer
        work = recording.new_work_folder(log.writer.run_id)
        try:
            member = recording.enter(prepared, config, log, work, attempt, f"trial-{trial.number}")
            recording.follow(keeper, prepared, member, log, attempt)
        except (UserError, RuntimeError, MemoryError) as error:
            if not _is_its_own_fault(error):
                raise
            self._fail(trial, str(error))
            attempt.home.remove()
            return False
        self._running[member.name] = RunningTrial(trial, member, log, work, attempt)
        return True

    def _begun(self, trial: Trial) -> tuple[RunConfig, WriterLog, Attempt]:
        """The trial with a new run."""
        writer = recording.start(trial.config, self.parent.run_id)
        writer.set_tags({"sweep": self.search.sweep.name, "trial": str(trial.number)})
        self.search.note_run(trial, writer.run_id)
        log = WriterLog(writer)
        return trial.config, log, recording.first_attempt(log, trial.config, self.search.sweep.name)

    def _left(self, trial: Trial, prepared: Prepared) -> tuple[RunConfig, WriterLog, Attempt] | None:
        """The trial as another process has left it; None where it must begin anew."""
        if trial.run_id is None:
            return None
        try:
            taken = resumption.take_up(trial.run_id, prepared, self.watcher.notice)
        except UserError as error:
            self.watcher.notice(f"trial {trial.number} begins anew: {error}")
            return None
        self.watcher.notice(f"trial {trial.number}: {taken[2].notices[0]}")
        return taken

    def _settle(self, running: RunningTrial) -> None:
        """Keep what the trial came to, end its run, report it to the study, and free its place."""
        trial, member, prepared, search = running.trial, running.member, self.prepared, self.search
        assert prepared is not None, "a running trial has a cohort"
        values: list[float] = []
        outcome = None
        if self._keeper is not None:
            self._keeper.leave(member)
        running.attempt.home.check_attempt(running.attempt.number)
        is_done, keep = member.status == "finished", search.sweep.keep
        try:
            if is_done:
                assert member.best is not None, "a finished member has a best epoch"
                trainable = float(prepared.network.parameter_counts(member.name)[0])
                scores = {**member.best.values, "trainable_parameters": trainable}
                values = [scores[metric] for metric in search.sweep.metrics]
                outcome = session.conclude(prepared, member)
            with_weights = keep == "all" or (is_done and (keep == "finished" or search.is_best(values)))
            recording.keep(
                prepared,
                member,
                outcome,
                running.log,
                running.work,
                with_weights=with_weights,
                with_pictures=False,
            )
        except (UserError, RuntimeError, MemoryError) as error:
            if not _is_its_own_fault(error):
                raise
            member.status, member.reason, values = "failed", str(error), []
        state = TRIAL_STATES[member.status]
        if state == "failed":
            recording.keep_reason(running.log, member.reason)
        match state:  # before its run ends: what a kill in between leaves RUNNING, the end of the sweep ends
            case "complete":
                search.complete(trial, values)
            case "pruned":
                search.prune(trial)
            case "failed":
                search.fail(trial, member.reason)
        self._end_run(trial, state)
        running.attempt.home.remove()

        del self._running[member.name]
        prepared.cohort.leave(member)
        if prepared.network.use_lora:
            prepared.network.remove(member.name)
        prepared.network.train()
        recording.remove_work_folder(running.work)

        metrics = dict(zip(search.sweep.metrics, values, strict=False))
        epochs = len(member.history), member.epochs
        self._report(trial, state, metrics, epochs=epochs, reason=member.reason)
        num_done, best = search.num_done(), search.best()  # in this order: the best of so many, or of more
        if metrics and best is not None:
            self.parent.log_metrics({f"trial/{name}": value for name, value in metrics.items()}, trial.number)
            # MLflow's table shows the value of the last step: under its own name a metric is the best trial's
            bests = dict(zip(search.sweep.metrics, best.values, strict=True))
            self.parent.log_metrics(bests | {f"best_{name}": bests[name] for name in bests}, num_done)

    def _fail(self, trial: Trial, reason: str) -> None:
        """A trial that could not even begin."""
        if trial.number in self._writers:
            recording.keep_reason(WriterLog(self._writers[trial.number]), reason)
        self.search.fail(trial, reason)
        self._end_run(trial, "failed")
        self._report(trial, "failed", {}, epochs=(0, trial.config.train.epochs), reason=reason)

    def _end_run(self, trial: Trial, state: TrialState) -> None:
        writer = self._writers.pop(trial.number, None)
        if writer is not None:
            writer.set_tags({"trial_state": state})
            writer.finish(RUN_STATUS[state], STORE_WAIT_SECONDS)

    def _report(
        self,
        trial: Trial,
        state: TrialState,
        metrics: dict[str, float],
        *,
        epochs: tuple[int, int],
        reason: str,
    ) -> None:
        """`epochs`: how many there were, of how many."""
        search, best = self.search, self.search.best()
        self._num_done, self._num_wanted = search.num_done(), search.num_wanted()
        bests = {} if best is None else dict(zip(search.sweep.metrics, best.values, strict=True))
        end = TrialEnd(
            number=trial.number,
            state=state,
            settings=trial.values,
            metrics=metrics,
            reason=reason,
            seconds=time.monotonic() - trial.started,
            epochs=epochs[0],
            max_epochs=epochs[1],
            best_number=None if best is None else best.number,
            best_metrics=bests,
            num_done=self._num_done,
            num_wanted=self._num_wanted,
        )
        self.watcher.trial(end)


def _is_its_own_fault(error: Exception) -> bool:
    """Whether the trial alone has failed; the next one can be trained."""
    if isinstance(error, FencedError) or is_full(error):
        return False
    return isinstance(error, UserError) or is_out_of_memory(error)


def memory_left() -> int:
    """Bytes that could still be taken: on the GPU where there is one."""
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return int(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
    return int(psutil.virtual_memory().available)
