"""What came of a sweep: its best trials, what mattered, pictures, and a page that holds all of it."""

from __future__ import annotations

import base64
import html
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

METHOD = "PED-ANOVA"
MIN_TRIALS = 50
"""Importances from fewer finished trials are weak evidence."""
MIN_TRIALS_FOR_IMPORTANCE = 4
DOTS_PER_INCH = 120
NUM_SHOWN = 10

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:left}"
    "img{max-width:100%;height:auto;display:block}"
)


@dataclass(frozen=True)
class Report:
    name: str
    metrics: tuple[str, ...]
    counts: dict[str, int]
    """How many trials ended in which way."""
    best: tuple[FrozenTrial, ...]
    """Best first; of several objectives the whole front."""
    params: tuple[str, ...]
    importances: dict[str, dict[str, float]]
    """For each metric the share of each setting."""
    evidence: str
    """Method and number of trials behind the importances."""


def report(study: optuna.Study) -> Report:
    metrics = tuple(study.metric_names or ["value"])
    trials = study.get_trials(deepcopy=False)
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return Report(
        name=study.study_name,
        metrics=metrics,
        counts=_counts(trials),
        best=tuple(_best(study, done)),
        params=tuple(dict.fromkeys(name for trial in done for name in trial.params)),
        importances=_importances(study, metrics) if len(done) >= MIN_TRIALS_FOR_IMPORTANCE else {},
        evidence=_evidence(len(done)),
    )


def draw(study: optuna.Study, found: Report, folder: Path) -> list[Path]:
    """The pictures as PNG files."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, plot in _plots(study, found).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's plots are experimental, and warn of missing trials
            axes = plot()
            figure = axes.flat[0].figure if hasattr(axes, "flat") else axes.figure
            file = folder / f"{name}.png"
            if name == "parallel_coordinates":  # Optuna leaves no room for the numbers of many axes
                figure.set_size_inches(2.2 * len(found.params) + 4, 5)
            figure.savefig(file, dpi=DOTS_PER_INCH, bbox_inches="tight")
        plt.close("all")
        files.append(file)
    return files


def page(found: Report, pictures: list[Path]) -> str:
    """One HTML file that needs no other."""
    images = "".join(
        f'<h2>{file.stem.replace("_", " ")}</h2><img alt="{file.stem}"'
        f' src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}">'
        for file in pictures
    )
    counts = ", ".join(f"{count} {state}" for state, count in found.counts.items())
    title = html.escape(f"sweep {found.name}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style><h1>{title}</h1><p>{counts}</p>"
        f"<h2>best trials</h2>{_table(rows(found))}"
        f"<h2>importance</h2><p>{html.escape(found.evidence)}</p>{_table(importance_rows(found))}{images}</html>"
    )


def rows(found: Report) -> list[list[str]]:
    """A heading, then one row for each of the best trials."""
    heading = ["trial", *found.metrics, *found.params, "run"]
    return [heading, *(_row(found, trial) for trial in found.best[:NUM_SHOWN])]


def importance_rows(found: Report) -> list[list[str]]:
    if not found.importances:
        return []
    names = list(next(iter(found.importances.values())))
    shares = [[name, *(f"{found.importances[m][name]:.2f}" for m in found.importances)] for name in names]
    return [["setting", *found.importances], *shares]


def _row(found: Report, trial: FrozenTrial) -> list[str]:
    values = [f"{value:.4f}" if value < 1000 else f"{value:,.0f}" for value in trial.values]
    params = [_shown(trial.params.get(name)) for name in found.params]
    return [str(trial.number), *values, *params, str(trial.user_attrs.get("run_id", ""))]


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(lines: list[list[str]]) -> str:
    if not lines:
        return ""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in lines[0])
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in lines[1:]
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _counts(trials: list[FrozenTrial]) -> dict[str, int]:
    states = [trial.state.name.lower() for trial in trials]
    return {state: states.count(state) for state in dict.fromkeys(states)}


def _best(study: optuna.Study, done: list[FrozenTrial]) -> list[FrozenTrial]:
    sign = -1 if study.directions[0].name == "MAXIMIZE" else 1
    candidates = done if len(study.directions) == 1 else study.best_trials
    return sorted(candidates, key=lambda trial: sign * trial.values[0])


def _importances(study: optuna.Study, metrics: tuple[str, ...]) -> dict[str, dict[str, float]]:
    def of(place: int) -> dict[str, float]:
        target: Callable[[FrozenTrial], float] | None = (
            None if len(metrics) == 1 else lambda trial: float(trial.values[place])
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: Mapping[str, float] = optuna.importance.get_param_importances(study, target=target)
        return dict(found)

    return {metric: of(place) for place, metric in enumerate(metrics)}


def _evidence(num_trials: int) -> str:
    if num_trials < MIN_TRIALS_FOR_IMPORTANCE:
        return f"{num_trials} finished trials are too few to say what matters"
    weak = f"; weak evidence, since it is fewer than {MIN_TRIALS}" if num_trials < MIN_TRIALS else ""
    return f"{METHOD} over {num_trials} finished trials{weak}"


def _plots(study: optuna.Study, found: Report) -> dict[str, Callable[[], Any]]:
    from optuna.visualization import matplotlib as plots

    if not found.best:
        return {}
    if len(found.metrics) > 1:
        names = list(found.metrics)
        front = (
            {"front": lambda: plots.plot_pareto_front(study, target_names=names)} if len(names) < 4 else {}
        )
        first: dict[str, Any] = {"target": lambda t: t.values[0], "target_name": names[0]}
    else:
        front, first = {}, {"target_name": found.metrics[0]}
    drawn: dict[str, Callable[[], Any]] = {
        **front,
        "history": lambda: plots.plot_optimization_history(study, **first),
        "parallel_coordinates": lambda: plots.plot_parallel_coordinate(study, **first),
        "slices": lambda: plots.plot_slice(study, **first),
    }
    if found.importances:
        drawn["importance"] = lambda: plots.plot_param_importances(study, **first)
    return drawn
