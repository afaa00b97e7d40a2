"""Runs in one picture: bars for a few, parallel coordinates for many.

It is a PNG, or a page that needs no network.
"""

from __future__ import annotations

import html
import io
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import colormaps
from matplotlib.figure import Figure

from loratrack.index.comparisons import number
from loratrack.index.runs import StoredRun
from loratrack.metrics import is_lower_better
from loratrack.store import links
from loratrack.views import columns
from loratrack.views.curves import DOTS_PER_INCH, drawable, fonts

MAX_BARS = 12
"""Runs; more are drawn as parallel coordinates, where their settings differ."""
MAX_ROWS = 60
"""Runs drawn as bars where no setting differs."""
MAX_METRICS = 4
MAX_AXES = 8
MAX_NUMBERS, MAX_TEXTS = 6, 20
"""Written at one axis."""
MAX_LABEL_WIDTH = 18
BELOW = -0.06
"""Where a run lies that has no value."""
LOGARITHMIC_RATIO = 50
"""From this ratio of largest to smallest on an axis is logarithmic."""
COLOURS = ("#3b6fb6", "#e08e3c", "#5aa469", "#a6669e")
GREY = "#bbbbbb"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
svg { max-width: 100%; height: auto }
g[id^=run-]:hover path { stroke: #d62728 !important; stroke-width: 4 !important }
.wide { overflow-x: auto }
table { border-collapse: collapse; white-space: nowrap }
th, td { text-align: left; padding: .25rem .75rem; border-bottom: 1px solid #ddd }
"""


def draw(file: Path, runs: Sequence[StoredRun], sort_by: str | None) -> None:
    """Write the picture of `runs`; the ending of `file` says which kind."""
    metrics = _metrics(runs, sort_by)
    settings = columns.differing_settings(runs)
    is_page = file.suffix.lower() == ".html"
    write = str if is_page else drawable  # a page is shown with the fonts of whoever reads it
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcParams |= {"font.family": fonts(), "axes.unicode_minus": False, "svg.fonttype": "none"}
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        if len(runs) <= MAX_BARS or not settings:
            figure = _bars(runs[:MAX_ROWS], metrics, write)
        else:
            figure = _parallel(runs, settings[: MAX_AXES - 1], metrics[0] if metrics else None, write)
        content = _page(figure, runs, sort_by).encode() if is_page else _rendered(figure, "png")
    draft = file.with_name(f".{file.name}.{os.getpid()}.draft")
    draft.write_bytes(content)
    draft.rename(file)


def _metrics(runs: Sequence[StoredRun], sort_by: str | None) -> list[str]:
    """What the runs are sorted by, if it is a metric, then their scores."""
    scores = columns.scores(runs)
    is_metric = sort_by is not None and any(run.best(sort_by) is not None for run in runs)
    return list(dict.fromkeys([*([sort_by] if sort_by and is_metric else []), *scores]))


def _bars(runs: Sequence[StoredRun], metrics: Sequence[str], write: Callable[[str], str]) -> Figure:
    shown = metrics[:MAX_METRICS]
    height = 0.8 / max(1, len(shown))
    figure = Figure(figsize=(8, 1.4 + len(runs) * (0.2 + 0.22 * len(shown))), layout="constrained")
    axes = figure.add_subplot()
    for place, metric in enumerate(shown):
        for row, run in enumerate(runs):
            value = run.best(metric)
            where = row - 0.4 + height * (place + 0.5)
            [bar] = axes.barh(where, value or 0, height, color=COLOURS[place], label=metric)
            bar.set_gid(f"run-{row}-{place}")
            text = columns.NONE if value is None else f"{value:.4g}"
            axes.annotate(
                text, (value or 0, where), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
    axes.set_yticks(range(len(runs)), [write(_name(run)) for run in runs], parse_math=False)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    axes.set_title("best epoch of each run", loc="left", fontweight="bold")
    handles, labels = axes.get_legend_handles_labels()
    alone = dict(zip(labels, handles, strict=True))
    figure.legend(alone.values(), alone.keys(), loc="outside lower center", ncols=MAX_METRICS, frameon=False)
    return figure


def _parallel(
    runs: Sequence[StoredRun], settings: Sequence[str], metric: str | None, write: Callable[[str], str]
) -> Figure:
    names = [*settings, *([metric] if metric else [])]
    scales = [_scale([_text(run, name) for run in runs]) for name in names]
    figure = Figure(figsize=(2 + 1.7 * len(names), 6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    colours = _colours(runs, metric)
    for row in reversed(range(len(runs))):  # the best lie on top
        heights = [scale.heights[_text(runs[row], name)] for scale, name in zip(scales, names, strict=True)]
        [line] = axes.plot(range(len(names)), heights, color=colours[row], linewidth=1.6, alpha=0.8)
        line.set_gid(f"run-{row}-0")
    for place, (name, scale) in enumerate(zip(names, scales, strict=True)):
        _axis(axes, place, name, scale, write)
    axes.set_xlim(-0.3, len(names) - 0.3)
    axes.set_ylim(-0.1, 1.12)
    axes.set_title(f"{len(runs)} runs", loc="left", fontweight="bold")
    return figure


@dataclass(frozen=True)
class _Scale:
    heights: Mapping[str, float]
    """Of each value that a run has."""
    ticks: Mapping[str, float]
    """What is written at the axis."""


def _scale(texts: Sequence[str]) -> _Scale:
    """Numbers by size, texts by alphabet; runs without a value lie below."""
    having = sorted(set(texts) - {columns.NONE})
    values = {text: value for text in having if (value := number(text)) is not None}
    below = {columns.NONE: BELOW} if columns.NONE in texts else {}
    if not having or len(values) < len(having):
        heights = {text: place / max(1, len(having) - 1) for place, text in enumerate(having)}
        every = math.ceil(len(having) / MAX_TEXTS)
        return _Scale(heights | below, {text: heights[text] for text in having[::every]} | below)
    low, high = min(values.values()), max(values.values())
    is_logarithmic = low > 0 and high / low >= LOGARITHMIC_RATIO

    def height(value: float) -> float:
        if low == high:
            return 0.5
        return math.log(value / low, high / low) if is_logarithmic else (value - low) / (high - low)

    marks = sorted(set(values.values()))
    if len(marks) > MAX_NUMBERS:
        steps = [n / (MAX_NUMBERS - 1) for n in range(MAX_NUMBERS)]
        marks = [low * (high / low) ** n if is_logarithmic else low + (high - low) * n for n in steps]
    ticks = {f"{mark:.4g}": height(mark) for mark in marks}
    return _Scale({text: height(value) for text, value in values.items()} | below, ticks | below)


def _axis(axes: Any, place: int, name: str, scale: _Scale, write: Callable[[str], str]) -> None:
    axes.plot([place, place], [0, 1], color="#555555", linewidth=1)
    heading = write(columns.shortened(name, MAX_LABEL_WIDTH))
    axes.text(place, 1.05, heading, ha="center", fontweight="bold", parse_math=False)
    for text, height in scale.ticks.items():
        axes.text(
            place - 0.03,
            height,
            write(columns.shortened(text, MAX_LABEL_WIDTH)),
            ha="right",
            va="center",
            fontsize=8,
            parse_math=False,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
        )


def _colours(runs: Sequence[StoredRun], metric: str | None) -> list[Any]:
    """From dark for the worst to bright for the best; grey where there is no value."""
    values = [None if metric is None else run.best(metric) for run in runs]
    known = sorted(value for value in values if value is not None)
    if metric is not None and is_lower_better(metric):
        known.reverse()
    last = max(1, len(known) - 1)
    colour = colormaps["viridis"]
    return [GREY if value is None else colour(0.9 * known.index(value) / last) for value in values]


def _text(run: StoredRun, name: str) -> str:
    """In full, for numbers are placed by it."""
    values = [str(value) for value in run.values(name) if value != "None"]
    return ", ".join(values) or columns.NONE


def _name(run: StoredRun) -> str:
    return f"{columns.shortened(run.summary.exp_id)}  {run.summary.run_id[: columns.SHORT_HASH]}"


def _rendered(figure: Figure, kind: str) -> bytes:
    target = io.BytesIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None} if kind == "svg" else None
    figure.savefig(
        target, format=kind, dpi=DOTS_PER_INCH, bbox_inches="tight", pad_inches=0.15, metadata=nothing
    )
    return target.getvalue()


def _page(figure: Figure, runs: Sequence[StoredRun], sort_by: str | None) -> str:
    """The picture and the table; a bar or line says its run, and stands out, under the pointer."""
    svg = _rendered(figure, "svg").decode()
    svg = svg[svg.index("<svg") :]
    for row, run in enumerate(runs):
        told = html.escape(f"{run.summary.exp_id} {run.summary.run_id}")
        for place in range(MAX_METRICS):
            group = f'<g id="run-{row}-{place}">'
            svg = svg.replace(group, f"{group}<title>{told}</title>")
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>loratrack compare</title>\n'
        f'<style>{STYLE}</style>\n<div class="wide">{svg}</div>\n'
        f'<div class="wide">{_table(runs, sort_by)}</div>\n</html>\n'
    )


def _table(runs: Sequence[StoredRun], sort_by: str | None) -> str:
    side_by_side = columns.columns(runs, sort_by=sort_by)
    summary = "".join(f"<th>{html.escape(column.heading)}</th>" for column in side_by_side)
    rows = []
    for row, run in enumerate(runs):
        page = html.escape(links.run_page(run.summary.experiment_id, run.summary.run_id))
        cells = [html.escape(column.cells[row]) for column in side_by_side]
        cells[0] = f'<a href="{page}">{cells[0]}</a>'
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table>\n<tr>{summary}</tr>\n" + "\n".join(rows) + "\n</table>"
