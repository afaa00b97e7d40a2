"""The shipper: a thread that sends the outbox to the tracking store, and tries for ever.

A training never waits for it. Whatever is left when the process ends goes out with the next run of
the project, or with `loratrack sync`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from loratrack.store.client import REFUSALS, Client, use_short_requests
from loratrack.store.secrets import scrub_text
from loratrack.tracking.outbox import Outbox, Row

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
FIRST_RETRY_SECONDS = 0.5
LAST_RETRY_SECONDS = 3.0
ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class SyncReport:
    """What one `sync` did, and what still waits."""

    sent: int
    """Rows that the store has now."""
    waiting: int
    busy: tuple[str, ...]
    """Runs whose own process is sending them."""
    refused: tuple[tuple[str, str], ...]
    """Run and reason of rows that the store does not take."""
    elsewhere: Mapping[str, int]
    """Rows that wait for other tracking stores."""
    fault: str | None
    """Why it stopped early; None when it did not."""


def sync(folder: Path, store: str, client: Client) -> SyncReport:
    """Send all that waits for this store, refused rows once more too; stop at the first failure."""
    use_short_requests()
    outbox = Outbox(folder, store)
    outbox.retry_refused()
    outbox.sweep_spool()
    done = _Pass(outbox, client)
    done.ship(outbox.runs(), own={})
    report = SyncReport(
        sent=done.sent,
        waiting=outbox.count("waiting"),
        busy=tuple(done.busy),
        refused=tuple(outbox.refusals()),
        elsewhere=outbox.elsewhere(),
        fault=done.fault,
    )
    outbox.close()
    return report


class Shipper(threading.Thread):
    """Sends the rows of the process's own runs, and the left-overs of processes that are gone.

    Ends when the last own run is released.
    """

    def __init__(self, folder: Path, store: str, client: Client) -> None:
        super().__init__(name="outbox", daemon=True)
        self._outbox = Outbox(folder, store)
        self._client = client
        self._own: dict[str, IO[bytes] | None] = {}
        self._woken = threading.Event()
        self._retry_seconds = FIRST_RETRY_SECONDS
        self.is_over = False
        self.failing_since: float | None = None
        """Monotonic time of the first failure since something was sent."""

    def adopt(self, run_id: str) -> None:
        """Nobody else sends this run's rows until `release` or the end of the process."""
        self._own[run_id] = self._outbox.lease(run_id)

    def release(self, run_id: str) -> None:
        lease = self._own.pop(run_id, None)
        if lease is not None:
            lease.close()
        self.wake()

    def sends(self, run_id: str) -> bool:
        """Whether the run's rows are ours to send, and somebody is there to do it."""
        return self.is_alive() and self._own.get(run_id) is not None

    def wake(self) -> None:
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._woken.set()

    def run(self) -> None:
        while not self._ends():
            self._woken.clear()
            own = {run_id: lease for run_id, lease in self._own.items() if lease is not None}
            waiting = sorted(self._outbox.runs(), key=lambda run_id: run_id not in own)
            done = _Pass(self._outbox, self._client)
            done.ship(waiting, own)
            self._woken.wait(self._pause_seconds(done.fault))

    def _ends(self) -> bool:
        with _shippers_lock:
            self.is_over = not self._own
        if self.is_over:
            self._outbox.close()
        return self.is_over

    def _pause_seconds(self, fault: str | None) -> float:
        if fault is None:
            if self.failing_since is not None:
                log.warning("the tracking store is back; what waited in %s was sent", self._outbox.file)
            self.failing_since, self._retry_seconds = None, FIRST_RETRY_SECONDS
            return POLL_SECONDS
        if self.failing_since is None:
            self.failing_since = time.monotonic()
            log.warning(
                "the tracking store does not answer; metrics wait in %s: %s", self._outbox.file, fault
            )
        pause, self._retry_seconds = self._retry_seconds, min(2 * self._retry_seconds, LAST_RETRY_SECONDS)
        return pause


@dataclass
class _Pass:
    """One attempt to send everything that waits."""

    outbox: Outbox
    client: Client
    sent: int = 0
    fault: str | None = None
    busy: list[str] = field(default_factory=list)

    def ship(self, runs: Sequence[str], own: Mapping[str, IO[bytes]]) -> None:
        """Run after run; a store that cannot be reached ends the pass, a failing run does not."""
        for run_id in runs:
            lease = own.get(run_id) or self.outbox.lease(run_id)
            if lease is None:
                self.busy.append(run_id)
                continue
            try:
                self._ship_run(run_id)
            except RestException as error:
                self.fault = scrub_text(str(error))
            except (MlflowException, OSError) as error:
                self.fault = scrub_text(str(error))
                return
            finally:
                if run_id not in own:
                    lease.close()

    def _ship_run(self, run_id: str) -> None:
        while rows := self.outbox.next_rows(run_id, ROWS_AT_ONCE):
            refused: dict[int, str] = {}
            for items, send in _deliveries(self.outbox, self.client, rows):
                self._offer(send, items, refused)
            self.outbox.settle(rows, refused)
            self.sent += len(rows) - len(refused)
            for reason in sorted(set(refused.values())):
                log.warning("run %s: the tracking store refuses a value: %s", run_id, reason)
        self.outbox.forget_finished(run_id)

    def _offer(self, send: Send, items: Sequence[Item], refused: dict[int, str]) -> None:
        """Send; what is refused is halved until the culprit alone is left out."""
        try:
            send([entity for _, entity in items])
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            if len(items) > 1 and self._is_there(items[0][0].run_id):
                self._offer(send, items[: len(items) // 2], refused)
                self._offer(send, items[len(items) // 2 :], refused)
            else:
                refused.update({row.id: scrub_text(str(error)) for row, _ in items})

    def _is_there(self, run_id: str) -> bool:
        try:
            return bool(self.client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            return False


Item = tuple[Row, Any]
Send = Callable[[list[Any]], Any]


def _deliveries(outbox: Outbox, client: Client, rows: Sequence[Row]) -> list[tuple[list[Item], Send]]:
    """The rows, all of one kind, as pairs of what is sent together and the call that sends it."""
    run_id = rows[0].run_id
    match rows[0].kind:
        case "metrics":
            metrics = [(row, metric) for row in rows for metric in _metrics(row)]
            return [(metrics, lambda part: client.log_batch(run_id, metrics=part))]
        case "params":
            params = [[(row, Param(*pair)) for pair in row.content.items()] for row in rows]
            return [(items, lambda part: client.log_batch(run_id, params=part)) for items in params]
        case "tags":
            tags = [[(row, RunTag(*pair)) for pair in row.content.items()] for row in rows]
            return [(items, lambda part: client.log_batch(run_id, tags=part)) for items in tags]
        case "dataset":
            datasets = [(row, _dataset(row)) for row in rows]
            return [(datasets, lambda part: client.log_inputs(run_id, part))]
        case "artifacts":
            folders = [(row, outbox.spooled(row)) for row in rows]
            return [([item], lambda part: _send_folder(client, run_id, part[0])) for item in folders]
        case "status":
            return [([(row, row)], lambda part: _end(client, part[0])) for row in rows]


def _metrics(row: Row) -> list[Metric]:
    return [Metric(key, value, row.timestamp_ms, row.step) for key, value in row.content.items()]


def _dataset(row: Row) -> DatasetInput:
    content = dict(row.content)
    tags = [InputTag(key, value) for key, value in content.pop("tags").items()]
    return DatasetInput(Dataset(**content), tags)


def _send_folder(client: Client, run_id: str, folder: Path) -> None:
    if not folder.is_dir():
        raise MlflowException(f"{folder}: the spooled files are gone", error_code=REFUSALS[1])
    place = client.get_run(run_id).info.artifact_uri
    if is_local_uri(place):
        _make_way(folder, Path(local_file_uri_to_path(place)))
    client.log_artifacts(run_id, str(folder))


def _make_way(folder: Path, destination: Path) -> None:
    """A second try meets the read-only files of the first one, which cannot be written over."""
    for file in folder.rglob("*"):
        there = destination / file.relative_to(folder)
        if there.is_file():
            there.unlink()


def _end(client: Client, row: Row) -> None:
    client.set_terminated(row.run_id, row.content, end_time=row.timestamp_ms)


_shippers: dict[tuple[Path, str], Shipper] = {}
_shippers_lock = threading.Lock()


def adopt(run_id: str, folder: Path, store: str, client: Client) -> Shipper:
    """The process's one shipper for this store, which now sends this run's rows too."""
    use_short_requests()
    with _shippers_lock:
        known = _shippers.get((folder, store))
        if known is not None and known.is_alive() and not known.is_over:
            known.adopt(run_id)
            return known
        new = _shippers[folder, store] = Shipper(folder, store, client)
        new.adopt(run_id)
        new.start()
        return new
