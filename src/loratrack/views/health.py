"""What may be wrong with the store: no answer, runs without a process, waiting rows, registry drift."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from loratrack.checkpoints import Home
from loratrack.errors import RefusedError, StoreError, counted
from loratrack.places import PYFUNC
from loratrack.registry import lookup, promotion
from loratrack.store import process
from loratrack.store.client import (
    DELETED,
    answering,
    connect,
    names_of_files,
    status_of,
    use_short_requests,
)
from loratrack.store.place import store_folder, store_name
from loratrack.tracking.outbox import Outbox
from loratrack.tracking.stopped import clear_away, stopped_run, stopped_runs

MAX_RUNS = 1000
State = Literal["ok", "note", "fault"]


@dataclass(frozen=True)
class Finding:
    area: str
    state: State
    """note: worth knowing; fault: something must be done."""
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class OpenRun:
    """A run that the store calls RUNNING."""

    run_id: str
    name: str
    is_gone: bool | None
    """Whether its process has ended; None when this machine cannot tell."""
    host: str
    rows_waiting: int
    """Rows in the outbox that the store has not received yet."""

    @property
    def is_dead(self) -> bool:
        """Gone, with nothing left to send that might end it in another way."""
        return self.is_gone is True and not self.rows_waiting


def check_store() -> Finding:
    """How fast the store answers; StoreError when it does not."""
    use_short_requests()
    with answering():
        client = connect()
        started = time.perf_counter()
        client.search_experiments(max_results=1)
        seconds = time.perf_counter() - started
    return Finding(
        "store", "ok", f"{store_name()} answers in {1000 * seconds:.0f} ms; files are in {store_folder()}"
    )


def check_registry() -> Iterator[Finding]:
    drifts = promotion.drifts()
    for model, drifts_of_model in drifts.items():
        for drift in drifts_of_model:
            remedy = f"loratrack registry reconcile {shlex.quote(model)}"
            yield Finding("registry", "fault", f"{model}: {drift.text}", remedy)
    if not drifts:
        yield Finding("registry", "ok", "stages and history agree with the aliases")


def open_runs() -> list[OpenRun]:
    """Every run that is RUNNING, moves in the registry apart."""
    use_short_requests()
    with answering():
        running = lookup.search_runs(connect(), "attributes.status = 'RUNNING'", MAX_RUNS)
    try:
        outbox = _outbox()
    except StoreError:  # told by check_outbox
        outbox = None
    runs = []
    for run in running:
        run_id, tags = run.info.run_id, run.data.tags
        rows_waiting = 0 if outbox is None else outbox.count("waiting", run_id)
        owner = process.owner(tags)
        host = owner.host if owner else ""
        is_gone = process.is_dead(run_id, tags)
        runs.append(OpenRun(run_id, run.info.run_name, is_gone, host, rows_waiting))
    if outbox is not None:
        outbox.close()
    return runs


def check_runs(runs: list[OpenRun]) -> Iterator[Finding]:
    """What to do about each; a sweep goes on with the command that its trials go on with."""
    trials = {left.about.sweep: left for left in stopped_runs(store_folder()) if left.about.sweep}
    for run in runs:
        about = f"{run.name} ({run.run_id}) is marked RUNNING"
        left = stopped_run(store_folder(), run.run_id) or trials.get(run.name)
        if run.is_gone and left is not None:
            yield Finding("runs", "fault", f"{about}, and its process is gone at {left.about}", left.remedy)
        elif run.is_dead:
            yield Finding("runs", "fault", f"{about}, and its process is gone", "loratrack doctor --fix")
        elif run.is_gone:
            text = f"{about}, its process is gone, and {run.rows_waiting} of its rows are still here"
            yield Finding("runs", "fault", text, "loratrack sync")
        elif run.is_gone is None:
            where = f"on {run.host}" if run.host else "but records no host or process"
            by_word = f"if it is dead: loratrack doctor --fix --run {run.run_id}"
            remedy = f"loratrack doctor --fix on {run.host}; {by_word}" if run.host else by_word
            yield Finding("runs", "note", f"{about} {where}", remedy)
    if all(run.is_gone is False for run in runs):
        yield Finding("runs", "ok", f"{len(runs)} RUNNING, each with a live process")


def check_outbox(*, is_fix: bool = False) -> Iterator[Finding]:
    """What waits here; `is_fix` removes what dead processes have left behind."""
    try:
        outbox = _outbox()
        if is_fix and outbox is not None:
            outbox.clean()
    except StoreError as error:
        yield Finding("outbox", "fault", str(error))
        return
    if outbox is None:
        yield Finding("outbox", "ok", "nothing pending")
        return
    waiting, refusals, elsewhere = outbox.count("waiting"), outbox.reasons("refused"), outbox.elsewhere()
    outbox.close()
    if waiting:
        yield Finding("outbox", "fault", f"{counted(waiting, 'row')} pending for the store", "loratrack sync")
    for run_id, reason in refusals:
        text = f"run {run_id}: the store refuses a part: {reason}"
        yield Finding("outbox", "fault", text, "loratrack sync")
    for store, count in elsewhere.items():
        remedy = f"MLFLOW_TRACKING_URI={store} loratrack sync"
        yield Finding("outbox", "note", f"{counted(count, 'row')} pending for {store}", remedy)
    if not waiting and not refusals and not elsewhere:
        yield Finding("outbox", "ok", "nothing pending")


def end_dead(runs: list[OpenRun], by_word: str | None = None) -> list[Finding]:
    """End the dead ones, and the run `by_word`, of which the user says that it is dead.

    A run that has handed over its model is FINISHED: nothing but the last word is missing. One that can go on
    is KILLED. It ended when it last logged something.
    """
    ended = []
    if by_word is not None and not any(run.run_id == by_word and run.is_gone is not False for run in runs):
        living = any(run.run_id == by_word for run in runs)
        state = "its process lives, so it must end by itself" if living else "it is not RUNNING"
        raise RefusedError(f"--run {by_word}: cannot be ended, {state}")
    with answering():
        client = connect()
        for run in [run for run in runs if run.is_dead or run.run_id == by_word]:
            stored = client.get_run(run.run_id)
            left = stopped_run(store_folder(), run.run_id)
            if left is not None:
                status, remedy = "KILLED", left.remedy
            elif PYFUNC in names_of_files(stored):
                status, remedy = "FINISHED", f"loratrack register {run.run_id}"
            else:
                status, remedy = "FAILED", ""
            last = [client.get_metric_history(run.run_id, name)[-1] for name in stored.data.metrics]
            end_ms = max((point.timestamp for point in last), default=stored.info.start_time)
            reason = "its process was gone" if run.run_id != by_word else "the user said that it was dead"
            client.set_tag(run.run_id, process.ENDED_BY, f"loratrack doctor: {reason}")
            client.set_terminated(run.run_id, status, end_ms)
            ended.append(Finding("runs", "ok", f"{run.name} ({run.run_id}) is marked {status}", remedy))
    return ended


def check_stopped(*, is_fix: bool, kept_days: int) -> Iterator[Finding]:
    """Runs that can go on; `is_fix` removes the checkpoints of those that are finished or too old."""
    if is_fix:
        clear_away(store_folder())
    for left in stopped_runs(store_folder()):
        days = left.age_seconds / (24 * 3600)
        status = status_of(left.run_id)
        is_over = status in ("FINISHED", DELETED)
        size = sum(path.stat().st_size for path in left.folder.rglob("*") if path.is_file())
        about = f"{left.about.exp_id} ({left.run_id})"
        if is_fix and (is_over or days > kept_days):
            Home(left.folder).remove()
            why = f"it is {status}" if is_over else f"it was left {counted(int(days), 'day')} ago"
            yield Finding("checkpoints", "ok", f"{about}: removed, {size / 2**20:.1f} MiB, since {why}")
        elif is_over:
            yield Finding("checkpoints", "note", f"{about}: is {status}", "loratrack doctor --fix")
        else:
            text = f"{about}: stopped at {left.about}, {size / 2**20:.1f} MiB; kept {kept_days} days"
            yield Finding("checkpoints", "note", text, left.remedy)


def _outbox() -> Outbox | None:
    """None when there is no outbox yet; opening one would create it."""
    folder = store_folder()
    return Outbox(folder, store_name()) if (folder / "outbox.db").is_file() else None
