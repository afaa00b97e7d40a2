"""The pictures of a run: loss and metrics by epoch, one confusion matrix for each task."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ft2font import FT2Font
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

Metrics = Mapping[str, float]
Confusion = tuple[Sequence[str], Any]
"""The labels, and the counts: a row for each true label, a column for each predicted one."""

DOTS_PER_INCH = 120
MAX_LABEL_CHARACTERS = 32
MAX_NUMBERED_LABELS = 16
"""Up to so many labels the cells show their counts."""
MIN_LISTED_LABELS = 9
"""From so many labels on, the most frequent confusions stand beside the matrix."""
NUM_LISTED = 20

CJK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Heiti SC",
    "Hiragino Sans GB",
    "Droid Sans Fallback",
    "Arial Unicode MS",
    "Noto Serif CJK SC",
    "Noto Serif CJK JP",
)
LATIN_FONT = "DejaVu Sans"


def draw(
    folder: Path,
    history: Mapping[int, Metrics],
    confusion: Mapping[str, Confusion],
    best_epoch: int | None = None,
) -> None:
    """Write `loss.png`, `<task>.png` and `confusion_<task>.png` into the folder.

    `history` holds the metrics of each epoch, `confusion` the matrix of each task at the best epoch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"font.family": fonts(), "axes.unicode_minus": False}):
        _save(_loss(history, best_epoch), folder / "loss.png")
        for task, (labels, matrix) in confusion.items():
            name = re.sub(r"[^\w.-]", "_", task)
            _save(_scores(task, history, len(confusion) > 1, best_epoch), folder / f"{name}.png")
            _save(_matrix(task, labels, np.asarray(matrix)), folder / f"confusion_{name}.png")


def fonts() -> list[str]:
    """Latin first, then the installed CJK fonts; matplotlib takes each letter from the first that has it."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [LATIN_FONT, *[name for name in CJK_FONTS if name in installed][:2]]


def drawable(text: str) -> str:
    """`text` with the characters that no font of ours has written as escapes."""
    known = _characters(tuple(fonts()))
    return "".join(
        character
        if ord(character) in known and not unicodedata.category(character).startswith("C")
        else character.encode("unicode_escape").decode()
        for character in text
    )


@cache
def _characters(names: tuple[str, ...]) -> frozenset[int]:
    files = [font_manager.findfont(name) for name in names]
    return frozenset().union(*(FT2Font(file).get_charmap() for file in files))


def _label(text: str) -> str:
    """Long labels lose their middle: what tells them apart is often at the end."""
    shown = drawable(text)
    if len(shown) <= MAX_LABEL_CHARACTERS:
        return shown
    half = MAX_LABEL_CHARACTERS // 2
    return f"{shown[:half]}…{shown[-half + 1 :]}"


def _loss(history: Mapping[int, Metrics], best_epoch: int | None) -> Figure:
    figure, axes = _curves("loss", best_epoch, history)
    for name, line in (("train/loss", "-"), ("validation/loss", "--")):
        _curve(axes, history, name, name.partition("/")[0], line)
    axes.set_ylim(bottom=0)
    _legend(axes)
    return figure


def _scores(
    task: str, history: Mapping[int, Metrics], has_neighbours: bool, best_epoch: int | None
) -> Figure:
    figure, axes = _curves(_label(task), best_epoch, history)
    prefix = f"{task}_" if has_neighbours else ""
    _curve(axes, history, f"{prefix}accuracy", "accuracy", "-")
    _curve(axes, history, f"{prefix}f1", "macro F1", "--")
    axes.set_ylim(top=min(1.005, axes.get_ylim()[1]))
    _legend(axes)
    return figure


def _curves(title: str, best_epoch: int | None, history: Mapping[int, Metrics]) -> tuple[Figure, Any]:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontweight="bold", parse_math=False)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if history:
        axes.set_xlim(min(history) - 0.3, max(history) + 0.3)
    if best_epoch is not None:
        axes.axvline(best_epoch, color="#999999", linestyle=":", linewidth=1.2, label="best epoch")
    return figure, axes


def _curve(axes: Any, history: Mapping[int, Metrics], name: str, shown: str, line: str) -> None:
    epochs = [epoch for epoch in sorted(history) if name in history[epoch]]
    values = [history[epoch][name] for epoch in epochs]
    if epochs:
        axes.plot(epochs, values, line, marker="o", markersize=4, label=f"{shown} ({values[-1]:.4g})")


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def _matrix(task: str, labels: Sequence[str], counts: Any) -> Figure:
    """Colour is the share of the true label's examples, its root, so that single errors are seen."""
    shown, title, listed = [_label(label) for label in labels], _title(task, counts), _listed(labels, counts)
    size, side = 9 if len(labels) <= 30 else 7, max(3.2, min(0.55, 0.14 + 4 / len(labels)) * len(labels))
    is_upright = max(map(len, shown), default=0) * len(shown) > 40
    left = _inches(shown, size) + 0.6
    below = left if is_upright else 0.8
    beside = 1.2 + _inches(listed.splitlines(), 9)
    figure, place = _page(left + max(side + beside, _inches([title], 14)) + 0.2, below + side + 0.5)
    axes = figure.add_axes(place(left, below, side, side))
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    axes.set_title(title, loc="left", fontweight="bold", parse_math=False)
    _name_cells(axes, shown, size, is_upright)
    if len(labels) <= MAX_NUMBERED_LABELS:
        _write_counts(axes, counts, shares)
    bar_axes = figure.add_axes(place(left + side + 0.2, below + side - 3, 0.18, 3))
    figure.colorbar(image, cax=bar_axes).set_label("share of the true label")
    corner = place(left + side + 1.2, below + side, 0, 0)[:2]
    figure.text(*corner, listed, va="top", fontsize=9, linespacing=1.6, parse_math=False)
    return figure


def _page(width: float, height: float) -> tuple[Figure, Callable[..., tuple[float, float, float, float]]]:
    """A figure of so many inches, and what turns inches from its lower left corner into its shares.

    All sizes are known beforehand, since fitting a page around 300 labels draws each of them twice.
    """
    figure = Figure(figsize=(width, height))

    def place(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        return x / width, y / height, w / width, h / height

    return figure, place


def _inches(texts: Sequence[str], size: float) -> float:
    """How wide the widest is."""
    font = FontProperties(size=size)
    widths = [text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] for text in texts]
    return float(max(widths, default=0.0)) / 72


def _title(task: str, counts: Any) -> str:
    right, total = int(np.trace(counts)), int(counts.sum())
    return f"{_label(task)}: {right:,} of {total:,} right" + (f" ({right / total:.1%})" if total else "")


def _name_cells(axes: Any, shown: Sequence[str], size: int, is_upright: bool) -> None:
    places = range(len(shown))
    axes.set_xticks(places, shown, rotation=90 if is_upright else 0, fontsize=size, parse_math=False)
    axes.set_yticks(places, shown, fontsize=size, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    between, edges = [place + 0.5 for place in places[:-1]], (-0.5, len(shown) - 0.5)
    axes.hlines(between, *edges, color="#e8eef5", linewidth=0.5)  # 300 ticks of a grid would take a second
    axes.vlines(between, *edges, color="#e8eef5", linewidth=0.5)
    axes.set(xlim=edges, ylim=edges[::-1])


def _write_counts(axes: Any, counts: Any, shares: Any) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.4 else "#333333"
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=9)


def _listed(labels: Sequence[str], counts: Any) -> str:
    """The most frequent confusions, where there are too many cells to look for them."""
    if len(labels) < MIN_LISTED_LABELS:
        return ""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    worst = np.argsort(-wrong, axis=None, kind="stable")[:NUM_LISTED]
    cells = [np.unravel_index(cell, wrong.shape) for cell in worst if wrong.flat[cell]]
    lines = [f"{wrong[cell]:>4}   {_label(labels[cell[0]])} → {_label(labels[cell[1]])}" for cell in cells]
    return "\n".join(["most frequent confusions (true → predicted)", "", *(lines or ["none"])])


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file, dpi=DOTS_PER_INCH)
