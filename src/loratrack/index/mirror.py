"""A copy of a tracking server's tables in one SQLite file, since a server cannot be asked in SQL.

The server holds the truth; the file can be deleted at any time. Each command reads what is new: runs
started or ended since the last look, runs that were not over, changed versions, all aliases. The runs that
are shown are asked for once more, so what is shown is never stale. What an expression or the order may
miss, until all is read anew after `WHOLE_READING_SECONDS`: a tag changed by hand on a run that was over, a
run brought back, a version deleted, and runs of machines whose clock is `CLOCK_SKEW_SECONDS` slow.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from loratrack.disk import DRAFT_SUFFIX, locked, whole_file
from loratrack.index.tables import Dataset, Row, SqliteTables, dataset, unreadable
from loratrack.store.client import (
    Client,
    ModelVersion,
    PagedList,
    Run,
    answering,
    connect,
    pages,
    use_short_requests,
)
from loratrack.store.place import store_folder, store_name

log = logging.getLogger(__name__)

FORMAT = 1
"""Of the file; one of another format is built anew."""
WHOLE_READING_SECONDS = 24 * 3600
CLOCK_SKEW_SECONDS = 3600
PAGE = 1000
IDS_AT_ONCE = 100
REQUESTS_AT_ONCE = 4
T = TypeVar("T")
SCHEMA = """
CREATE TABLE looks(whole REAL, last REAL);
CREATE TABLE experiments(experiment_id TEXT PRIMARY KEY, name TEXT);
CREATE TABLE runs(run_uuid TEXT PRIMARY KEY, name TEXT, status TEXT, start_time INT, end_time INT,
  lifecycle_stage TEXT, artifact_uri TEXT, experiment_id TEXT, digest TEXT);
CREATE TABLE tags(key TEXT, run_uuid TEXT, value TEXT, PRIMARY KEY(key, run_uuid)) WITHOUT ROWID;
CREATE TABLE params(key TEXT, run_uuid TEXT, value TEXT, PRIMARY KEY(key, run_uuid)) WITHOUT ROWID;
CREATE TABLE latest_metrics(key TEXT, run_uuid TEXT, value REAL, is_nan INT, PRIMARY KEY(key, run_uuid))
  WITHOUT ROWID;
CREATE TABLE metrics(key TEXT, run_uuid TEXT, value REAL, is_nan INT, timestamp INT, step INT);
CREATE TABLE model_versions(name TEXT, version INT, current_stage TEXT, run_id TEXT,
  PRIMARY KEY(name, version));
CREATE TABLE registered_model_aliases(name TEXT, alias TEXT, version INT);
CREATE INDEX tags_of ON tags(run_uuid);
CREATE INDEX params_of ON params(run_uuid);
CREATE INDEX latest_metrics_of ON latest_metrics(run_uuid);
CREATE INDEX metrics_of ON metrics(run_uuid, key);
CREATE INDEX versions_of ON model_versions(run_id);
"""
OF_A_RUN = ("tags", "params", "latest_metrics", "metrics", "runs")


def open_mirror(is_rebuild: bool) -> Mirror:
    """The copy of the tracking server, which has seen all that is new there."""
    use_short_requests()
    file = store_folder() / "index" / f"{hashlib.sha256(store_name().encode()).hexdigest()[:16]}.db"
    server = _Server(connect())
    if is_rebuild or _needs_whole_reading(file):
        _build(file, server, is_rebuild)
    mirror = Mirror(file, server)
    mirror.look()
    return mirror


class Mirror(SqliteTables):
    """The file, and the server behind it."""

    def __init__(self, file: Path, server: _Server) -> None:
        super().__init__(file, mode="rw")
        self.server = server

    def look(self) -> None:
        """Read what is new since the last look."""
        [(last,)] = self.rows("SELECT l.last FROM looks l")
        now, since_ms = time.time(), int((last - CLOCK_SKEW_SECONDS) * 1000)
        experiments = self.server.experiments()
        runs: dict[str, Run] = {}
        for which in (f"start_time >= {since_ms}", f"end_time >= {since_ms}", "status = 'RUNNING'"):
            runs |= {
                run.info.run_id: run for run in self.server.runs(list(experiments), f"attributes.{which}")
            }
        open_ids = [row[0] for row in self.rows("SELECT r.run_uuid FROM runs r WHERE r.end_time IS NULL")]
        runs |= self.server.runs_called(list(experiments), [each for each in open_ids if each not in runs])
        versions, aliases = self.server.versions(since_ms), self.server.aliases()
        with self._writing():
            self._save(runs.values(), [each for each in open_ids if each not in runs])
            self._save_versions(versions)
            self._replace("registered_model_aliases", aliases)
            self._replace("experiments", list(experiments.items()))
            self.database.execute("UPDATE looks SET last = max(last, ?)", (now,))

    def renew(self, run_ids: Sequence[str]) -> bool:
        experiments = [row[0] for row in self.rows("SELECT e.experiment_id FROM experiments e")]
        runs = self.server.runs_called(experiments, run_ids)
        versions = self.server.versions_of(run_ids)
        query = "SELECT v.name, v.version, v.current_stage, v.run_id FROM model_versions v"
        is_new = set(self.of_runs(f"{query} WHERE v.run_id IN (:runs)", run_ids)) != set(versions)
        with self._writing():
            self.database.executemany(
                "DELETE FROM model_versions WHERE run_id = ?", [(run_id,) for run_id in run_ids]
            )
            self._save_versions(versions)
            return self._save(runs.values(), [each for each in run_ids if each not in runs]) or is_new

    def need_history(self, run_ids: Sequence[str], metrics: Sequence[str]) -> None:
        have = set(
            self.of_runs(
                "SELECT DISTINCT m.run_uuid, m.key FROM metrics m WHERE m.run_uuid IN (:runs)", run_ids
            )
        )
        logged = self.of_runs(
            "SELECT m.run_uuid, m.key FROM latest_metrics m WHERE m.run_uuid IN (:runs)", run_ids
        )
        pairs = [pair for pair in logged if pair not in have and pair[1] in set(metrics)]
        rows = self.server.history(pairs)
        with self._writing():
            self.database.executemany("INSERT INTO metrics VALUES (?,?,?,?,?,?)", rows)

    def datasets(self, run_id: str) -> list[Dataset]:
        return self.server.datasets(run_id)

    def save_all(self, runs: Iterable[Run]) -> None:
        with self._writing():
            self._save(runs, gone=())

    def _save(self, runs: Iterable[Run], gone: Sequence[str]) -> bool:
        """Whether this changes anything; of a run that has changed, the history is forgotten."""
        known: dict[str, str] = dict(self.rows("SELECT r.run_uuid, r.digest FROM runs r"))
        changed = [run for run in runs if known.get(run.info.run_id) != _digest(run)]
        old = [(run_id,) for run_id in (*gone, *(run.info.run_id for run in changed))]
        for table in OF_A_RUN:
            self.database.executemany(f"DELETE FROM {table} WHERE run_uuid = ?", old)
        many = self.database.executemany
        many("INSERT INTO runs VALUES (?,?,?,?,?,?,?,?,?)", map(_head_row, changed))
        for table in ("tags", "params"):
            many(f"INSERT INTO {table} VALUES (?,?,?)", _pairs(changed, table))
        metrics = ((key, run_id, *_number(value)) for key, run_id, value in _pairs(changed, "metrics"))
        many("INSERT INTO latest_metrics VALUES (?,?,?,?)", metrics)
        return bool(old)

    def _save_versions(self, versions: Iterable[Row]) -> None:
        self.database.executemany("INSERT OR REPLACE INTO model_versions VALUES (?,?,?,?)", versions)

    def _replace(self, table: str, rows: Sequence[Row]) -> None:
        self.database.execute(f"DELETE FROM {table}")
        for row in rows:
            self.database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """All or nothing; others wait."""
        try:
            self.database.execute("BEGIN IMMEDIATE")
            with self.database:
                yield
        except sqlite3.Error as error:
            raise unreadable(str(self.file), error) from error


class _Server:
    """The questions that a tracking server answers; StoreError when it does not."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def experiments(self) -> dict[str, str]:
        """Names by id."""
        experiments = _pages(lambda token: self.client.search_experiments(max_results=PAGE, page_token=token))
        return {str(each.experiment_id): each.name for each in experiments}

    def runs(self, experiment_ids: Sequence[str], clause: str = "") -> Iterator[Run]:
        return _pages(
            lambda token: self.client.search_runs(
                list(experiment_ids), clause, max_results=PAGE, page_token=token
            )
        )

    def runs_called(self, experiment_ids: Sequence[str], run_ids: Sequence[str]) -> dict[str, Run]:
        """Without those that are gone."""
        return {
            run.info.run_id: run
            for part in _parts(run_ids)
            for run in self.runs(experiment_ids, f"attributes.run_id IN ({_quoted(part)})")
        }

    def versions(self, since_ms: int) -> list[Row]:
        rows = []
        for each in _pages(
            lambda token: self.client.search_model_versions(
                max_results=PAGE, order_by=["last_updated_timestamp DESC"], page_token=token
            )
        ):
            if each.last_updated_timestamp < since_ms:
                break
            rows.append(_version_row(each))
        return rows

    def versions_of(self, run_ids: Sequence[str]) -> list[Row]:
        return [
            _version_row(each)
            for part in _parts(run_ids)
            for each in _pages(
                lambda token, part=part: self.client.search_model_versions(  # type: ignore[misc]
                    f"run_id IN ({_quoted(part)})", max_results=PAGE, page_token=token
                )
            )
        ]

    def aliases(self) -> list[Row]:
        models = _pages(
            lambda token: self.client.search_registered_models(max_results=PAGE, page_token=token)
        )
        return [(each.name, alias, int(number)) for each in models for alias, number in each.aliases.items()]

    def datasets(self, run_id: str) -> list[Dataset]:
        with answering():
            inputs = self.client.get_run(run_id).inputs.dataset_inputs
        pairs = [(each.dataset, {tag.key: tag.value for tag in each.tags}) for each in inputs]
        found = [dataset(each.name, each.digest, each.profile, tags) for each, tags in pairs]
        return sorted(found, key=lambda each: each.name)

    def history(self, pairs: Sequence[Row]) -> list[Row]:
        def of(pair: Row) -> list[Row]:
            run_id, key = pair
            values = self.client.get_metric_history(run_id, key)
            return [(key, run_id, *_number(each.value), each.timestamp, each.step) for each in values]

        with answering(), ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            return [row for rows in pool.map(of, pairs) for row in rows]


def _needs_whole_reading(file: Path) -> bool:
    """Whether there is no file, or one of another format, or one that is old or broken."""
    if not file.is_file():
        return True
    try:
        with closing(sqlite3.connect(file)) as database:
            [(format_,)] = database.execute("PRAGMA user_version").fetchall()
            [(whole,)] = database.execute("SELECT whole FROM looks").fetchall()
    except (sqlite3.Error, ValueError):
        return True
    return bool(format_ != FORMAT or not 0 <= time.time() - whole < WHOLE_READING_SECONDS)


def _build(file: Path, server: _Server, is_rebuild: bool) -> None:
    """Read all there is into a new file and rename it into place; one process does it at a time."""
    with locked(file.with_suffix(".lock")):
        if not is_rebuild and not _needs_whole_reading(file):
            return  # another process has built it meanwhile, and has it open
        for draft in file.parent.glob(f".{file.name}.*{DRAFT_SUFFIX}"):  # of a process that was killed
            draft.unlink()
        with whole_file(file) as draft:
            now = time.time()
            with closing(sqlite3.connect(draft)) as database, database:
                database.executescript(f"{SCHEMA}; PRAGMA user_version = {FORMAT}")
                database.execute("INSERT INTO looks VALUES (?, ?)", (now, now))
            with closing(Mirror(draft, server)) as mirror:
                log.warning("%s: reading all runs; next time only what is new", store_name())
                for part in _parts(list(server.experiments())):
                    runs = server.runs(part)
                    while batch := list(islice(runs, PAGE)):
                        mirror.save_all(batch)
                with mirror._writing():
                    mirror._save_versions(server.versions(since_ms=0))


def _pages(ask: Callable[[str | None], PagedList[T]]) -> Iterator[T]:
    """Only the server's errors are translated, not those of whoever reads the pages."""

    def answered(token: str | None) -> PagedList[T]:
        with answering():
            return ask(token)

    return pages(answered)


def _parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), IDS_AT_ONCE):
        yield values[start : start + IDS_AT_ONCE]


def _quoted(values: Sequence[str]) -> str:
    return ", ".join(f"'{value}'" for value in values)


def _head_row(run: Run) -> Row:
    info = run.info
    summary = (info.run_id, info.run_name, info.status, info.start_time, info.end_time, info.lifecycle_stage)
    return (*summary, info.artifact_uri, info.experiment_id, _digest(run))


def _pairs(runs: Iterable[Run], kind: str) -> Iterator[tuple[str, str, Any]]:
    for run in runs:
        for key, value in getattr(run.data, kind).items():
            yield key, run.info.run_id, value


def _number(value: float) -> tuple[float, bool]:
    """As MLflow keeps it: what is not a number is 0 and marked."""
    return (0.0, True) if math.isnan(value) else (value, False)


def _digest(run: Run) -> str:
    text = json.dumps([dict(run.info), run.data.to_dictionary()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _version_row(version: ModelVersion) -> Row:
    return (version.name, int(version.version), version.current_stage, version.run_id)
