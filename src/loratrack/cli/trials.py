"""Trials in training: cohorts one after the other, each trial a member with a tracked run of its own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from loratrack.cli import recording
from loratrack.cli.recording import RecordedLog
from loratrack.cli.sweep_lines import Lines
from loratrack.errors import UserError
from loratrack.sweep.groups import group, is_own
from loratrack.sweep.seats import Seats
from loratrack.sweep.study import Search, Trial
from loratrack.tracking.runs import Run
from loratrack.training import session
from loratrack.training.cohort import train
from loratrack.training.member import Member
from loratrack.training.recorded import is_out_of_memory
from loratrack.training.session import Bench

WAIT_SECONDS = 2.0
"""How long to wait before looking again whether other processes have left something to do."""
STORE_WAIT_SECONDS = 5.0
"""How long the end of a trial waits for a tracking store that is away."""


@dataclass
class Seat:
    """A trial in training."""

    trial: Trial
    member: Member
    log: RecordedLog
    work: Path

    @property
    def record(self) -> Run:
        return self.log.record


class Floor:
    """This process's trials. A watcher of the cohort: it sees every step and every epoch."""

    def __init__(self, search: Search, parent: Run, lines: Lines, stop: Callable[[], bool]) -> None:
        self.search, self.parent, self.lines, self.stop = search, parent, lines, stop
        self.seats = Seats(search.sweep.parallel, memory_left)
        self.bench: Bench | None = None
        self._group = ""
        self._seated: dict[str, Seat] = {}
        self._records: dict[int, Run] = {}
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
        """A trial whose loss is no number has left its seat in the middle of an epoch."""
        now = time.perf_counter()
        examples = sum(member.config.train.batch_size for member in members)
        self.seats.step(len(members), examples, now - self._step_began)
        for seat in [seat for seat in self._seated.values() if seat.member.status == "failed"]:
            self._settle(seat)
        self._fill()
        self._step_began = time.perf_counter()

    def epoch(self, member: Member) -> None:
        """All that is new is reported before anything is judged by it."""
        metric = self.search.sweep.metrics[0]
        for seat in self._seated.values():
            for epoch, values in enumerate(seat.member.history, start=1):
                if metric in values:
                    self.search.report(seat.trial, epoch, values[metric])

    def after_epoch(self, member: Member) -> None:
        seat = self._seated.get(member.name)
        if seat is None:
            return
        if member.is_training and self.search.is_loser(seat.trial):
            member.end("stopped", "pruned")
        if not member.is_training:
            self._settle(seat)
            self._fill()
        self._step_began = time.perf_counter()

    def _train_with(self, first: Trial) -> None:
        """One cohort: the trial, and all that can share its base, until no more come."""
        bench = self._set_up(first)
        if bench is None:
            return
        self.bench, self._group = bench, group(first.config)
        if self._seat(first, bench):
            self._fill()
        while bench.cohort.training and not self.stop():
            try:
                train(bench.cohort, self, stop=self.stop, after_epoch=self.after_epoch)
            except (UserError, RuntimeError, MemoryError) as error:
                self._blame(bench, error)
        self.bench = None

    def _blame(self, bench: Bench, error: Exception) -> None:
        """Out of memory outside a step, as in an evaluation: the largest trial has failed."""
        if not is_out_of_memory(error):
            raise error
        largest = max(
            bench.cohort.training, key=lambda member: bench.network.parameter_counts(member.name)[0]
        )
        largest.end("failed", str(error))
        self._settle(self._seated[largest.name])
        self._fill()

    def _set_up(self, trial: Trial) -> Bench | None:
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
        bench = self.bench
        while bench is not None and bench.network.use_lora and len(self._seated) < self.seats.count:
            trial = None if self.stop() else self._next_of_group()
            if trial is None:
                return
            self._seat(trial, bench)

    def _next_of_group(self) -> Trial | None:
        """Trials for another base wait, but never more than could be seated."""
        for trial in self._backlog:
            if group(trial.config) == self._group:
                self._backlog.remove(trial)
                return trial
        while len(self._backlog) < self.seats.count:
            new = self.search.next()
            if new is None or group(new.config) == self._group:
                return new
            self._backlog.append(new)
        return None

    def _seat(self, trial: Trial, bench: Bench) -> bool:
        record = recording.start(trial.config, self.parent.run_id)
        self._records[trial.number] = record
        record.tags({"sweep": self.search.sweep.name, "trial": str(trial.number)})
        self.search.note_run(trial, record.run_id)
        log = RecordedLog(record, lambda text: None)
        work = recording.new_work_folder(record.run_id)
        try:
            member = recording.enter(bench, trial.config, log, work, f"trial-{trial.number}")
        except (UserError, RuntimeError, MemoryError) as error:
            if not isinstance(error, UserError) and not is_out_of_memory(error):
                raise
            self._fail(trial, str(error))
            return False
        self._seated[member.name] = Seat(trial, member, log, work)
        return True

    def _settle(self, seat: Seat) -> None:
        """Keep what the trial came to, end its run, tell the study, and free its place."""
        trial, member, bench = seat.trial, seat.member, self.bench
        assert bench is not None, "a seat stands on a bench"
        try:
            values = self._keep(seat, bench)
        except (UserError, RuntimeError, MemoryError) as error:
            if not isinstance(error, UserError) and not is_out_of_memory(error):
                raise
            member.status, member.reason, values = "failed", str(error), []
        state = {"finished": "complete", "failed": "failed"}.get(member.status, "pruned")
        seat.record.tags({"trial_state": state})
        status = {"complete": "FINISHED", "failed": "FAILED", "pruned": "KILLED"}[state]
        seat.record.finish(status, STORE_WAIT_SECONDS)  # type: ignore[arg-type]
        self._records.pop(trial.number)
        match state:
            case "complete":
                self.search.complete(trial, values)
            case "pruned":
                self.search.prune(trial)
            case _:
                self.search.fail(trial, member.reason)
        self._free(seat, bench)
        self.lines.trial(trial, member, state, values)
        self._tell_parent(trial, values)

    def _keep(self, seat: Seat, bench: Bench) -> list[float]:
        member, keep = seat.member, self.search.sweep.keep
        is_done = member.status == "finished"
        values = self._values(member, bench) if is_done else []
        outcome = session.conclude(bench, member) if is_done else None
        with_weights = keep == "all" or (is_done and (keep == "finished" or self.search.is_best(values)))
        recording.keep(bench, member, outcome, seat.log, seat.work, with_weights=with_weights)
        return values

    def _values(self, member: Member, bench: Bench) -> list[float]:
        """The sweep's metrics at the epoch that is kept."""
        assert member.best is not None, "a finished member has a best epoch"
        known = {
            **member.history[member.best.epoch - 1],
            "trainable_parameters": float(bench.network.parameter_counts(member.name)[0]),
        }
        return [known[metric] for metric in self.search.sweep.metrics]

    def _free(self, seat: Seat, bench: Bench) -> None:
        del self._seated[seat.member.name]
        bench.cohort.members.remove(seat.member)
        if bench.network.use_lora:
            bench.network.remove(seat.member.name)
        bench.network.train()
        shutil.rmtree(seat.work, ignore_errors=True)

    def _fail(self, trial: Trial, reason: str) -> None:
        """A trial that could not even begin."""
        record = self._records.pop(trial.number, None)
        if record is not None:
            record.tags({"trial_state": "failed"})
            record.finish("FAILED", STORE_WAIT_SECONDS)
        self.search.fail(trial, reason)
        self.lines.failed(trial, reason)

    def _tell_parent(self, trial: Trial, values: Sequence[float]) -> None:
        """The history of the sweep: metrics of the trials by their numbers, the best so far as they end.

        They do not end in the order of their numbers, and MLflow shows the value of the last step.
        """
        best = self.search.best()
        if values and best is not None:
            names = self.search.sweep.metrics
            self.parent.metrics(dict(zip(names, values, strict=True)), step=trial.number)
            told = {f"best_{name}": value for name, value in zip(names, best.values, strict=True)}
            self.parent.metrics(told, step=self.search.num_done())

    def _hand_back(self) -> None:
        """Trials in the middle of their training are ended here, and begun again by whoever goes on."""
        for seat in tuple(self._seated.values()):
            seat.record.tags({"trial_state": "interrupted"})
            shutil.rmtree(seat.work, ignore_errors=True)
        for record in self._records.values():
            record.finish("KILLED", STORE_WAIT_SECONDS)
        self.search.give_all_back()
        self._seated.clear()
        self._records.clear()


def memory_left() -> int:
    """Bytes that could still be taken: on the GPU where there is one."""
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return int(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
    return int(psutil.virtual_memory().available)
