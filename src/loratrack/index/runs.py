"""Runs in full: settings, metrics, the best of them, and the versions made from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from loratrack.index.comparisons import LENGTHS, MOMENTS, Value
from loratrack.index.tables import Tables
from loratrack.metrics import BASELINE, MAJORITY, SCORE, is_lower_better

NO_STAGE = "None"
ATTRIBUTES = ("run_id", "exp_id", "name", "status", "experiment", *MOMENTS, *LENGTHS)
REGISTERED = ("model", "version", "stage", "alias")
KINDS = ("tags", "params", "metrics")
HEADINGS = {
    "run": "run_id",
    "registered": "version",
    "weights": "train.loss_weight",
    "tfidf": f"{BASELINE}avg_f1",
}
"""What a table calls them; it calls a setting by the last part of its name, as long as that is clear."""
SWEEP = "sweep."
"""Params of a sweep itself are no settings of its trainings."""
ONLY_LATEST = ("best_", "test_", BASELINE, MAJORITY)
"""Metrics with these beginnings are logged once."""

T = TypeVar("T")


@dataclass(frozen=True)
class RunSummary:
    """What is known of every run that is looked at."""

    run_id: str
    name: str
    exp_id: str
    status: str
    experiment_id: str
    experiment: str
    started_ms: int
    ended_ms: int | None

    @property
    def duration_seconds(self) -> float | None:
        return None if self.ended_ms is None else (self.ended_ms - self.started_ms) / 1000

    def values(self, name: str) -> tuple[Value, ...]:
        """The attribute `name`, as an expression knows it."""
        values: dict[str, Value | None] = {
            "run_id": self.run_id,
            "exp_id": self.exp_id,
            "name": self.name,
            "status": self.status,
            "experiment": self.experiment,
            "started": self.started_ms / 1000,
            "ended": None if self.ended_ms is None else self.ended_ms / 1000,
            "duration": self.duration_seconds,
        }
        value = values[name]
        if value is None:
            return ()
        return (value,)


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    model: str
    number: int
    stage: str | None
    aliases: tuple[str, ...]

    def values(self, name: str) -> tuple[Value, ...]:
        """The part `name`, as an expression knows it."""
        if name == "alias":
            return self.aliases
        values: dict[str, Value | None] = {
            "model": self.model,
            "version": self.number,
            "stage": self.stage,
        }
        value = values[name]
        if value is None:
            return ()
        return (value,)

    def __str__(self) -> str:
        marks = [f"@{alias}" for alias in self.aliases] + ([self.stage] if self.stage else [])
        return " ".join([f"{self.model} v{self.number}", *marks])

    def in_short(self, *, with_model: bool) -> str:
        """`v2 @champion`: the stage of a version that has an alias says the same again."""
        marks = [f"@{alias}" for alias in self.aliases] or ([self.stage] if self.stage else [])
        return " ".join([*([self.model] if with_model else []), f"v{self.number}", *marks])


@dataclass(frozen=True)
class StoredRun:
    """A run in full, but for the course of its metrics."""

    summary: RunSummary
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    """The latest value of each."""
    versions: tuple[Version, ...]
    extremes: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Lowest and highest value of metrics of which the run has logged no best."""
    """Lowest and highest value of each metric, of a run that did not come to log its best."""

    def best(self, metric: str) -> float | None:
        """The value at the best epoch; without one the best value so far."""
        if metric.startswith(ONLY_LATEST):
            return next((self.metrics[name] for name in names_of(metric) if name in self.metrics), None)
        logged = (self.metrics.get(f"best_{name}") for name in names_of(metric))
        seen = (self._extreme(name) for name in names_of(metric))
        return next((value for value in (*logged, *seen) if value is not None), None)

    def _extreme(self, metric: str) -> float | None:
        low, high = self.extremes.get(metric, (None, None))
        return low if is_lower_better(metric) else high

    def values(self, name: str) -> tuple[Value, ...]:
        """What the run has under `name`, as an expression knows it."""
        name = HEADINGS.get(name, name)
        if name in ATTRIBUTES:
            return self.summary.values(name)
        if name in REGISTERED:
            return tuple(value for version in self.versions for value in version.values(name))
        kind, _, key = name.partition(".")
        kinds, key = ((kind,), key) if kind in KINDS else (KINDS, name)
        for kind in kinds:
            value = self.best(key) if kind == "metrics" else getattr(self, kind).get(key)
            if value is not None:
                return (value,)
        full = ending_in(name, self.params)
        return (self.params[full[0]],) if len(full) == 1 else ()

    @property
    def scores(self) -> tuple[str, ...]:
        """The metrics of an evaluation that `best` has a value for."""
        named = [name.removeprefix("best_") for name in self.metrics if name.startswith("best_")]
        seen = [name for name in self.extremes if SCORE.fullmatch(name)]
        return tuple(dict.fromkeys(name for name in named + seen if name != "epoch"))


def in_full(
    tables: Tables, summaries: Sequence[RunSummary], wanted: Sequence[str] = ()
) -> tuple[StoredRun, ...]:
    """In the order of `summaries`; `best` knows the metrics in `wanted` besides the scores."""
    run_ids = [summary.run_id for summary in summaries]
    params, tags = _texts(tables, "params", run_ids), _texts(tables, "tags", run_ids)
    metrics, versions = _latest_metrics(tables, run_ids), versions_by_run(tables, run_ids)
    extremes = _extremes(tables, metrics, {name for metric in wanted for name in names_of(metric)})
    return tuple(
        StoredRun(
            summary, tags[each], params[each], metrics[each], versions.get(each, ()), extremes.get(each, {})
        )
        for each, summary in zip(run_ids, summaries, strict=True)
    )


def versions_by_run(tables: Tables, run_ids: Sequence[str] | None = None) -> dict[str, tuple[Version, ...]]:
    """The versions made from these runs, or from all, the newest first."""
    aliases: dict[tuple[str, int], list[str]] = {}
    for model, number, alias in tables.rows(
        "SELECT a.name, a.version, a.alias FROM registered_model_aliases a ORDER BY a.alias"
    ):
        aliases.setdefault((model, int(number)), []).append(alias)
    query = (
        "SELECT v.run_id, v.name, v.version, v.current_stage FROM model_versions v"
        " WHERE v.current_stage <> 'Deleted_Internal'"
    )
    rows = (
        tables.rows(query) if run_ids is None else tables.of_runs(f"{query} AND v.run_id IN (:runs)", run_ids)
    )
    found: dict[str, list[Version]] = {}
    for run_id, model, number, stage in sorted(rows, key=lambda row: -int(row[2])):
        shown_stage = None if stage in (None, NO_STAGE) else stage
        version = Version(model, int(number), shown_stage, tuple(aliases.get((model, int(number)), ())))
        found.setdefault(run_id, []).append(version)
    return {run_id: tuple(versions) for run_id, versions in found.items()}


def ending_in(heading: str, settings: Iterable[str]) -> list[str]:
    """The settings that a table may call so: `rank` is `model.lora.rank`."""
    return [name for name in settings if name.endswith(f".{heading}")]


def names_of(metric: str) -> tuple[str, ...]:
    """The metric, and what a run of one task calls it: its `f1` is its `avg_f1`."""
    has_average = metric.startswith(("avg_", f"{BASELINE}avg_", f"{MAJORITY}avg_"))
    return (metric, metric.replace("avg_", "", 1)) if has_average else (metric,)


def _texts(tables: Tables, table: str, run_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    rows = tables.of_runs(
        f"SELECT t.run_uuid, t.key, t.value FROM {table} t WHERE t.run_uuid IN (:runs)", run_ids
    )
    return _by_run(run_ids, rows)


def _latest_metrics(tables: Tables, run_ids: Sequence[str]) -> dict[str, dict[str, float]]:
    rows = tables.of_runs(
        "SELECT m.run_uuid, m.key, m.value FROM latest_metrics m"
        " WHERE m.run_uuid IN (:runs) AND NOT m.is_nan",
        run_ids,
    )
    return _by_run(run_ids, rows)


def _by_run(run_ids: Iterable[str], rows: Iterable[tuple[str, str, T]]) -> dict[str, dict[str, T]]:
    texts: dict[str, dict[str, T]] = {run_id: {} for run_id in run_ids}
    for run_id, key, value in rows:
        texts[run_id][key] = value
    return texts


def _extremes(
    tables: Tables, metrics: Mapping[str, Mapping[str, float]], wanted: set[str]
) -> dict[str, dict[str, tuple[float, float]]]:
    extremes: dict[str, dict[str, tuple[float, float]]] = {}
    alike: dict[tuple[str, ...], list[str]] = {}
    for run_id, logged in metrics.items():
        names_here = [name for name in logged if name in wanted or SCORE.fullmatch(name)]
        open_ = [
            name for name in names_here if not name.startswith(ONLY_LATEST) and f"best_{name}" not in logged
        ]
        alike.setdefault(tuple(sorted(open_)), []).append(run_id)
    for names, run_ids in alike.items():
        extremes |= _extremes_alike(tables, names, run_ids) if names else {}
    return extremes


def _extremes_alike(
    tables: Tables, names: Sequence[str], run_ids: Sequence[str]
) -> dict[str, dict[str, tuple[float, float]]]:
    tables.need_history(run_ids, names)
    keys = {f"key{number}": name for number, name in enumerate(names)}
    rows = tables.of_runs(
        "SELECT m.run_uuid, m.key, MIN(m.value), MAX(m.value) FROM metrics m WHERE m.run_uuid IN (:runs)"
        f" AND m.key IN ({', '.join(f':{key}' for key in keys)}) AND NOT m.is_nan"
        " GROUP BY m.run_uuid, m.key",
        run_ids,
        **keys,
    )
    return _by_run(run_ids, [(run_id, key, (low, high)) for run_id, key, low, high in rows])
