"""Runs in one picture: bars for a few, parallel coordinates for many.

It is a PNG, or an HTML page that needs no network.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib
from markupsafe import Markup, escape
from matplotlib import colormaps
from matplotlib.figure import Figure

from loratrack import disk
from loratrack.index.comparisons import number
from loratrack.index.runs import StoredRun
from loratrack.metrics import is_lower_better
from loratrack.store import links
from loratrack.views import columns, fonts
from loratrack.views.curves import DOTS_PER_INCH
from loratrack.views.page import render

MAX_BARS = 12
"""Runs; more are drawn as parallel coordinates, where their settings differ."""
MAX_BARS_OF_EQUALS = 60
"""Runs drawn as bars where no setting differs."""
MAX_METRICS = 4
MAX_AXES = 8
MAX_NUMBERS, MAX_TEXTS = 6, 20
"""Ticks of one axis."""
MAX_LABEL_WIDTH = 18
MISSING_HEIGHT = -0.06
"""Where a run crosses an axis on which it has no value: below it."""
MIN_LOGARITHMIC_RATIO = 50
"""From this ratio of largest to smallest on, an axis is logarithmic."""
COLOURS = ("#3b6fb6", "#e08e3c", "#5aa469", "#a6669e")
GREY = "#bbbbbb"
PAGE = """\
{% extends "page.html" %}
{% from "table.html" import table %}
{% block content %}
<div class="wide">{{ svg }}</div>
<div class="wide">{{ table(rows, links) }}</div>
{% endblock %}
"""

Drawable = Callable[[str], str]
"""What a text is written as in the picture."""
Colour = str | tuple[float, float, float, float]


def draw(file: Path, runs: Sequence[StoredRun], sort_by: str | None) -> str | None:
    """Write the picture of `runs`; the ending of `file`, .png or .html, says which kind.

    Gives a notice where characters cannot be drawn.
    """
    metrics = columns.scores(runs)
    if sort_by is not None and any(run.best(sort_by) is not None for run in runs):
        metrics = list(dict.fromkeys([sort_by, *metrics]))
    settings = columns.differing_settings(runs)
    is_page = file.suffix.lower() == ".html"
    texts: list[str] = []

    def write(text: str) -> str:
        texts.append(text)
        return text if is_page else fonts.drawable(text)  # a page has the fonts of whoever reads it

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcParams |= {
            "font.family": fonts.families(),
            "axes.unicode_minus": False,
            "svg.fonttype": "none",
        }
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        if len(runs) <= MAX_BARS or not settings:
            figure = bars(runs[:MAX_BARS_OF_EQUALS], metrics[:MAX_METRICS], write)
        else:
            names = [*settings[: MAX_AXES - 1], *metrics[:1]]
            figure = parallel_coordinates(runs, names, metrics[0] if metrics else None, write)
        content = page(figure, runs, sort_by).encode() if is_page else _rendered(figure, "png")
    with disk.whole_file(file) as draft:
        draft.write_bytes(content)
    return None if is_page else fonts.notice(texts)


def bars(runs: Sequence[StoredRun], metrics: Sequence[str], write: Drawable) -> Figure:
    """For each run one bar a metric."""
    height = 0.8 / max(1, len(metrics))
    figure = Figure(figsize=(8, 1.4 + len(runs) * (0.2 + 0.22 * len(metrics))), layout="constrained")
    axes = figure.add_subplot()
    for index, metric in enumerate(metrics):
        for row, run in enumerate(runs):
            value = run.best(metric)
            y = row - 0.4 + height * (index + 0.5)
            [bar] = axes.barh(y, value or 0, height, color=COLOURS[index], label=write(metric))
            bar.set_gid(f"run-{row}-{index}")
            text = columns.NONE if value is None else f"{value:.4g}"
            axes.annotate(text, (value or 0, y), (4, 0), textcoords="offset points", va="center", fontsize=8)
    names = [
        f"{columns.shortened(run.summary.exp_id)}  {run.summary.run_id[: columns.SHORT_HASH]}" for run in runs
    ]
    axes.set_yticks(range(len(runs)), list(map(write, names)), parse_math=False)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    axes.set_title("best epoch of each run", loc="left", fontweight="bold")
    handles, labels = axes.get_legend_handles_labels()
    one_each = dict(zip(labels, handles, strict=True))
    figure.legend(
        one_each.values(), one_each.keys(), loc="outside lower center", ncols=MAX_METRICS, frameon=False
    )
    return figure


def parallel_coordinates(
    runs: Sequence[StoredRun], names: Sequence[str], metric: str | None, write: Drawable
) -> Figure:
    """A line for each run through an axis for each name, coloured by `metric`; `runs` has the best first."""

    def text(run: StoredRun, name: str) -> str:
        """In full, for its place on the axis follows from it."""
        return ", ".join(str(value) for value in run.values(name) if value != "None") or columns.NONE

    scales = [scale([text(run, name) for run in runs]) for name in names]
    colours = ranked_colours(runs, metric)
    figure = Figure(figsize=(2 + 1.7 * len(names), 6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    for row in reversed(range(len(runs))):  # the best lie on top
        heights = [each.heights[text(runs[row], name)] for each, name in zip(scales, names, strict=True)]
        [line] = axes.plot(range(len(names)), heights, color=colours[row], linewidth=1.6, alpha=0.8)
        line.set_gid(f"run-{row}-0")
    for x, (name, each) in enumerate(zip(names, scales, strict=True)):
        axes.plot([x, x], [0, 1], color="#555555", linewidth=1)
        heading = write(columns.shortened(name, MAX_LABEL_WIDTH))
        axes.text(x, 1.05, heading, ha="center", fontweight="bold", parse_math=False)
        for tick, height in each.ticks.items():
            axes.text(
                x - 0.03,
                height,
                write(columns.shortened(tick, MAX_LABEL_WIDTH)),
                ha="right",
                va="center",
                fontsize=8,
                parse_math=False,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
            )
    axes.set_xlim(-0.3, len(names) - 0.3)
    axes.set_ylim(-0.1, 1.12)
    axes.set_title(f"{len(runs)} runs", loc="left", fontweight="bold")
    return figure


@dataclass(frozen=True)
class Scale:
    """One axis, from 0 at its foot to 1 at its top."""

    heights: Mapping[str, float]
    """Of each value that a run has."""
    ticks: Mapping[str, float]
    """What is written at the axis."""


def scale(texts: Sequence[str]) -> Scale:
    """Numbers by size, texts by alphabet; runs without a value lie below the axis."""
    values = sorted(set(texts) - {columns.NONE})
    numbers = {text: value for text in values if (value := number(text)) is not None}
    missing = {columns.NONE: MISSING_HEIGHT} if columns.NONE in texts else {}
    if not values or len(numbers) < len(values):
        heights = {text: index / max(1, len(values) - 1) for index, text in enumerate(values)}
        step = math.ceil(len(values) / MAX_TEXTS)
        return Scale(heights | missing, {text: heights[text] for text in values[::step]} | missing)
    low, high = min(numbers.values()), max(numbers.values())
    is_logarithmic = low > 0 and high / low >= MIN_LOGARITHMIC_RATIO

    def height(value: float) -> float:
        if low == high:
            return 0.5
        return math.log(value / low, high / low) if is_logarithmic else (value - low) / (high - low)

    marks = sorted(set(numbers.values()))
    if len(marks) > MAX_NUMBERS:
        shares = [index / (MAX_NUMBERS - 1) for index in range(MAX_NUMBERS)]
        marks = [
            low * (high / low) ** share if is_logarithmic else low + (high - low) * share for share in shares
        ]
    ticks = {f"{mark:.4g}": height(mark) for mark in marks}
    return Scale({text: height(value) for text, value in numbers.items()} | missing, ticks | missing)


def ranked_colours(runs: Sequence[StoredRun], metric: str | None) -> list[Colour]:
    """From dark for the worst to bright for the best; grey where there is no value."""
    values = [None if metric is None else run.best(metric) for run in runs]
    ranking = sorted(value for value in values if value is not None)
    if metric is not None and is_lower_better(metric):
        ranking.reverse()
    last = max(1, len(ranking) - 1)
    colour_of = colormaps["viridis"]
    return [GREY if value is None else colour_of(0.9 * ranking.index(value) / last) for value in values]


def page(figure: Figure, runs: Sequence[StoredRun], sort_by: str | None) -> str:
    """The picture and the table; a bar or line names its run, and stands out, under the pointer."""
    svg = _rendered(figure, "svg").decode()
    svg = svg[svg.index("<svg") :]
    for row, run in enumerate(runs):
        title = escape(f"{run.summary.exp_id} {run.summary.run_id}")
        for index in range(MAX_METRICS):
            group = f'<g id="run-{row}-{index}">'
            svg = svg.replace(group, f"{group}<title>{title}</title>")
    side_by_side = columns.columns(runs, sort_by=sort_by)
    return render(
        PAGE,
        title="loratrack compare",
        svg=Markup(svg),
        rows=[
            [column.heading for column in side_by_side],
            *zip(*(column.cells for column in side_by_side), strict=True),
        ],
        links=[links.run_page(run.summary.experiment_id, run.summary.run_id) for run in runs],
    )


def _rendered(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    target = io.BytesIO()
    # An SVG would say when and by what it was made, and differ each time.
    no_metadata = {"Date": None, "Creator": None, "Format": None, "Type": None} if kind == "svg" else None
    figure.savefig(
        target, format=kind, dpi=DOTS_PER_INCH, bbox_inches="tight", pad_inches=0.15, metadata=no_metadata
    )
    return target.getvalue()
