"""The outbox: what a run has to send to the tracking store, in one SQLite journal beside the store.

Rows keep their order within a run and their first timestamp, so sending one twice stores it once.
Rows that were sent stay until the run is finished: a run that resumes from a checkpoint logs
some steps again, and the journal recognises them.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from loratrack.disk import DRAFT_SUFFIX, locked
from loratrack.errors import StoreError
from loratrack.store import leases

Kind = Literal["metrics", "params", "tags", "dataset", "artifacts", "version", "status"]

BUSY_TIMEOUT_SECONDS = 30
ORPHAN_AGE_SECONDS = 24 * 3600
KEPT_SECONDS = 30 * 24 * 3600
"""How long the rows of a run that was not finished stay, for the day it is taken up again."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    store TEXT NOT NULL,
    run_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    step INTEGER,
    timestamp_ms INTEGER NOT NULL,
    content TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting',
    reason TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    not_before_ms INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS unsent ON rows (store, run_id, id) WHERE state != 'sent';
CREATE INDEX IF NOT EXISTS steps ON rows (run_id, kind, step);
"""
ADDED_COLUMNS = {"attempts", "not_before_ms"}


@dataclass(frozen=True)
class Row:
    id: int
    run_id: str
    kind: Kind
    step: int | None
    timestamp_ms: int
    attempts: int
    """How often the store has failed to take it, while it answered other questions."""
    text: str

    @property
    def content(self) -> Any:
        return json.loads(self.text)


class Outbox:
    """One connection to the journal, for one tracking store.

    Thread safety: every method may be called from any thread; a thread that must not wait for another
    opens its own.
    """

    def __init__(self, folder: Path, store: str) -> None:
        """`store` names the tracking store without user or password."""
        self.folder, self.store = folder, store
        self.file = folder / "outbox.db"
        self._lock = threading.Lock()
        with self._reporting_errors():
            self._spool.mkdir(parents=True, exist_ok=True)
            self._connection = self._open()

    def close(self) -> None:
        self._connection.close()

    def add(self, run_id: str, kind: Kind, content: object) -> None:
        with self._transaction() as cursor:
            self._insert(cursor, run_id, kind, None, content)

    def add_metrics(self, run_id: str, values: Mapping[str, float], step: int) -> dict[str, float]:
        """Keep the values that the run has not logged for this step yet; the others are not sent again.

        Gives the earlier values of the keys that now differ.
        """
        with self._transaction() as cursor:
            logged = self._logged(cursor, run_id, step)
            new = {key: value for key, value in values.items() if key not in logged}
            if new:
                self._insert(cursor, run_id, "metrics", step, new)
        return {key: logged[key] for key in values if key in logged and not _same(logged[key], values[key])}

    def add_artifacts(self, run_id: str, folder: Path) -> None:
        """Copy the folder's content to the spool, whole or not at all."""
        home = self._spool / f"{run_id}-{uuid.uuid4().hex}"
        draft = home.with_name(f"{home.name}{DRAFT_SUFFIX}")
        try:
            shutil.copytree(folder, draft)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise StoreError(
                f"{draft}: the run's files must fit here, got {error}; free some space"
            ) from None
        draft.rename(home)
        self.add(run_id, "artifacts", home.name)

    def take_artifacts(self, run_id: str, folder: Path) -> None:
        """Move the folder into the spool, which takes no space; it must lie beside the outbox.

        Once it is there it is not lost: should there be no space for the row either, `clean` adds it later.
        """
        home = self._spool / f"{run_id}-{uuid.uuid4().hex}"
        folder.rename(home)
        self.add(run_id, "artifacts", home.name)

    def spooled(self, row: Row) -> Path:
        return self._spool / str(row.content)

    def next_step(self, run_id: str, prefix: str) -> int:
        """One more than the last step that has a metric whose name starts with `prefix`."""
        query = "SELECT max(step) FROM rows WHERE run_id = ? AND kind = 'metrics' AND content LIKE ?"
        (last,) = self._one(query, run_id, f'{{"{prefix}%')
        return 0 if last is None else int(last) + 1

    def runs(self) -> list[str]:
        """The runs of this store with rows to send, oldest first."""
        query = (
            "SELECT run_id FROM rows WHERE store = ? AND state = 'waiting' AND state != 'sent'"
            " GROUP BY run_id ORDER BY min(id)"
        )
        return [run_id for (run_id,) in self._all(query, self.store)]

    def next_rows(self, run_id: str, limit: int) -> list[Row]:
        """The first rows to send, in order, all of one kind; those that are put off come again later."""
        query = (
            "SELECT id, run_id, kind, step, timestamp_ms, attempts, content FROM rows WHERE store = ?"
            " AND run_id = ? AND state = 'waiting' AND state != 'sent' AND not_before_ms <= ?"
            " ORDER BY id LIMIT ?"
        )
        records = self._all(query, self.store, run_id, time.time_ns() // 1_000_000, limit)
        rows = [Row(*facts) for facts in records]
        other = next((index for index, row in enumerate(rows) if row.kind != rows[0].kind), len(rows))
        return rows[:other]

    def settle(self, rows: Sequence[Row], refused: Mapping[int, str]) -> None:
        """Note what became of the rows: sent, or refused with a reason."""
        with self._transaction() as cursor:
            cursor.executemany(
                "UPDATE rows SET state = ?, reason = ? WHERE id = ?",
                [("refused" if row.id in refused else "sent", refused.get(row.id), row.id) for row in rows],
            )
        for row in rows:
            if row.kind == "artifacts" and row.id not in refused:
                shutil.rmtree(self.spooled(row), ignore_errors=True)

    def put_off(self, rows: Sequence[Row], reason: str, seconds: float, *, is_failure: bool = True) -> None:
        """Not now: these come again after `seconds`, the rows behind them go on. A failure is counted."""
        moment_ms = time.time_ns() // 1_000_000 + int(1000 * seconds)
        with self._transaction() as cursor:
            cursor.executemany(
                "UPDATE rows SET attempts = attempts + ?, reason = ?, not_before_ms = ? WHERE id = ?",
                [(int(is_failure), reason, moment_ms, row.id) for row in rows],
            )

    def state_of_files(self, run_id: str) -> Literal["sent", "waiting", "refused"]:
        """What became of the run's files; `sent` too where none are known."""
        query = "SELECT DISTINCT state FROM rows WHERE store = ? AND run_id = ? AND kind = 'artifacts'"
        states = {state for (state,) in self._all(query, self.store, run_id)}
        return "waiting" if "waiting" in states else "refused" if "refused" in states else "sent"

    def is_held_up(self, run_id: str) -> bool:
        """Whether something of the run was put off."""
        query = "SELECT count(*) FROM rows WHERE store = ? AND run_id = ? AND state = 'waiting'"
        return bool(self._one(f"{query} AND reason IS NOT NULL AND state != 'sent'", self.store, run_id)[0])

    def forget_finished(self, run_id: str) -> None:
        """Drop the rows of a run that is finished and has nothing left to send."""
        with self._transaction() as cursor:
            cursor.execute(
                "DELETE FROM rows WHERE run_id = ?1 AND NOT EXISTS"
                " (SELECT 1 FROM rows WHERE run_id = ?1 AND state != 'sent') AND EXISTS"
                " (SELECT 1 FROM rows WHERE run_id = ?1 AND kind = 'status' AND content = '\"FINISHED\"')",
                (run_id,),
            )
            if cursor.rowcount:
                leases.give_up(self.folder, run_id)

    def take_back_status(self, run_id: str) -> None:
        """The run goes on: how it had ended is not sent any more."""
        with self._transaction() as cursor:
            cursor.execute("DELETE FROM rows WHERE run_id = ? AND kind = 'status'", (run_id,))

    def count(self, state: Literal["waiting", "refused"], run_id: str | None = None) -> int:
        query = "SELECT count(*) FROM rows WHERE store = ? AND state = ? AND state != 'sent'"
        if run_id is None:
            return int(self._one(query, self.store, state)[0])
        return int(self._one(f"{query} AND run_id = ?", self.store, state, run_id)[0])

    def reasons(self, state: Literal["waiting", "refused"]) -> list[tuple[str, str]]:
        """Run and reason of what was refused, or put off; once for each pair."""
        query = (
            "SELECT DISTINCT run_id, reason FROM rows WHERE store = ? AND state = ? AND reason IS NOT NULL"
            " AND state != 'sent'"
        )
        return [(run_id, reason) for run_id, reason in self._all(query, self.store, state)]

    def elsewhere(self) -> dict[str, int]:
        """How many rows wait for other tracking stores."""
        query = "SELECT store, count(*) FROM rows WHERE store != ? AND state != 'sent' GROUP BY store"
        return dict(self._all(query, self.store))

    def retry_refused(self) -> None:
        """Refused rows, and those that were put off, are tried once more, and at once."""
        with self._transaction() as cursor:
            cursor.execute(
                "UPDATE rows SET state = 'waiting', reason = NULL, attempts = 0, not_before_ms = 0"
                " WHERE store = ? AND state != 'sent' AND reason IS NOT NULL",
                (self.store,),
            )

    def clean(self) -> None:
        """Remove what dead processes have left: spooled and working folders, and rows that nobody needs.

        What they had trained lies in their checkpoints, which stay.
        """
        rows = self._all("SELECT content, state FROM rows WHERE kind = 'artifacts'")
        states = {json.loads(content): state for content, state in rows}
        for folder in self._spool.iterdir():
            run_id, _, rest = folder.name.partition("-")
            is_draft = rest.endswith(DRAFT_SUFFIX)
            if states.get(folder.name) == "sent" or (is_draft and _age_seconds(folder) > ORPHAN_AGE_SECONDS):
                shutil.rmtree(folder, ignore_errors=True)
            elif folder.name in states or is_draft or not self._knows(run_id):
                continue
            elif (lease := self.lease(run_id)) is not None:
                self.add(run_id, "artifacts", folder.name)  # its process died before it wrote the row
                lease.close()
        for folder in work_folders(self.folder):
            if (lease := self.lease(folder.name)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                leases.give_up(self.folder, folder.name)
                lease.close()
        with self._transaction() as cursor:
            cursor.execute(
                "DELETE FROM rows WHERE run_id IN (SELECT run_id FROM rows GROUP BY run_id"
                " HAVING max(timestamp_ms) < ? AND sum(state != 'sent') = 0)",
                ((time.time_ns() - KEPT_SECONDS * 10**9) // 1_000_000,),
            )

    def _knows(self, run_id: str) -> bool:
        """Whether the run is one of this store; the spool is that of all stores."""
        query = "SELECT count(*) FROM rows WHERE store = ? AND run_id = ?"
        return bool(self._one(query, self.store, run_id)[0])

    def lease(self, run_id: str) -> IO[bytes] | None:
        """The right to send the run's rows, until the file is closed; None while another one has it."""
        return leases.take(self.folder, run_id)

    @property
    def _spool(self) -> Path:
        return self.folder / "outbox" / "spool"

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.file, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        # two processes that switch a new file to WAL at once get "database is locked" without a wait
        with locked(self._spool.with_name("open.lock")):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(_SCHEMA)
            known = {name for _, name, *_ in connection.execute("PRAGMA table_info(rows)")}
            for column in ADDED_COLUMNS - known:  # a journal of an earlier version
                connection.execute(f"ALTER TABLE rows ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0")
        return connection

    def _insert(
        self, cursor: sqlite3.Cursor, run_id: str, kind: Kind, step: int | None, content: object
    ) -> None:
        timestamp_ms = time.time_ns() // 1_000_000
        cursor.execute(
            "INSERT INTO rows (store, run_id, kind, step, timestamp_ms, content) VALUES (?, ?, ?, ?, ?, ?)",
            (self.store, run_id, kind, step, timestamp_ms, json.dumps(cleaned(content))),
        )

    def _logged(self, cursor: sqlite3.Cursor, run_id: str, step: int) -> dict[str, float]:
        query = "SELECT content FROM rows WHERE run_id = ? AND kind = 'metrics' AND step = ?"
        logged: dict[str, float] = {}
        for (content,) in cursor.execute(query, (run_id, step)):
            logged |= json.loads(content)
        return logged

    def _one(self, query: str, *values: object) -> tuple[Any, ...]:
        return self._all(query, *values)[0]

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, self._reporting_errors():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        with self._lock, self._reporting_errors():
            cursor = self._connection.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    cursor.execute("ROLLBACK")
                raise

    @contextmanager
    def _reporting_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            raise StoreError(
                f"{self.file}: the outbox of metrics must be writable, got {str(error)!r};"
                " free some space, or mend the rights of the folder"
            ) from error


def cleaned(content: Any) -> Any:
    """Texts without NUL and lone surrogates, which databases refuse."""
    if isinstance(content, str):
        text = content.replace("\0", REPLACEMENT)
        return text if text.isprintable() else re.sub("[\ud800-\udfff]", REPLACEMENT, text)
    if isinstance(content, Mapping):
        return {cleaned(key): cleaned(value) for key, value in content.items()}
    return [cleaned(value) for value in content] if isinstance(content, list) else content


def work_folder(folder: Path, run_id: str) -> Path:
    """Where the process that writes a run keeps its files until they are handed over."""
    return folder / "work" / run_id


def work_folders(folder: Path) -> list[Path]:
    work = folder / "work"
    return list(work.iterdir()) if work.is_dir() else []


def _age_seconds(folder: Path) -> float:
    return time.time() - folder.stat().st_mtime


def _same(one: float, other: float) -> bool:
    return one == other or (one != one and other != other)
