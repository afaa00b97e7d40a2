"""What may be wrong with the store: whether it answers, runs without a process, rows that wait, drift."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

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
    """Whether its process is; None when that cannot be told from here."""
    host: str
    rows_waiting: int
    """What it told and the store has not got yet."""

    @property
    def is_dead(self) -> bool:
        """Gone, with nothing left to send that might end it in another way."""
        return self.is_gone is True and not self.rows_waiting


def check_store() -> Finding:
    """StoreError when it does not answer."""
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
    for model, found in drifts.items():
        for drift in found:
            remedy = f"loratrack registry reconcile {model}"
            yield Finding("registry", "fault", f"{model}: {drift.text}", remedy)
    if not drifts:
        yield Finding("registry", "ok", "stages and history are as the aliases say")


def open_runs() -> list[OpenRun]:
    """All that are RUNNING, but for moves in the registry."""
    use_short_requests()
    with answering():
        found = lookup.search_runs(connect(), "attributes.status = 'RUNNING'", MAX_RUNS)
    outbox = _outbox()
    runs = [_open_run(run, outbox) for run in found]
    if outbox is not None:
        outbox.close()
    return runs


def check_runs(runs: list[OpenRun]) -> Iterator[Finding]:
    for run in runs:
        about = f"{run.name} ({run.run_id}) is RUNNING"
        if run.is_dead:
            yield Finding("runs", "fault", f"{about}, and its process is gone", "loratrack doctor --fix")
        elif run.is_gone:
            told = f"{about}, its process is gone, and {run.rows_waiting} of its rows wait here"
            yield Finding("runs", "fault", told, "loratrack sync")
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
        yield Finding(
            "outbox", "fault", f"run {run_id}: the store refuses a part: {reason}", "loratrack sync"
        )
    for place, count in elsewhere.items():
        yield Finding(
            "outbox", "note", f"{count} rows wait for {place}", f"MLFLOW_TRACKING_URI={place} loratrack sync"
        )
    if not waiting and not refusals and not elsewhere:
        yield Finding("outbox", "ok", "nothing waits")


def end_dead(runs: list[OpenRun]) -> list[OpenRun]:
    """Mark the dead ones FAILED; gives those."""
    dead = [run for run in runs if run.is_dead]
    with answering():
        client = connect()
        for run in dead:
            client.set_tag(run.run_id, ENDED_BY, "loratrack doctor: its process was gone")
            client.set_terminated(run.run_id, "FAILED")
    return dead


def _open_run(run: Any, outbox: Outbox | None) -> OpenRun:
    tags = run.data.tags
    waiting = 0 if outbox is None else outbox.count("waiting", run.info.run_id)
    return OpenRun(
        run.info.run_id, run.info.run_name, process.is_gone(tags), tags.get(process.HOST, ""), waiting
    )


def _outbox() -> Outbox | None:
    """None where no run ever wrote one: looking must not make it."""
    folder = store_folder()
    return Outbox(folder, store_name()) if (folder / "outbox.db").is_file() else None
