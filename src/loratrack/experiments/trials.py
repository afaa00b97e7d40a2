"""Trials in training: cohorts one after the other, each trial a member with a tracked run of its own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil
import torch

from loratrack.errors import UserError
from loratrack.experiments import recording
from loratrack.experiments.recording import WriterLog
from loratrack.sweep.cohorts import group, is_own
from loratrack.sweep.parallelism import Parallelism
from loratrack.sweep.study import Search, Trial
from loratrack.tracking.writer import RunWriter
from loratrack.training import session
from loratrack.training.cohort import train
from loratrack.training.cuda_graphs import is_out_of_memory
from loratrack.training.member import Member
from loratrack.training.session import Prepared

WAIT_SECONDS = 2.0
"""How long to wait before looking again whether other processes have left something to do."""
STORE_WAIT_SECONDS = 5.0
"""How long the end of a trial waits for a tracking store that is away."""


@dataclass
class RunningTrial:
    """A trial in training."""

    trial: Trial
    member: Member
    log: WriterLog
    work: Path

    @property
    def writer(self) -> RunWriter:
        return self.log.writer


class Screen(Protocol):
    def notice(self, text: str) -> None: ...
    def trial(self, trial: Trial, member: Member, state: str, values: Sequence[float]) -> None: ...
    def failed(self, trial: Trial, reason: str) -> None: ...


class TrialRunner:
    """This process's trials. A watcher of the cohort: it sees every step and every epoch."""

    def __init__(self, search: Search, parent: RunWriter, lines: Screen, stop: Callable[[], bool]) -> None:
        self.search, self.parent, self.lines, self.stop = search, parent, lines, stop
        self.places = Parallelism(search.sweep.parallel, memory_left)
        self.prepared: Prepared | None = None
        self._group = ""
        self._running: dict[str, RunningTrial] = {}
        self._writers: dict[int, RunWriter] = {}
        self._backlog: list[Trial] = []
        self._step_began = time.perf_counter()

    def work(self) -> None:
        """Until nothing is left to do, here or for a process that may yet die."""
        try:
            while not self.stop():
                trial = self._backlog.pop(0) if self._backlog else self.search.next()
                if trial is not None:
                    self._train_with(trial)
                elif not self.search.running_elsewhere():
                    return
                else:
                    time.sleep(WAIT_SECONDS)
        finally:
            self._hand_back()

    def step(self, members: Sequence[Member]) -> None:
        """A trial whose loss is no number has left its running in the middle of an epoch."""
        now = time.perf_counter()
        examples = sum(member.config.train.batch_size for member in members)
        self.places.step(len(members), examples, now - self._step_began)
        for running in [running for running in self._running.values() if running.member.status == "failed"]:
            self._settle(running)
        self._fill()
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
        if member.is_training and self.search.should_prune(running.trial):
            member.end("stopped", "pruned")
        if not member.is_training:
            self._settle(running)
            self._fill()
        self._step_began = time.perf_counter()

    def _train_with(self, first: Trial) -> None:
        """One cohort: the trial, and all that can share its base, until no more come."""
        prepared = self._set_up(first)
        if prepared is None:
            return
        self.prepared, self._group = prepared, group(first.config)
        if self._seat(first, prepared):
            self._fill()
        while prepared.cohort.training and not self.stop():
            try:
                train(prepared.cohort, self, stop=self.stop, after_epoch=self.after_epoch)
            except (UserError, RuntimeError, MemoryError) as error:
                self._blame(prepared, error)
        self.prepared = None

    def _blame(self, prepared: Prepared, error: Exception) -> None:
        """Out of memory outside a step, as in an evaluation: the largest trial has failed."""
        if not is_out_of_memory(error):
            raise error
        largest = max(
            prepared.cohort.training, key=lambda member: prepared.network.parameter_counts(member.name)[0]
        )
        largest.end("failed", str(error))
        self._settle(self._running[largest.name])
        self._fill()

    def _set_up(self, trial: Trial) -> Prepared | None:
        """None: the trial's own values cannot be trained, and it has failed."""
        if trial.config.train.threads is not None:
            torch.set_num_threads(trial.config.train.threads)
        try:
            return session.set_up(trial.config, self.lines.notice)
        except UserError as error:
            if all(is_own(setting) for setting in trial.values):
                raise  # no trial can be trained
            self._fail(trial, str(error))
            return None

    def _fill(self) -> None:
        prepared = self.prepared
        while prepared is not None and prepared.network.use_lora and len(self._running) < self.places.count:
            trial = None if self.stop() else self._next_of_group()
            if trial is None:
                return
            self._seat(trial, prepared)

    def _next_of_group(self) -> Trial | None:
        """Trials for another base wait, but never more than could be seated."""
        for trial in self._backlog:
            if group(trial.config) == self._group:
                self._backlog.remove(trial)
                return trial
        while len(self._backlog) < self.places.count:
            new = self.search.next()
            if new is None or group(new.config) == self._group:
                return new
            self._backlog.append(new)
        return None

    def _seat(self, trial: Trial, prepared: Prepared) -> bool:
        writer = recording.start(trial.config, self.parent.run_id)
        self._writers[trial.number] = writer
        writer.set_tags({"sweep": self.search.sweep.name, "trial": str(trial.number)})
        self.search.note_run(trial, writer.run_id)
        log = WriterLog(writer, lambda text: None)
        work = recording.new_work_folder(writer.run_id)
        try:
            member = recording.enter(prepared, trial.config, log, work, f"trial-{trial.number}")
        except (UserError, RuntimeError, MemoryError) as error:
            if not isinstance(error, UserError) and not is_out_of_memory(error):
                raise
            self._fail(trial, str(error))
            return False
        self._running[member.name] = RunningTrial(trial, member, log, work)
        return True

    def _settle(self, running: RunningTrial) -> None:
        """Keep what the trial came to, end its run, tell the study, and free its place."""
        trial, member, prepared = running.trial, running.member, self.prepared
        assert prepared is not None, "a running stands on a bench"
        try:
            values = self._keep(running, prepared)
        except (UserError, RuntimeError, MemoryError) as error:
            if not isinstance(error, UserError) and not is_out_of_memory(error):
                raise
            member.status, member.reason, values = "failed", str(error), []
        state = {"finished": "complete", "failed": "failed"}.get(member.status, "pruned")
        running.writer.set_tags({"trial_state": state})
        status = {"complete": "FINISHED", "failed": "FAILED", "pruned": "KILLED"}[state]
        running.writer.finish(status, STORE_WAIT_SECONDS)  # type: ignore[arg-type]
        self._writers.pop(trial.number)
        match state:
            case "complete":
                self.search.complete(trial, values)
            case "pruned":
                self.search.prune(trial)
            case _:
                self.search.fail(trial, member.reason)
        self._free(running, prepared)
        self.lines.trial(trial, member, state, values)
        self._tell_parent(trial, values)

    def _keep(self, running: RunningTrial, prepared: Prepared) -> list[float]:
        member, keep = running.member, self.search.sweep.keep
        is_done = member.status == "finished"
        values = self._values(member, prepared) if is_done else []
        outcome = session.conclude(prepared, member) if is_done else None
        with_weights = keep == "all" or (is_done and (keep == "finished" or self.search.is_best(values)))
        recording.keep(prepared, member, outcome, running.log, running.work, with_weights=with_weights)
        return values

    def _values(self, member: Member, prepared: Prepared) -> list[float]:
        """The sweep's metrics at the epoch that is kept."""
        assert member.best is not None, "a finished member has a best epoch"
        known = {
            **member.history[member.best.epoch - 1],
            "trainable_parameters": float(prepared.network.parameter_counts(member.name)[0]),
        }
        return [known[metric] for metric in self.search.sweep.metrics]

    def _free(self, running: RunningTrial, prepared: Prepared) -> None:
        del self._running[running.member.name]
        prepared.cohort.members.remove(running.member)
        if prepared.network.use_lora:
            prepared.network.remove(running.member.name)
        prepared.network.train()
        shutil.rmtree(running.work, ignore_errors=True)

    def _fail(self, trial: Trial, reason: str) -> None:
        """A trial that could not even begin."""
        writer = self._writers.pop(trial.number, None)
        if writer is not None:
            writer.set_tags({"trial_state": "failed"})
            writer.finish("FAILED", STORE_WAIT_SECONDS)
        self.search.fail(trial, reason)
        self.lines.failed(trial, reason)

    def _tell_parent(self, trial: Trial, values: Sequence[float]) -> None:
        """The history of the sweep: metrics of the trials by their numbers, the best so far as they end.

        They do not end in the order of their numbers, and MLflow shows the value of the last step.
        """
        best = self.search.best()
        if values and best is not None:
            names = self.search.sweep.metrics
            self.parent.log_metrics(dict(zip(names, values, strict=True)), step=trial.number)
            told = {f"best_{name}": value for name, value in zip(names, best.values, strict=True)}
            self.parent.log_metrics(told, step=self.search.num_done())

    def _hand_back(self) -> None:
        """Trials in the middle of their training are ended here, and begun again by whoever goes on."""
        for running in tuple(self._running.values()):
            running.writer.set_tags({"trial_state": "interrupted"})
            shutil.rmtree(running.work, ignore_errors=True)
        for writer in self._writers.values():
            writer.finish("KILLED", STORE_WAIT_SECONDS)
        self.search.give_all_back()
        self._running.clear()
        self._writers.clear()


def memory_left() -> int:
    """Bytes that could still be taken: on the GPU where there is one."""
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return int(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
    return int(psutil.virtual_memory().available)
