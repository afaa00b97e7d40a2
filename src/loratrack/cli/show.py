"""`loratrack show RUN|EXP`: everything of one run on one screen."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.table import Table

from loratrack.cli import compare

if TYPE_CHECKING:
    from loratrack.index.detail import Detail

MAX_EPOCHS = 12
FIRST_CURVES = ("train/loss", "validation/loss", "avg_f1", "f1", "avg_accuracy", "accuracy")
PIPE_WIDTH = 120
MAX_VALUE_WIDTH = 32
SECTIONS = ("model", "train", "data")
NONE = "–"


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "show",
        help="everything of one run",
        description="Everything of one run: settings, scores, epochs, versions, files, environment, notices.",
        epilog="exit codes: 0 found, 1 no such run, 2 wrong use",
    )
    parser.add_argument(
        "run", metavar="RUN|EXP", help="a run's id or the beginning of it, or an exp_id for its newest run"
    )
    parser.add_argument("--json", action="store_true", help="all of it as JSON")
    parser.set_defaults(command=command, answer=answer)


def command(arguments: argparse.Namespace) -> int:
    return answer(arguments, Console())


def answer(arguments: argparse.Namespace, console: Console) -> int:
    from loratrack.index import detail
    from loratrack.index.opened import open_tables

    with open_tables() as tables:
        found = detail.detail(tables, arguments.run)
    if arguments.json:
        console.out(json.dumps(_as_json(found), ensure_ascii=False, indent=1), highlight=False)
        return 0
    if not console.is_terminal:
        console.width = max(console.width, PIPE_WIDTH)
    for part in _parts(found, console):
        if isinstance(part, str):
            console.print(part, highlight=False, markup=False, soft_wrap=True)
        else:
            console.print(part)
    return 0


def _parts(found: Detail, console: Console) -> list[RenderableType]:
    """From the top of the screen to the bottom."""
    parts: list[RenderableType] = [*_head(found), ""]
    if found.run.scores:
        parts.append(_scores(found))
    if found.epochs:
        parts += _epochs(found, console)
    return [*parts, "", _settings(found.run.params), "", *_kept(found)]


def _head(found: Detail) -> list[str]:
    from loratrack.store import links
    from loratrack.views import columns

    run, summary = found.run, found.run.summary
    lasted = (
        "" if summary.duration_seconds is None else f", took {columns.duration(summary.duration_seconds)}"
    )
    told = [summary.status, run.tags.get("task_type"), run.tags.get("project"), run.tags.get("device")]
    description = run.params.get("description")
    lines = [
        f"{summary.exp_id}  {'  '.join(columns.printable(text) for text in told if text)}",
        *([columns.printable(description)] if description else []),
        f"run          {summary.run_id}",
        f"started      {columns.shown('started', summary.started_ms / 1000)}{lasted}",
        f"MLflow       {links.run_page(summary.experiment_id, summary.run_id)}",
    ]
    return lines + [f"registered   {version}" for version in run.versions]


def _scores(found: Detail) -> Table:
    from loratrack.index import detail

    run = found.run
    table = Table()
    at = "best" if found.best_epoch is None else f"epoch {found.best_epoch}"
    for heading in ("task", f"accuracy, {at}", f"F1, {at}", "test accuracy", "test F1"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for name, prefix in detail.tasks(run.scores).items():
        best = [run.best(f"{prefix}{measure}") for measure in ("accuracy", "f1")]
        test = [run.metrics.get(f"test_{prefix}{measure}") for measure in ("accuracy", "f1")]
        table.add_row(name, *(NONE if value is None else f"{value:.4f}" for value in (*best, *test)))
    return table


def _epochs(found: Detail, console: Console) -> list[RenderableType]:
    """A row for each epoch, the best one marked, and what had no room."""
    from loratrack.views.columns import Column, shown

    names = list(dict.fromkeys(name for values in found.epochs.values() for name in values))
    names = sorted(names, key=lambda name: (name not in FIRST_CURVES, "/" in name, name))
    rows = _few(list(found.epochs), found.best_epoch)
    marks = tuple(f"{'*' if epoch == found.best_epoch else ''}{epoch}" for epoch in rows)
    side_by_side = [Column("epoch", "epoch", marks)]
    for rank, name in enumerate(names, start=1):
        values = [found.epochs[epoch].get(name) for epoch in rows]
        cells = tuple(NONE if value is None else shown(name, value) for value in values)
        side_by_side.append(Column(name, name, cells, rank))
    table, left_out = compare.fitted(side_by_side, console)
    more = [f"{len(found.epochs) - len(rows)} more epochs"] if len(found.epochs) > len(rows) else []
    more += [column.name for column in left_out]
    return [table, *([f"with --json also {', '.join(more)}"] if more else [])]


def _few(epochs: Sequence[int], best: int | None) -> list[int]:
    """All, or evenly chosen ones with the last and the best."""
    step = -(-len(epochs) // MAX_EPOCHS)
    return [epoch for place, epoch in enumerate(reversed(epochs)) if place % step == 0 or epoch == best][::-1]


def _settings(params: Any) -> Columns:
    """A block for each section of the config, side by side where there is room."""
    from loratrack.views import columns

    blocks: dict[str, list[tuple[str, str]]] = {section: [] for section in SECTIONS}
    for name, value in params.items():
        section, dot, rest = name.partition(".")
        is_section = bool(dot) and section in blocks
        shown = columns.shortened(columns.shown(name, value), MAX_VALUE_WIDTH)
        if name not in columns.NOT_SETTINGS:  # a sweep's own settings are shown too
            blocks.setdefault(section if is_section else "", []).append((rest if is_section else name, shown))
    return Columns([_block(section, lines) for section, lines in blocks.items() if lines], padding=(0, 4))


def _block(section: str, lines: Sequence[tuple[str, str]]) -> Table:
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_row(Text(section or "other", style="bold"))
    for name, value in lines:
        table.add_row(Text(name), Text(value))
    return table


def _kept(found: Detail) -> list[str]:
    lines = [f"dataset      {each}" for each in found.datasets]
    lines.append(f"artifacts    {found.artifact_uri}")
    lines += [f"             {'  '.join(found.artifacts) or 'none'}"]
    if found.environment is not None:
        lines.append(f"environment  {_environment(found.environment)}")
    return lines + [f"notice       {line}" for line in found.notices]


def _environment(facts: Any) -> str:
    """Python and the packages that matter, devices, system, and the code's commit."""
    packages = facts.get("packages") or {}
    named = [f"{name} {packages[name]}" for name in ("torch", "transformers", "peft") if name in packages]
    devices = [device["name"] for device in (facts.get("gpu") or {}).get("devices", [])]
    git = facts.get("git") or {}
    commit = f"commit {git['commit'][:10]}{' with changes' if git.get('dirty') else ''}" if git else None
    python = f"Python {str(facts.get('python', '')).split(' ')[0]}"
    told = [python, *named, *(devices or [(facts.get("cpu") or {}).get("model")]), facts.get("os"), commit]
    return ", ".join(str(text) for text in told if text)


def _as_json(found: Detail) -> dict[str, Any]:
    return compare.as_json(found.run) | {
        "best_epoch": found.best_epoch,
        "epochs": {str(epoch): values for epoch, values in found.epochs.items()},
        "datasets": [
            {"name": each.name, "context": each.context, "rows": each.num_rows, "sha256": each.sha256}
            for each in found.datasets
        ],
        "artifact_uri": found.artifact_uri,
        "artifacts": list(found.artifacts),
        "environment": found.environment,
        "notices": list(found.notices),
    }
