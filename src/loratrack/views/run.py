"""One run as data: what `show` prints, `--json` writes and a page shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from loratrack.errors import printable
from loratrack.index import detail as details
from loratrack.index.detail import TRIAL, Detail
from loratrack.index.runs import SWEEP, StoredRun, names_of
from loratrack.places import ENVIRONMENT
from loratrack.store import links
from loratrack.store.client import ERROR_TAG
from loratrack.views.columns import (
    NONE,
    NOT_SETTINGS,
    SECTIONS,
    Column,
    duration,
    score,
    shortened,
    state,
    stopped,
    text_of,
)
from loratrack.views.comparison import Json, run_facts

MAX_EPOCHS = 12
"""Rows in the table of epochs."""
KEPT_BY = "train.save_strategy"
"""The setting that says by which metric an epoch is kept."""
MAX_VALUE_WIDTH = 32
NAMED_PACKAGES = ("torch", "transformers", "peft")


def run(detail: Detail) -> dict[str, Json]:
    return run_facts(detail.run) | {
        "best_epoch": detail.best_epoch,
        "epochs": {str(epoch): values for epoch, values in detail.epochs.items()},
        "datasets": [
            {"name": each.name, "context": each.context, "rows": each.num_rows, "sha256": each.sha256}
            for each in detail.datasets
        ],
        "artifact_uri": detail.artifact_uri,
        "artifacts": list(detail.artifacts),
        "environment": detail.environment,
        "notices": list(detail.notices),
    }


def head(detail: Detail) -> list[str]:
    """What the run is, on a few lines."""
    run, summary = detail.run, detail.run.summary
    seconds = summary.duration_seconds
    states = [state(run), *(run.tags.get(name) for name in ("task_type", "project", "device"))]
    newer, left = detail.newer, stopped(run)
    is_gone = state(run) != summary.status
    description, error = run.params.get("description"), run.tags.get(ERROR_TAG)
    title = f"{summary.name}  sweep of {summary.exp_id}" if is_sweep(run) else summary.exp_id
    return [
        f"{printable(title)}  {'  '.join(printable(state) for state in states if state)}",
        *([printable(description)] if description else []),
        *([f"stopped at   {left}"] if left else []),
        *(["its process is gone: loratrack doctor --fix"] if is_gone and not left else []),
        *([f"error        {printable(error.splitlines()[0])}"] if error else []),
        *([f"newer        {newer.run_id} is {newer.status}"] if newer else []),
        f"run          {summary.run_id}",
        f"started      {text_of('started', summary.started_ms / 1000)}"
        + ("" if seconds is None else f", took {duration(seconds)}"),
        f"MLflow       {links.run_page(summary.experiment_id, summary.run_id)}",
        *(f"registered   {version}" for version in run.versions),
    ]


def scores(detail: Detail) -> list[list[str]]:
    """A heading, then a row for each task: the scores at its best epoch, and of a test set if it has one."""
    at = "best" if detail.best_epoch is None else f"epoch {detail.best_epoch}"
    has_test = any(name.startswith("test_") for name in detail.run.metrics)
    rows = [["task", f"F1, {at}", f"accuracy, {at}", *(["test F1", "test accuracy"] if has_test else [])]]
    for task, prefix in details.tasks(detail.run.scores).items():
        names = [f"{prefix}{measure}" for measure in ("f1", "accuracy")]
        values = [detail.run.best(name) for name in names]
        values += [detail.run.metrics.get(f"test_{name}") for name in names if has_test]
        rows.append([task, *(NONE if value is None else score(value) for value in values)])
    return rows


def is_sweep(run: StoredRun) -> bool:
    """Whether the run is that of a sweep itself, which has a step for each trial."""
    return any(name.startswith(SWEEP) for name in run.params)


def _by_importance(run: StoredRun, names: Iterable[str]) -> list[str]:
    """First the metric by which the epoch was kept, then each F1, the losses, and the rest."""
    kept_by = names_of(run.params.get(KEPT_BY, "").removeprefix("best_"))

    def importance(name: str) -> tuple[object, ...]:
        is_f1, is_loss, is_average = name.endswith("f1"), name.endswith("/loss"), name.startswith("avg_")
        return name not in kept_by, not is_f1, not is_loss, "/" in name, not is_average, name

    return sorted(names, key=importance)


@dataclass(frozen=True)
class EpochTable:
    columns: list[Column]
    num_left_out: int
    """Epochs for which there is no row."""


def epochs(detail: Detail) -> EpochTable:
    """A row for each epoch, the best one marked; of many evenly chosen ones, the last and the best.

    A sweep has a row for each trial.
    """
    rows, what = detail.epochs, "epoch"
    if is_sweep(detail.run):
        of_trials = {number: _of_trial(values) for number, values in detail.epochs.items()}
        rows, what = {number: values for number, values in of_trials.items() if values}, "trial"
    step = -(-len(rows) // MAX_EPOCHS)
    newest_first = reversed(list(rows))
    chosen = [
        number for age, number in enumerate(newest_first) if age % step == 0 or number == detail.best_epoch
    ][::-1]
    names = dict.fromkeys(name for values in rows.values() for name in values)
    marks = tuple(f"{'*' if number == detail.best_epoch else ''}{number}" for number in chosen)
    columns = [Column(what, what, marks)]
    for name in _by_importance(detail.run, names):
        values = [rows[number].get(name) for number in chosen]
        cells = tuple(NONE if value is None else text_of(name, value) for value in values)
        columns.append(Column(name, name, cells, rank=len(columns)))
    return EpochTable(columns, len(rows) - len(chosen))


def _of_trial(values: Mapping[str, float]) -> dict[str, float]:
    """Under its own name a sweep has logged the best value so far."""
    return {name.removeprefix(TRIAL): value for name, value in values.items() if name.startswith(TRIAL)}


def settings(detail: Detail) -> dict[str, dict[str, str]]:
    """The settings of each section of the config; those of no section are under `other`."""
    sections: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for name, value in detail.run.params.items():
        if name in NOT_SETTINGS:
            continue
        section, _, rest = name.partition(".")
        text = shortened(text_of(name, value), MAX_VALUE_WIDTH)
        if rest and section in SECTIONS:
            sections[section][rest] = text
        else:  # a sweep's own settings too
            sections.setdefault("other", {})[name] = text
    return {section: values for section, values in sections.items() if values}


def tail(detail: Detail) -> list[str]:
    """What the run has read, where its files lie, where it was trained, and its notices."""
    lines = [f"dataset      {each}" for each in detail.datasets]
    lines += [f"artifacts    {detail.artifact_uri}", f"             {'  '.join(detail.artifacts) or 'none'}"]
    if detail.environment is not None:
        try:
            lines.append(f"environment  {environment(detail.environment)}")
        except (TypeError, AttributeError, KeyError):  # somebody has changed the file
            lines.append(f"environment  {ENVIRONMENT} is not as a run writes it")
    return lines + [f"notice       {line}" for line in detail.notices]


def environment(facts: Mapping[str, Any]) -> str:
    """Of `env_info.json` the Python, the packages that matter, devices, system, and the code's commit."""
    packages = facts.get("packages") or {}
    git = facts.get("git") or {}
    devices = [device["name"] for device in (facts.get("gpu") or {}).get("devices", [])]
    parts = [
        f"Python {str(facts.get('python', '')).split(' ')[0]}",
        *(f"{name} {packages[name]}" for name in NAMED_PACKAGES if name in packages),
        *(devices or [(facts.get("cpu") or {}).get("model")]),
        facts.get("os"),
        f"commit {git['commit'][:10]}{' with changes' if git.get('dirty') else ''}" if git else None,
    ]
    return ", ".join(str(part) for part in parts if part)
