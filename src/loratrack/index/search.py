"""Runs found by an expression and sorted: what `compare` asks of the store.

A name is an attribute of a run, a tag, a setting or a metric, looked for in this order; `tags.`, `params.`
and `metrics.` before it say which. A metric is its value at the run's best epoch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from loratrack.errors import UserError, closest
from loratrack.index.comparisons import Test, Value, meaning, number
from loratrack.index.expression import Comparison, Expression, ExpressionError, comparisons, holds, parse
from loratrack.index.runs import (
    ATTRIBUTES,
    KINDS,
    ONLY_LATEST,
    REGISTERED,
    RunSummary,
    StoredRun,
    in_full,
    names_of,
    versions_by_run,
)
from loratrack.index.tables import Tables
from loratrack.metrics import is_lower_better
from loratrack.store.client import EVENTS_EXPERIMENT, PARENT_TAG

ALWAYS_KNOWN = re.compile(r"(best_|test_)?(avg_)?(accuracy|f1)|(train|validation)/loss|best_epoch")
"""Metrics that are no mistake in a store where no run has one yet."""
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


def search(
    tables: Tables,
    *,
    filter_text: str | None = None,
    sort_by: str | None = None,
    columns: Sequence[str] = (),
    limit: int,
    now: datetime | None = None,
) -> SearchResult:
    """The runs that `filter_text` holds for, best first by `sort_by`, else the newest first.

    Names that nothing in the store has are refused, those of `columns` too.
    """
    tests = None if filter_text is None else _meanings(filter_text, now or datetime.now())

    def ordered() -> tuple[RunTable, list[RunSummary]]:
        known = RunTable(tables)
        found = list(known.by_id.values())
        if filter_text is not None and tests is not None:
            is_in = _filter(known, *tests, filter_text)
            found = [summary for summary in found if is_in(summary.run_id)]
        return known, found if sort_by is None else _sorted(found, known, sort_by)

    known, found = ordered()
    if tables.renew([summary.run_id for summary in found[:limit]]):
        known, found = ordered()
    runs = in_full(tables, found[:limit], [*columns, *([sort_by] if sort_by else [])])
    for name in columns:
        if not any(run.values(name) for run in runs) and known.column(name) is None:
            raise UserError(f"--columns: {known.unknown(name)}")
    return SearchResult(runs, len(found), len(known.by_id))


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
    found = [
        RunSummary(run_id, name or "", exp_id, status, str(experiment_id), *rest)
        for run_id, name, exp_id, status, experiment_id, *rest in rows
    ]
    return sorted(found, key=lambda summary: summary.started_ms, reverse=True)


def parents(tables: Tables) -> set[str]:
    """Ids of parent runs (sweeps, chains)."""
    return {
        run_id
        for (run_id,) in tables.rows("SELECT DISTINCT t.value FROM tags t WHERE t.key = :key", key=PARENT_TAG)
    }


class RunTable:
    """Our trainings, the newest first, and one column of them after the other."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._columns: dict[str, Column | None] = {}
        parent_ids = parents(tables)
        self.by_id = {
            summary.run_id: summary for summary in summaries(tables) if summary.run_id not in parent_ids
        }

    def column(self, name: str) -> Column | None:
        """The values under `name`; None when nothing in the store is called so."""
        if name not in self._columns:
            self._columns[name] = self._look_for(name)
        return self._columns[name]

    def _look_for(self, name: str) -> Column | None:
        if name in ATTRIBUTES:
            return {run_id: summary.values(name) for run_id, summary in self.by_id.items()}
        if name in REGISTERED:
            return self._registered(name)
        looks: dict[str, Callable[[str], Column]] = {
            "tags": self._tag,
            "params": self._param,
            "metrics": self._metric,
        }
        kind, _, key = name.partition(".")
        if kind in looks:
            return looks[kind](key) or self._nothing(key)
        return next((column for look in looks.values() if (column := look(name))), self._nothing(name))

    def unknown(self, name: str) -> str:
        """What to say of a name that nothing has."""
        keys = [
            key
            for table in ("tags", "params", "latest_metrics")
            for (key,) in self.tables.rows(f"SELECT DISTINCT t.key FROM {table} t")
            if not key.startswith("mlflow.")
        ]
        known = {key.rsplit(".", 1)[-1]: key for key in keys} | {key: key for key in keys}
        known |= {key: key for key in (*ATTRIBUTES, *REGISTERED)}
        kind, _, key = name.partition(".")
        meant = key if kind in KINDS else name
        near = meant if meant in known else closest(meant, known, cutoff=0.7)
        return f"no run has {name!r}" + (f"; did you mean {known[near]!r}?" if near else "")

    def _nothing(self, name: str) -> Column | None:
        return {} if not self.by_id or ALWAYS_KNOWN.fullmatch(name) else None

    def _tag(self, key: str) -> Column:
        return self._texts("SELECT t.run_uuid, t.value FROM tags t WHERE t.key = :key", key)

    def _param(self, key: str) -> Column:
        return self._texts("SELECT p.run_uuid, p.value FROM params p WHERE p.key = :key", key)

    def _texts(self, query: str, key: str) -> Column:
        rows = self.tables.rows(query, key=key)
        return {run_id: (value,) for run_id, value in rows if run_id in self.by_id and value is not None}

    def _metric(self, metric: str) -> Column:
        """`StoredRun.best` of all runs."""
        if metric.startswith(ONLY_LATEST):
            return {run_id: (value,) for run_id, value in self._latest(metric).items()}
        values: dict[str, float] = {}
        for look in (self._logged_best, self._extreme):
            for name in names_of(metric):
                rest = [run_id for run_id in self.by_id if run_id not in values]
                values |= look(name, rest) if rest else {}
        return {run_id: (value,) for run_id, value in values.items()}

    def _logged_best(self, metric: str, run_ids: Sequence[str]) -> dict[str, float]:
        found = self._latest(f"best_{metric}")
        return {run_id: found[run_id] for run_id in run_ids if run_id in found}

    def _latest(self, metric: str) -> dict[str, float]:
        rows = self.tables.rows(
            "SELECT m.run_uuid, m.value FROM latest_metrics m WHERE m.key = :key AND NOT m.is_nan", key=metric
        )
        return {run_id: value for run_id, value in rows if run_id in self.by_id}

    def _extreme(self, metric: str, run_ids: Sequence[str]) -> dict[str, float]:
        self.tables.need_history(run_ids, [metric])
        best = "MIN" if is_lower_better(metric) else "MAX"
        query = f"SELECT m.run_uuid, {best}(m.value) FROM metrics m WHERE m.key = :key AND NOT m.is_nan"
        if len(run_ids) < MANY_SHARE * len(self.by_id):
            part = f"{query} AND m.run_uuid IN (:runs) GROUP BY m.run_uuid"
            return dict(self.tables.of_runs(part, run_ids, key=metric))
        wanted = set(run_ids)
        rows = self.tables.rows(f"{query} GROUP BY m.run_uuid", key=metric)
        return {run_id: value for run_id, value in rows if run_id in wanted}

    def _registered(self, name: str) -> Column:
        return {
            run_id: [value for version in versions for value in version.values(name)]
            for run_id, versions in versions_by_run(self.tables).items()
        }


def _meanings(text: str, now: datetime) -> tuple[Expression, dict[Comparison, Test]]:
    expression = parse(text)
    return expression, {each: meaning(each, text, now) for each in comparisons(expression)}


def _filter(
    known: RunTable, expression: Expression, tests: Mapping[Comparison, Test], text: str
) -> Callable[[str], bool]:
    columns: dict[str, Column] = {}
    for name in (each.name for each in tests):
        column = known.column(name.text)
        if column is None:
            raise ExpressionError(known.unknown(name.text), text, name.start, name.end)
        columns[name.text] = column

    def is_in(run_id: str) -> bool:
        return holds(expression, lambda each: tests[each](columns[each.name.text].get(run_id, ())))

    return is_in


def _sorted(ordered: Sequence[RunSummary], known: RunTable, name: str) -> list[RunSummary]:
    """Runs with none of it come last, equal ones stay in their order."""
    column = known.column(name)
    if column is None:
        raise UserError(f"--sort-by: {known.unknown(name)}")
    having = [summary for summary in ordered if column.get(summary.run_id)]
    rest = [summary for summary in ordered if not column.get(summary.run_id)]
    values = {summary.run_id: sort_value(column[summary.run_id][0]) for summary in having}
    if any(isinstance(value, str) for value in values.values()):
        return sorted(having, key=lambda summary: str(column[summary.run_id][0])) + rest
    is_high_first = not is_lower_better(name)
    return sorted(having, key=lambda summary: values[summary.run_id], reverse=is_high_first) + rest


def sort_value(value: Value) -> Value:
    """A setting that is a number is sorted as one."""
    found = number(value) if isinstance(value, str) else value
    return value if found is None else found
