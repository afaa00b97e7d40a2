"""Runs found by an expression and sorted: what `compare` asks of the store.

A name is an attribute of a run, a tag, a setting or a metric, looked for in this order; `tags.`, `params.`
and `metrics.` before it say which. A metric is its value at the run's best epoch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from loratrack.errors import UserError, closest, is_text
from loratrack.index.comparisons import Value, meaning, number
from loratrack.index.expression import ExpressionError, comparisons, holds, parse
from loratrack.index.opened import open_tables
from loratrack.index.runs import (
    ATTRIBUTES,
    HEADINGS,
    KINDS,
    ONLY_LATEST,
    REGISTERED,
    SWEEP,
    RunSummary,
    StoredRun,
    ending_in,
    in_full,
    names_of,
    versions_by_run,
)
from loratrack.index.tables import Tables
from loratrack.metrics import MAIN_SCORES, is_lower_better
from loratrack.store.client import EVENTS_EXPERIMENT, PARENT_TAG

ALWAYS_KNOWN = re.compile(
    r"(best_|test_|baseline_|majority_)?(avg_)?(accuracy|f1)|(train|validation)/loss|best_epoch"
)
"""Metrics that are no mistake in a store where no run has one yet."""
FAILED = "FAILED"
MAIN_SETTINGS = ("params.model.lora.rank", "params.train.lr", "params.train.epochs")
MANY_SHARE = 0.1
"""From this share of all runs on, one scan is quicker than looking each run up."""

Column = Mapping[str, Sequence[Value]]
"""The values under some name, by run; a run without any may be missing."""


@dataclass(frozen=True)
class SearchResult:
    runs: tuple[StoredRun, ...]
    """The first of them."""
    total: int
    num_in_store: int
    num_failed: int = 0
    """Those that match, failed and are left out."""
    filtered_by: tuple[str, ...] = ()
    """The names in the filter."""


def search(
    tables: Tables,
    *,
    filter_text: str | None = None,
    sort_by: str | None = None,
    columns: Sequence[str] = (),
    limit: int,
    now: datetime | None = None,
    with_failed: bool = True,
) -> SearchResult:
    """The runs that `filter_text` holds for, best first by `sort_by`, else the newest first.

    Without `with_failed` those that failed are only counted, unless the filter asks for a status. Names
    that nothing in the store has are refused, those of `columns` too.
    """
    expression = None if filter_text is None else parse(filter_text)
    moment = now or datetime.now()
    # Built before any run is read: a value that makes no sense is refused in an empty store too.
    tests = (
        {}
        if expression is None
        else {c: meaning(c, filter_text or "", moment) for c in comparisons(expression)}
    )

    leaves_out_failed = not with_failed and not any(each.name.text == "status" for each in tests)

    def ordered() -> tuple[RunTable, list[RunSummary], int]:
        table = RunTable(tables)
        matches = list(table.by_id.values())
        if expression is not None:
            values: dict[str, Column] = {}
            for name in (comparison.name for comparison in tests):
                column = table.column(name.text)
                if column is None:
                    raise ExpressionError(table.unknown(name.text), filter_text or "", name.start, name.end)
                values[name.text] = column

            def is_match(run_id: str) -> bool:
                return holds(expression, lambda each: tests[each](values[each.name.text].get(run_id, ())))

            matches = [summary for summary in matches if is_match(summary.run_id)]
        failed = [each for each in matches if leaves_out_failed and each.status == FAILED]
        if failed:
            matches = [each for each in matches if each.status != FAILED]
        return table, matches if sort_by is None else _sorted(matches, table, sort_by), len(failed)

    table, matches, num_failed = ordered()
    # A mirror may be behind its server: the runs to be shown are read again, and a change may move them.
    if tables.renew([summary.run_id for summary in matches[:limit]]):
        table, matches, num_failed = ordered()
    filtered_by = tuple(dict.fromkeys(each.name.text for each in tests))
    wanted = [*columns, *([sort_by] if sort_by else []), *filtered_by]
    runs = in_full(tables, matches[:limit], [name.removeprefix("metrics.") for name in wanted])
    for name in columns:
        if not any(run.values(name) for run in runs) and table.column(name) is None:
            raise UserError(f"--columns: {table.unknown(name)}")
    return SearchResult(runs, len(matches), len(table.by_id), num_failed, filtered_by)


def summaries(tables: Tables, clause: str = "", **values: object) -> list[RunSummary]:
    """Our runs that are not deleted and for which `clause` holds, the newest first.

    `clause` knows the run as `r` and its exp_id as `x`.
    """
    rows = tables.rows(
        "SELECT r.run_uuid, r.name, x.value, r.status, r.experiment_id, e.name, r.start_time, r.end_time"
        " FROM runs r JOIN tags x ON x.run_uuid = r.run_uuid AND x.key = 'exp_id'"
        " JOIN experiments e ON e.experiment_id = r.experiment_id"
        f" WHERE r.lifecycle_stage = 'active' AND e.name <> :events {clause}",
        events=EVENTS_EXPERIMENT,
        **values,
    )
    runs = [
        RunSummary(run_id, name or "", exp_id, status, str(experiment_id), *rest)
        for run_id, name, exp_id, status, experiment_id, *rest in rows
    ]
    return sorted(runs, key=lambda summary: summary.started_ms, reverse=True)


def newest_experiment() -> str | None:
    """The id of the experiment in which something was trained last."""
    with open_tables() as tables:
        runs = summaries(tables)
    return runs[0].experiment_id if runs else None


def score_columns() -> dict[str, list[str]]:
    """By the id of each experiment the main scores of its runs and the settings that most often differ."""
    listed: dict[str, list[str]] = {}
    names = {f"m{number}": name for number, name in enumerate(MAIN_SCORES)}
    with open_tables() as tables:
        rows = tables.rows(
            "SELECT DISTINCT r.experiment_id, m.key FROM latest_metrics m JOIN runs r"
            f" ON r.run_uuid = m.run_uuid WHERE m.key IN ({', '.join(f':{each}' for each in names)})",
            **names,
        )
    logged = {(str(experiment), key) for experiment, key in rows}
    for experiment in sorted({experiment for experiment, _ in logged}):
        scores = [f"metrics.{name}" for name in MAIN_SCORES if (experiment, name) in logged]
        listed[experiment] = [*scores, *MAIN_SETTINGS]
    return listed


def parents(tables: Tables) -> set[str]:
    """Ids of parent runs (sweeps, chains)."""
    rows = tables.rows("SELECT DISTINCT t.value FROM tags t WHERE t.key = :key", key=PARENT_TAG)
    return {run_id for (run_id,) in rows}


class RunTable:
    """Our trainings, the newest first, and their columns, each read when it is asked for."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._columns: dict[str, Column | None] = {}
        parent_ids = parents(tables)
        self.by_id = {
            summary.run_id: summary for summary in summaries(tables) if summary.run_id not in parent_ids
        }

    def column(self, name: str) -> Column | None:
        """The values under `name`; None when nothing in the store has this name."""
        if name in self._columns:
            return self._columns[name]
        column: Column | None = {}
        if name in HEADINGS:
            column = self.column(HEADINGS[name])
        elif not is_text(name):
            column = None
        elif name in ATTRIBUTES:
            column = {run_id: summary.values(name) for run_id, summary in self.by_id.items()}
        elif name in REGISTERED:
            column = {
                run_id: [value for version in versions for value in version.values(name)]
                for run_id, versions in versions_by_run(self.tables).items()
            }
        else:
            prefix, _, rest = name.partition(".")
            kinds, key = ((prefix,), rest) if prefix in KINDS else (KINDS, name)
            for kind in kinds:
                if not column:
                    column = self._best_values(key) if kind == "metrics" else self._texts(kind, key)
            if not column and self.by_id and not ALWAYS_KNOWN.fullmatch(key):
                full = ending_in(name, self._settings())
                column = self.column(full[0]) if len(full) == 1 else None
        self._columns[name] = column
        return column

    def unknown(self, name: str) -> str:
        """The message for a name that no run has."""
        keys = [
            key
            for table in ("tags", "params", "latest_metrics")
            for (key,) in self.tables.rows(f"SELECT DISTINCT t.key FROM {table} t")
            if not key.startswith("mlflow.")
        ]
        if len(full := ending_in(name, self._settings())) > 1:
            return f"several settings are called {name!r}: {', '.join(sorted(full))}"
        # The last part of a dotted name leads to the whole: `rnak` means `model.lora.rank`.
        full_names = {key.rsplit(".", 1)[-1]: key for key in keys} | {key: key for key in keys}
        full_names |= {key: key for key in (*ATTRIBUTES, *REGISTERED)}
        kind, _, key = name.partition(".")
        near = closest(key if kind in KINDS else name, full_names, cutoff=0.7)
        return f"no run has {name!r}" + (f"; did you mean {full_names[near]!r}?" if near else "")

    def _settings(self) -> list[str]:
        """Those of trainings: `seed` is no question about the seed of a sweep."""
        keys = [key for (key,) in self.tables.rows("SELECT DISTINCT t.key FROM params t")]
        return [key for key in keys if not key.startswith(SWEEP)]

    def _texts(self, table: str, key: str) -> Column:
        rows = self.tables.rows(f"SELECT t.run_uuid, t.value FROM {table} t WHERE t.key = :key", key=key)
        return {run_id: (value,) for run_id, value in rows if run_id in self.by_id and value is not None}

    def _best_values(self, metric: str) -> Column:
        """`StoredRun.best` of all runs, in a few queries for all of them."""
        values: dict[str, float] = {}
        if metric.startswith(ONLY_LATEST):
            for name in names_of(metric):
                values = self._latest(name) | values
            return {run_id: (value,) for run_id, value in values.items()}
        for name in names_of(metric):
            values = self._latest(f"best_{name}") | values
        for name in names_of(metric):
            # A run that did not come to log its best: the best value of its history.
            open_ids = [run_id for run_id in self.by_id if run_id not in values]
            if not open_ids:
                break
            self.tables.need_history(open_ids, [name])
            best = "MIN" if is_lower_better(name) else "MAX"
            query = f"SELECT m.run_uuid, {best}(m.value) FROM metrics m WHERE m.key = :key AND NOT m.is_nan"
            if len(open_ids) < MANY_SHARE * len(self.by_id):
                part = f"{query} AND m.run_uuid IN (:runs) GROUP BY m.run_uuid"
                values |= dict(self.tables.of_runs(part, open_ids, key=name))
            else:
                rows = self.tables.rows(f"{query} GROUP BY m.run_uuid", key=name)
                without_best = set(open_ids)
                values |= {run_id: value for run_id, value in rows if run_id in without_best}
        return {run_id: (value,) for run_id, value in values.items()}

    def _latest(self, metric: str) -> dict[str, float]:
        rows = self.tables.rows(
            "SELECT m.run_uuid, m.value FROM latest_metrics m WHERE m.key = :key AND NOT m.is_nan", key=metric
        )
        return {run_id: value for run_id, value in rows if run_id in self.by_id}


def _sorted(runs: Sequence[RunSummary], table: RunTable, name: str) -> list[RunSummary]:
    """Runs without a value come last; equal ones keep their order."""
    column = table.column(name)
    if column is None:
        raise UserError(f"--sort-by: {table.unknown(name)}")
    with_value = [summary for summary in runs if column.get(summary.run_id)]
    without = [summary for summary in runs if not column.get(summary.run_id)]
    values = {summary.run_id: sort_value(column[summary.run_id][0]) for summary in with_value}
    if any(isinstance(value, str) for value in values.values()):
        return sorted(with_value, key=lambda summary: str(column[summary.run_id][0])) + without
    is_high_first = not is_lower_better(name)
    return sorted(with_value, key=lambda summary: values[summary.run_id], reverse=is_high_first) + without


def sort_value(value: Value) -> Value:
    """A setting that is a number is sorted as one."""
    as_number = number(value) if isinstance(value, str) else value
    return value if as_number is None else as_number
