"""A sweep as tables, as pictures and as a page: its best trials, and what mattered."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

from loratrack import disk
from loratrack.places import PLOTS
from loratrack.tuning.report import Report, settings_of, target_of
from loratrack.views import fonts
from loratrack.views.columns import NONE, Column, heading_of, number_text, score, setting_text
from loratrack.views.curves import DOTS_PER_INCH
from loratrack.views.page import render

if TYPE_CHECKING:
    import optuna

PAGE_FILE = "sweep.html"
MAX_COUNT = 1e13
MAX_TRIALS = 10
"""Rows in the table of the best trials."""
PAGE = """\
{% extends "page.html" %}
{% from "table.html" import table %}
{% block content %}
<h1>{{ title }}</h1>
<p>{{ counts }}</p>
<h2>best trials</h2>
<div class="wide">{{ table(trials) }}</div>
<h2>importance</h2>
<p>{{ evidence }}</p>
<div class="wide">{{ table(importances) }}</div>
{% for name, image in pictures %}
<h2>{{ name.replace("_", " ") }}</h2>
<img alt="{{ name }}" src="data:image/png;base64,{{ image }}">
{% endfor %}
{% endblock %}
"""


def best_trials(report: Report) -> list[Column]:
    """For each of the best trials its metrics, its settings and its run."""
    trials = report.best[:MAX_TRIALS]
    columns = [Column("trial", "trial", tuple(str(trial.number) for trial in trials))]
    for index, metric in enumerate(report.metrics):
        values = [trial.values[index] for trial in trials]
        cells = (score(value) if abs(value) < 1000 else count(value) for value in values)
        columns.append(Column(metric, metric, tuple(cells), rank=1))
    for name in report.settings:
        settings = [settings_of(trial) for trial in trials]
        cells = (setting_text(each[name]) if name in each else NONE for each in settings)
        columns.append(Column(name, heading_of(name, report.settings), tuple(cells), rank=3))
    runs = tuple(str(trial.user_attrs.get("run_id", NONE)) for trial in trials)
    return [*columns, Column("run_id", "run", runs, rank=2)]


def trial_rows(report: Report) -> list[list[str]]:
    """The same as a heading and rows."""
    columns = best_trials(report)
    rows = zip(*(column.cells for column in columns), strict=True)
    return [[column.heading for column in columns], *map(list, rows)]


def facts(report: Report) -> dict[str, Any]:
    """The same with nothing rounded or left out."""
    return {
        "name": report.name,
        "metrics": list(report.metrics),
        "counts": report.counts,
        "best": [
            {
                "trial": trial.number,
                "run_id": trial.user_attrs.get("run_id"),
                "metrics": dict(zip(report.metrics, trial.values, strict=True)),
                "settings": settings_of(trial),
            }
            for trial in report.best
        ],
        "importances": report.importances,
        "evidence": report.evidence,
    }


def count(value: float) -> str:
    """`294,912`, as of parameters; a loss that went wrong may be longer than a table is wide."""
    return f"{value:,.0f}" if abs(value) < MAX_COUNT else number_text(value)


def importances(report: Report) -> list[list[str]]:
    """A heading, then for each setting its share in the differences of each metric; none, with few trials."""
    by_metric = report.importances
    settings = list(next(iter(by_metric.values()), {}))
    rows = [[name, *(f"{shares[name]:.2f}" for shares in by_metric.values())] for name in settings]
    return [["setting", *by_metric], *rows]


def write(study: optuna.Study, report: Report, folder: Path) -> Path:
    """Pictures, and a page that holds them; gives the page."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw(study, report, folder / PLOTS)
    disk.write_text(folder / PAGE_FILE, page(report, pictures))
    return folder / PAGE_FILE


def page(report: Report, pictures: Sequence[Path]) -> str:
    """One HTML file that needs no other."""
    trials, shares = trial_rows(report), importances(report)
    return render(
        PAGE,
        title=f"sweep {report.name}",
        counts=", ".join(f"{count} {state}" for state, count in report.counts.items()),
        trials=trials,
        evidence=report.evidence,
        importances=shares if len(shares) > 1 else [],
        pictures=[(file.stem, base64.b64encode(file.read_bytes()).decode()) for file in pictures],
    )


def draw(study: optuna.Study, report: Report, folder: Path) -> list[Path]:
    """Optuna's own pictures of the study as PNG files; none before a trial has ended."""
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as plots

    folder.mkdir(parents=True, exist_ok=True)
    if not report.best:
        return []
    figures: dict[str, Callable[[], Any]] = {}
    if len(report.metrics) > 1:
        names = list(report.metrics)
        first: dict[str, Any] = {"target": lambda trial: trial.values[0], "target_name": names[0]}
        if len(names) < 4:  # Optuna draws fronts of two or three objectives
            figures["front"] = lambda: plots.plot_pareto_front(study, target_names=names)
    else:
        first = {"target_name": report.metrics[0]}
    figures["history"] = lambda: plots.plot_optimization_history(study, **first)
    figures["parallel_coordinates"] = lambda: plots.plot_parallel_coordinate(study, **first)
    figures["slices"] = lambda: plots.plot_slice(study, **first)
    if report.importances:
        figures["importance"] = lambda: plots.plot_param_importances(
            study, target=target_of(study, 0), target_name=report.metrics[0]
        )
    plt.switch_backend("agg")
    files = []
    for name, plot in figures.items():
        with matplotlib.rc_context({"font.family": fonts.families()}), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's plots are experimental, and warn of missing trials
            axes = plot()
            figure = axes.flat[0].figure if hasattr(axes, "flat") else axes.figure
            if name == "parallel_coordinates":  # Optuna leaves no room for the numbers of many axes
                figure.set_size_inches(2.2 * len(report.settings) + 4, 5)
            file = folder / f"{name}.png"
            figure.savefig(file, dpi=DOTS_PER_INCH, bbox_inches="tight")
        plt.close("all")
        files.append(file)
    return files
