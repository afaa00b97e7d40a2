"""A comparison of runs as data: what `compare` prints, `--json` writes and a page shows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypedDict

from loratrack.index.comparisons import Value
from loratrack.index.runs import StoredRun
from loratrack.index.search import SearchResult
from loratrack.store import links
from loratrack.views import columns

Json = object
"""Whatever JSON can hold: mappings, lists, texts, numbers, None."""


MAX_STOPPED = 5
"""Runs that are told to be stopped."""


class Comparison(TypedDict):
    total: int
    """Runs that match, of which `runs` are the first."""
    in_store: int
    runs: list[dict[str, Json]]


def comparison(result: SearchResult, names: Sequence[str] = (), *, is_diff: bool = False) -> Comparison:
    """The runs in full, with the values called `names` only, or with only the settings that differ."""
    if names:
        runs = [
            {"run_id": run.summary.run_id} | {name: _one_or_all(run.values(name)) for name in names}
            for run in result.runs
        ]
    else:
        settings = columns.differing_settings(result.runs) if is_diff else None
        runs = [run_facts(run, settings) for run in result.runs]
    return {"total": result.total, "in_store": result.num_in_store, "runs": runs}


def run_facts(run: StoredRun, settings: Sequence[str] | None = None) -> dict[str, Json]:
    """A run with these of its settings, or with all."""
    summary = run.summary
    names = list(run.params) if settings is None else settings
    return {
        "run_id": summary.run_id,
        "exp_id": summary.exp_id,
        "name": summary.name,
        "experiment": summary.experiment,
        "status": summary.status,
        "stopped_at": None if (left := columns.stopped(run)) is None else str(left.about),
        "started": moment(summary.started_ms),
        "ended": None if summary.ended_ms is None else moment(summary.ended_ms),
        "duration_seconds": summary.duration_seconds,
        "tags": {name: text for name, text in run.tags.items() if not name.startswith("mlflow.")},
        "settings": {name: run.params.get(name) for name in names},
        "best": {name: run.best(name) for name in run.scores},
        "metrics": dict(run.metrics),
        "versions": [
            {"model": each.model, "version": each.number, "stage": each.stage, "aliases": list(each.aliases)}
            for each in run.versions
        ],
        "link": links.run_page(summary.experiment_id, summary.run_id),
    }


def remarks(result: SearchResult, *, sort_by: str | None = None, is_diff: bool = False) -> list[str]:
    """What to know about the table: nothing differs, how many runs there are, in which order."""
    lines = []
    if is_diff and not columns.differing_settings(result.runs):
        same = "these runs have identical settings"
        sources = columns.differing_sources(result.runs)
        lines.append(f"{same}, but not the same {' and '.join(sources)}" if sources else same)
    order = f"sorted by {sort_by}" if sort_by else "newest first"
    more = "" if len(result.runs) == result.total else "; --limit shows more"
    if result.num_failed:
        more += f"; {result.num_failed:,} failed, shown with --all"
    lines.append(f"{len(result.runs):,} of {result.total:,} runs, {order}{more}")
    left = [(run, each) for run in result.runs if (each := columns.stopped(run)) is not None]
    lines += [f"{run.summary.exp_id} stopped at {each}" for run, each in left[:MAX_STOPPED]]
    if len(left) > MAX_STOPPED:
        lines.append(f"and {len(left) - MAX_STOPPED} more that can be resumed")
    return lines


def moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")


def _one_or_all(values: Sequence[Value]) -> Json:
    return values[0] if len(values) == 1 else list(values) or None
