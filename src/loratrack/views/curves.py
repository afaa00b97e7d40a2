"""The pictures of a run: loss and metrics by epoch, and for each task what is taken for what."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from loratrack.errors import counted
from loratrack.views import fonts

Metrics = Mapping[str, float]
Answers = tuple[Sequence[str], NDArray[np.integer[Any]], NDArray[np.integer[Any]]]
"""The labels; and for each example the number of the true and of the predicted one.

Of a multi-label task a row of 0 and 1 for each example."""

DOTS_PER_INCH = 120
MAX_LABEL_CHARACTERS = 32
MAX_NUMBERED_LABELS = 16
"""With at most this many labels, each cell shows its count."""
MIN_LISTED_LABELS = 9
"""With at least this many labels, the most frequent confusions are listed beside the matrix."""
NUM_LISTED = 20
CONFUSIONS = "most frequent confusions (true → predicted)"
MAX_MATRIX_LABELS = 30
"""With more, the most frequent confusions are drawn as bars: nobody reads a grid of 150 rows on a page."""
MIN_SCORE_RANGE = 0.1
"""What an axis of scores spans at least, so that a difference of 0.0001 does not look like a leap."""


def draw(
    folder: Path,
    history: Mapping[int, Metrics],
    answers: Mapping[str, Answers],
    *,
    best_epoch: int | None,
) -> str | None:
    """Write `loss.png`, `<task>.png` and `confusion_<task>.png` into the folder.

    A multi-label task has `label_scores_<task>.png` in the place of a confusion matrix.

    `history` holds the metrics of each epoch, `answers` those of each task at the best epoch. Gives a notice
    where characters of the labels cannot be drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"font.family": fonts.families(), "axes.unicode_minus": False}):
        figures = {"loss": loss_figure(history, best_epoch)}
        for task, (labels, truth, predicted) in answers.items():
            name = re.sub(r"[^\w.-]", "_", task)
            prefix = f"{task}_" if len(answers) > 1 else ""
            figures[name] = scores_figure(task, history, prefix, best_epoch)
            if truth.ndim == 1:
                figures[f"confusion_{name}"] = confusion_figure(task, labels, truth, predicted)
            else:
                figures[f"label_scores_{name}"] = label_scores_figure(task, labels, truth, predicted)
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=DOTS_PER_INCH)
    return fonts.notice(text for task, (labels, *_) in answers.items() for text in (task, *labels))


def loss_figure(history: Mapping[int, Metrics], best_epoch: int | None) -> Figure:
    figure, axes = _axes_by_epoch("loss", history, best_epoch)
    _curve(axes, history, best_epoch, "train/loss", "train", "-")
    _curve(axes, history, best_epoch, "validation/loss", "validation", "--")
    axes.set_ylim(bottom=0)
    _legend(axes)
    return figure


def scores_figure(task: str, history: Mapping[int, Metrics], prefix: str, best_epoch: int | None) -> Figure:
    """Accuracy and F1 of a task, whose metrics begin with `prefix`."""
    figure, axes = _axes_by_epoch(_label(task), history, best_epoch)
    _curve(axes, history, best_epoch, f"{prefix}accuracy", "accuracy", "-")
    _curve(axes, history, best_epoch, f"{prefix}f1", "macro F1", "--")
    _curve(axes, history, best_epoch, f"{prefix}f1_micro", "micro F1", ":")
    low, high = axes.get_ylim()
    missing = max(0.0, MIN_SCORE_RANGE - (high - low))
    top = min(1.005, high + missing / 2)
    axes.set_ylim(min(low, top - MIN_SCORE_RANGE), top)
    _legend(axes)
    return figure


def confusion_figure(
    task: str, labels: Sequence[str], truth: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]]
) -> Figure:
    """A matrix of a few labels; of many, however many there are, the most frequent confusions as bars."""
    right, total = int((truth == predicted).sum()), len(truth)
    title = f"{_label(task)}: {right:,} of {total:,} right" + (f" ({right / total:.1%})" if total else "")
    if len(labels) > MAX_MATRIX_LABELS:
        return confusion_bars(title, labels, truth, predicted)
    return confusion_matrix(title, labels, truth, predicted)


def label_scores_figure(
    task: str, labels: Sequence[str], truth: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]]
) -> Figure:
    """The F1 of each label; of many labels the lowest ones. Labels without a row have none."""
    true, told = truth.sum(axis=0), predicted.sum(axis=0)
    f1 = 2 * (truth & predicted).sum(axis=0) / np.maximum(true + told, 1)
    with_rows = np.flatnonzero(true)
    order = with_rows[np.argsort(f1[with_rows], kind="stable")][:MAX_MATRIX_LABELS].tolist()
    right = int((truth == predicted).all(axis=1).sum())
    title = f"{_label(task)}: all labels right in {right:,} of {len(truth):,} rows"
    heading = f"F1 of the labels, the lowest first: {len(order)} of {counted(len(labels), 'label')}"
    names = [f"{_label(labels[one])} ({counted(int(true[one]), 'row')})" for one in order]
    figure, axes = _bars(title, heading, names, [float(f1[one]) for one in order], "{:.3f}")
    axes.set_xlim(0, 1.1)
    axes.set_xlabel("F1")
    return figure


def confusion_bars(
    title: str, labels: Sequence[str], truth: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]]
) -> Figure:
    confusions, num_confusions = _most_frequent_confusions(labels, truth, predicted)
    counts, names = [count for count, _ in confusions], [name for _, name in confusions]
    heading = (
        f"{CONFUSIONS}: {len(counts)} of {counted(num_confusions, 'pair')}" if counts else "no confusions"
    )
    figure, axes = _bars(title, heading, names, counts, "{:,}")
    axes.set_xlim(0, 1.1 * max(counts, default=1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("rows")
    return figure


def _bars(
    title: str, heading: str, names: Sequence[str], values: Sequence[float], number: str
) -> tuple[Figure, Axes]:
    """A bar for each name, with its value behind it; `number` is how that is written."""
    left, below = _inches(names, 9) + 0.3, 0.6
    height = 0.28 * max(3, len(names))
    width, page_height = left + 6.5, below + height + 0.8
    figure = Figure(figsize=(width, page_height))
    axes = figure.add_axes((left / width, below / page_height, 6 / width, height / page_height))
    axes.barh(range(len(values)), values, color="#3b6fb6")
    for row, value in enumerate(values):
        text = number.format(value)
        axes.annotate(text, (value, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(names)), names, fontsize=9, parse_math=False)
    axes.set_ylim(max(3, len(values)) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)
    figure.text(
        0.15 / width,
        1 - 0.15 / page_height,
        title,
        va="top",
        fontweight="bold",
        fontsize=12,
        parse_math=False,
    )
    figure.text(0.15 / width, 1 - 0.42 / page_height, heading, va="top", fontsize=9)
    return figure, axes


def confusion_matrix(
    title: str, labels: Sequence[str], truth: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]]
) -> Figure:
    """A cell's colour is its share of the true label's examples, its root, so that single errors are seen.

    All sizes are computed in inches beforehand: letting matplotlib fit a page around the names would draw
    each of them twice.
    """
    num_labels = len(labels)
    counts = np.zeros((num_labels, num_labels), dtype=np.int64)
    np.add.at(counts, (truth, predicted), 1)
    confusions: list[str] = []
    if num_labels >= MIN_LISTED_LABELS:
        lines = [
            f"{count:>4}   {name}" for count, name in _most_frequent_confusions(labels, truth, predicted)[0]
        ]
        confusions = [CONFUSIONS, "", *(lines or ["none"])]

    names = [_label(label) for label in labels]
    side = max(3.2, min(0.55, 0.14 + 4 / num_labels) * num_labels)
    is_upright = max(map(len, names)) * num_labels > 40
    left = _inches(names, 9) + 0.6
    below = left if is_upright else 0.8
    beside = 1.2 + _inches(confusions, 9)
    width = left + max(side + beside, _inches([title], 14)) + 0.2
    height = below + side + 0.5

    def share_of_page(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        return x / width, y / height, w / width, h / height

    figure = Figure(figsize=(width, height))
    axes = figure.add_axes(share_of_page(left, below, side, side))
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    axes.set_title(title, loc="left", fontweight="bold", parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    ticks, edges = range(num_labels), (-0.5, num_labels - 0.5)
    axes.set_xticks(ticks, names, rotation=90 if is_upright else 0, fontsize=9, parse_math=False)
    axes.set_yticks(ticks, names, fontsize=9, parse_math=False)
    # Two sets of lines, since the minor ticks of a grid take longer.
    between = [tick + 0.5 for tick in ticks[:-1]]
    axes.hlines(between, *edges, color="#e8eef5", linewidth=0.5)
    axes.vlines(between, *edges, color="#e8eef5", linewidth=0.5)
    axes.set(xlim=edges, ylim=edges[::-1])
    if num_labels <= MAX_NUMBERED_LABELS:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.4 else "#333333"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=9)
    bar = figure.add_axes(share_of_page(left + side + 0.2, below + side - 3, 0.18, 3))
    figure.colorbar(image, cax=bar).set_label("share of the true label")
    x, y, _, _ = share_of_page(left + side + 1.2, below + side, 0, 0)
    figure.text(x, y, "\n".join(confusions), va="top", fontsize=9, linespacing=1.6, parse_math=False)
    return figure


def _most_frequent_confusions(
    labels: Sequence[str], truth: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]]
) -> tuple[list[tuple[int, str]], int]:
    """At most NUM_LISTED pairs of labels with their counts; and how many pairs there are."""
    wrong = truth != predicted
    pairs, counts = np.unique(truth[wrong] * len(labels) + predicted[wrong], return_counts=True)
    worst = np.argsort(-counts, kind="stable")[:NUM_LISTED]
    confusions = [
        (
            int(counts[pair]),
            " → ".join(_label(labels[each]) for each in divmod(int(pairs[pair]), len(labels))),
        )
        for pair in worst
    ]
    return confusions, len(pairs)


def _axes_by_epoch(title: str, history: Mapping[int, Metrics], best_epoch: int | None) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontweight="bold", parse_math=False)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if history:
        axes.set_xlim(min(history) - 0.3, max(history) + 0.3)
    if best_epoch is not None:
        axes.axvline(best_epoch, color="#999999", linestyle=":", linewidth=1.2, label="best epoch")
    return figure, axes


def _curve(
    axes: Axes,
    history: Mapping[int, Metrics],
    best_epoch: int | None,
    metric: str,
    name: str,
    style: str,
) -> None:
    """The legend has the value at the best epoch, whose answers are drawn too; without one at the last."""
    values = {epoch: history[epoch][metric] for epoch in sorted(history) if metric in history[epoch]}
    if values:
        epoch = best_epoch if best_epoch in values else max(values)
        label = f"{name}: {values[epoch]:.4g} at epoch {epoch}"
        axes.plot(list(values), list(values.values()), style, marker="o", markersize=4, label=label)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def _label(text: str) -> str:
    """Long labels lose their middle: their ends often differ."""
    label = fonts.drawable(text)
    if len(label) <= MAX_LABEL_CHARACTERS:
        return label
    half = MAX_LABEL_CHARACTERS // 2
    return f"{label[:half]}…{label[-half + 1 :]}"


def _inches(texts: Sequence[str], font_size: float) -> float:
    """The width of the widest."""
    font = FontProperties(size=font_size)
    widths = [text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] for text in texts]
    return float(max(widths, default=0.0)) / 72
