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
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from loratrack.errors import StoreError
from loratrack.store.client import REFUSALS, Client, use_short_requests
from loratrack.store.secrets import scrub_text
from loratrack.tracking import registration
from loratrack.tracking.outbox import Outbox, Row

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
FIRST_RETRY_SECONDS = 0.5
LAST_RETRY_SECONDS = 3.0
LONGEST_PAUSE_SECONDS = 60.0
MAX_ATTEMPTS = 10
"""Three minutes in all, before a value that an answering store does not take counts as refused."""
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
    put_off: tuple[tuple[str, str], ...]
    """Run and reason of rows that it cannot take now, and that are tried again."""
    elsewhere: Mapping[str, int]
    """Rows that wait for other tracking stores."""
    fault: str | None
    """Why it stopped early; None when it did not."""


def sync(folder: Path, store: str, client: Client) -> SyncReport:
    """Send all that waits for this store, refused rows once more too; stop at the first failure."""
    use_short_requests()
    outbox = Outbox(folder, store)
    outbox.retry_refused()
    outbox.clean()
    attempt = _Pass(outbox, client)
    attempt.ship(outbox.runs(), own={})
    report = SyncReport(
        sent=attempt.sent,
        waiting=outbox.count("waiting"),
        busy=tuple(attempt.busy),
        refused=tuple(outbox.reasons("refused")),
        put_off=tuple(outbox.reasons("waiting")),
        elsewhere=outbox.elsewhere(),
        fault=attempt.fault,
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

    def clean(self) -> None:
        """What dead processes have left goes; the leases of the living keep theirs."""
        self._outbox.clean()

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
            self._woken.wait(self._pause_seconds(self._send()))

    def _send(self) -> str | None:
        """One attempt; why it ended early, or None."""
        try:
            for run_id in [run_id for run_id, lease in self._own.items() if lease is None]:
                self._own[run_id] = self._outbox.lease(run_id)  # the process that had it may be gone by now
            own = {run_id: lease for run_id, lease in self._own.items() if lease is not None}
            waiting = sorted(self._outbox.runs(), key=lambda run_id: run_id not in own)
            attempt = _Pass(self._outbox, self._client)
            attempt.ship(waiting, own)
            return attempt.fault
        except StoreError as error:  # the outbox itself, on a full disk
            return str(error)

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
    """One attempt to send everything that waits.

    Where something cannot be sent, the store is asked whether it answers at all. If not, the pass ends and
    everything waits, for as long as it takes. If it does, the fault lies with this value, file or bucket:
    it alone is put off, longer each time, and refused with the reason after `MAX_ATTEMPTS`.
    """

    outbox: Outbox
    client: Client
    sent: int = 0
    fault: str | None = None
    busy: list[str] = field(default_factory=list)

    def ship(self, runs: Sequence[str], own: Mapping[str, IO[bytes]]) -> None:
        for run_id in runs:
            lease = own.get(run_id) or self.outbox.lease(run_id)
            if lease is None:
                self.busy.append(run_id)
                continue
            try:
                self._ship_run(run_id)
            except _AwayError as error:
                self.fault = str(error)
                return
            finally:
                if run_id not in own:
                    lease.close()

    def _ship_run(self, run_id: str) -> None:
        while rows := self.outbox.next_rows(run_id, ROWS_AT_ONCE):
            if rows[0].kind == "version" and (state := self.outbox.state_of_files(run_id)) != "sent":
                reason = f"the model's own files are {state}"
                if state == "refused":
                    self.outbox.settle(rows, {row.id: reason for row in rows})
                else:
                    self.outbox.put_off(rows, reason, LAST_RETRY_SECONDS, is_failure=False)
                continue
            refused: dict[int, str] = {}
            failed: dict[int, str] = {}
            for items, send in _deliveries(self.outbox, self.client, rows):
                self._offer(send, items, refused, failed)
            for row in [row for row in rows if row.id in failed and row.attempts + 1 >= MAX_ATTEMPTS]:
                refused[row.id] = failed.pop(row.id)
            for row in [row for row in rows if row.id in failed]:
                pause = min(FIRST_RETRY_SECONDS * 2**row.attempts, LONGEST_PAUSE_SECONDS)
                self.outbox.put_off([row], failed[row.id], pause)
                if row.attempts == 0:
                    log.warning(
                        "run %s: the tracking store cannot take %s now: %s", run_id, row.kind, failed[row.id]
                    )
            self.outbox.settle([row for row in rows if row.id not in failed], refused)
            self.sent += len(rows) - len(refused) - len(failed)
            for reason in sorted(set(refused.values())):
                log.warning("run %s: the tracking store refuses a value: %s", run_id, reason)
        self.outbox.forget_finished(run_id)

    def _offer(
        self, send: Send, items: Sequence[Item], refused: dict[int, str], failed: dict[int, str]
    ) -> None:
        """Send; what is not taken is halved until the culprit alone is left out."""
        try:
            send([entity for _, entity in items])
        except Exception as error:  # noqa: BLE001  whatever a store, its driver or a bucket's library raises
            reason = scrub_text(f"{type(error).__name__}: {error}")
            is_refusal = isinstance(error, MlflowException) and error.error_code in REFUSALS
            is_there = self._is_there(items[0][0].run_id, reason)
            if len(items) > 1 and is_there:
                half = len(items) // 2
                self._offer(send, items[:half], refused, failed)
                self._offer(send, items[half:], refused, failed)
            else:
                (refused if is_refusal or not is_there else failed).update(
                    {row.id: reason for row, _ in items}
                )

    def _is_there(self, run_id: str, reason: str) -> bool:
        """Whether the store has the run; _AwayError, with the `reason`, when it does not answer."""
        try:
            return bool(self.client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code in REFUSALS:
                return False
            raise _AwayError(reason) from error
        except Exception as error:  # a driver's own, such as a refused connection
            raise _AwayError(reason) from error


class _AwayError(Exception):
    """The tracking store answers nothing at all."""


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
        case "version":
            return [([(row, row)], lambda part: _register(client, part[0])) for row in rows]
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


def _register(client: Client, row: Row) -> None:
    content = row.content  # a journal of an earlier version has no description
    registration.register(
        client, row.run_id, content["name"], content["tags"], content.get("description", "")
    )


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
        new.clean()
        new.start()
        return new
