"""What may be wrong with the store: no answer, runs without a process, waiting rows, registry drift."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from loratrack.registry import lookup, promotion
from loratrack.store import process
from loratrack.store.client import answering, connect, use_short_requests
from loratrack.store.place import store_folder, store_name
from loratrack.tracking.outbox import Outbox

ENDED_BY = "loratrack.ended_by"
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
        "store", "ok", f"{store_name()} answers in {1000 * seconds:.0f} ms; our files lie in {store_folder()}"
    )


def check_registry() -> Iterator[Finding]:
    drifts = promotion.drifts()
    for model, drifts_of_model in drifts.items():
        for drift in drifts_of_model:
            remedy = f"loratrack registry reconcile {shlex.quote(model)}"
            yield Finding("registry", "fault", f"{model}: {drift.text}", remedy)
    if not drifts:
        yield Finding("registry", "ok", "stages and history are as the aliases say")


def open_runs() -> list[OpenRun]:
    """Every run that is RUNNING, moves in the registry apart."""
    use_short_requests()
    with answering():
        running = lookup.search_runs(connect(), "attributes.status = 'RUNNING'", MAX_RUNS)
    outbox = _outbox()
    runs = []
    for run in running:
        run_id, tags = run.info.run_id, run.data.tags
        rows_waiting = 0 if outbox is None else outbox.count("waiting", run_id)
        host = tags.get(process.HOST, "")
        runs.append(OpenRun(run_id, run.info.run_name, process.is_gone(tags), host, rows_waiting))
    if outbox is not None:
        outbox.close()
    return runs


def check_runs(runs: list[OpenRun]) -> Iterator[Finding]:
    for run in runs:
        about = f"{run.name} ({run.run_id}) is RUNNING"
        if run.is_dead:
            yield Finding("runs", "fault", f"{about}, and its process is gone", "loratrack doctor --fix")
        elif run.is_gone:
            text = f"{about}, its process is gone, and {run.rows_waiting} of its rows wait here"
            yield Finding("runs", "fault", text, "loratrack sync")
        elif run.is_gone is None:
            where = f"on {run.host}" if run.host else "and does not say where"
            delete = f"if it is dead: mlflow runs delete --run-id {run.run_id}"
            remedy = f"loratrack doctor --fix on {run.host}" if run.host else delete
            yield Finding("runs", "note", f"{about} {where}", remedy)
    if all(run.is_gone is False for run in runs):
        yield Finding("runs", "ok", f"{len(runs)} RUNNING, each with its process")


def check_outbox() -> Iterator[Finding]:
    outbox = _outbox()
    if outbox is None:
        yield Finding("outbox", "ok", "nothing waits")
        return
    waiting, refusals, elsewhere = outbox.count("waiting"), outbox.refusals(), outbox.elsewhere()
    outbox.close()
    if waiting:
        yield Finding("outbox", "fault", f"{waiting} rows wait for the store", "loratrack sync")
    for run_id, reason in refusals:
        text = f"run {run_id}: the store refuses a part: {reason}"
        yield Finding("outbox", "fault", text, "loratrack sync")
    for store, count in elsewhere.items():
        remedy = f"MLFLOW_TRACKING_URI={store} loratrack sync"
        yield Finding("outbox", "note", f"{count} rows wait for {store}", remedy)
    if not waiting and not refusals and not elsewhere:
        yield Finding("outbox", "ok", "nothing waits")


def end_dead(runs: list[OpenRun]) -> list[OpenRun]:
    """Mark the dead ones FAILED; returns them."""
    dead = [run for run in runs if run.is_dead]
    with answering():
        client = connect()
        for run in dead:
            client.set_tag(run.run_id, ENDED_BY, "loratrack doctor: its process was gone")
            client.set_terminated(run.run_id, "FAILED")
    return dead


def _outbox() -> Outbox | None:
    """None when there is no outbox yet; opening one would create it."""
    folder = store_folder()
    return Outbox(folder, store_name()) if (folder / "outbox.db").is_file() else None
