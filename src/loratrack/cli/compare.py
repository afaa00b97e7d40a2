"""`loratrack compare`: a table of runs, found, sorted and set side by side."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from loratrack.index.runs import StoredRun
    from loratrack.index.search import SearchResult
    from loratrack.views.columns import Column

NOTHING_FOUND = 1
CELL_GAP = 3
PICTURES = (".png", ".html")
HELP = """\
EXPR is made of comparisons, joined by and, or, not and parentheses:

  loratrack compare --filter "task_type=multi_cls and avg_f1>0.9" --sort-by avg_f1
  loratrack compare --filter "model.lora.rank>=8 and (exp_id~v4 or project=risk) and started>7d"
  loratrack compare --filter "alias=champion or stage=Staging" --diff

names      run_id exp_id name status experiment started ended duration; model version stage alias of the
           registry; any tag (task_type, project, device, …), setting (model.lora.rank), metric (avg_f1).
           tags.X, params.X and metrics.X say which, where names are alike
metrics    the value at the best epoch, so far the best of a run without one; avg_f1 of a run with one
           task is its f1; best_…, test_… as logged
operators  =  !=  <  <=  >  >=  ~ (contains)  !~; numbers by value, texts in any case
values     a word, or in quotes ("one two"); null means that the run has none (alias!=null: has an alias)
task_type  double_cls and multi_cls each find both
moments    started, ended: 2026-11-01, 2026-11-01T14:30, or so long ago: 90s 30m 2h 7d 4w, so
           started>7d is later than 7 days ago, started<7d is before that
duration   90s 30m 2h: duration>2h took more than two hours

Runs are the trainings that LoRATrack made and nobody deleted, without the sweeps and chains around them;
the newest first without --sort-by.
exit codes: 0 found, 1 nothing found, 2 wrong use
"""


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "compare",
        help="find runs and set them side by side",
        description="Find runs and set them side by side.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--filter", metavar="EXPR", help="only runs for which this holds; see below")
    parser.add_argument(
        "--sort-by", metavar="NAME", help="best first, such as avg_f1; of a loss the lowest is best"
    )
    parser.add_argument(
        "--columns", metavar="NAME,…", type=_names, default=(), help="these columns, in this order"
    )
    parser.add_argument("--limit", metavar="N", type=_count, default=20, help="rows at most; 20 if not given")
    parser.add_argument("--diff", action="store_true", help="only the settings that differ")
    parser.add_argument(
        "--plot",
        metavar="FILE",
        type=_picture,
        help="draw into FILE.png or FILE.html: bars, or with many runs parallel coordinates",
    )
    parser.add_argument("--json", action="store_true", help="all of it as JSON")
    parser.add_argument(
        "--rebuild", action="store_true", help="read all of a tracking server anew; it is done once a day"
    )
    parser.set_defaults(command=command, answer=answer)


def command(arguments: argparse.Namespace) -> int:
    return answer(arguments, Console())


def answer(arguments: argparse.Namespace, console: Console) -> int:
    from loratrack.index import search
    from loratrack.index.opened import open_tables
    from loratrack.store.place import store_name

    with open_tables(arguments.rebuild) as tables:
        found = search.search(
            tables,
            filter_text=arguments.filter,
            sort_by=arguments.sort_by,
            columns=arguments.columns,
            limit=arguments.limit,
        )
    if arguments.plot is not None and found.runs:
        _plot(arguments, found)
    if arguments.json:
        console.out(json.dumps(_as_json(arguments, found), ensure_ascii=False, indent=1), highlight=False)
    elif found.runs:
        _show(arguments, found, console)
    else:
        _tell(console, _nothing(arguments, found, store_name()))
    return 0 if found.runs else NOTHING_FOUND


def _show(arguments: argparse.Namespace, found: SearchResult, console: Console) -> None:
    from loratrack.views import columns

    side_by_side = columns.columns(
        found.runs, wanted=arguments.columns, sort_by=arguments.sort_by, is_diff=arguments.diff
    )
    table, left_out = fitted(side_by_side, console)
    console.print(table)
    for line in _notes(arguments, found, left_out):
        _tell(console, line)


def fitted(side_by_side: Sequence[Column], console: Console) -> tuple[Table, list[Column]]:
    """The columns that a terminal has room for, and the others; a file or a pipe has room for all."""
    from loratrack.views import columns

    shown: list[Column] = list(side_by_side)
    left_out: list[Column] = []
    if console.is_terminal:
        shown, left_out = columns.fitting(side_by_side, console.width, CELL_GAP)
    else:
        console.width = max(console.width, sum(column.width + CELL_GAP for column in shown) + 1)
    table = Table()
    for column in shown:
        table.add_column(column.heading, justify="right" if column.is_number else "left", no_wrap=True)
    for cells in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*(Text(cell) for cell in cells))
    return table, left_out


def _notes(arguments: argparse.Namespace, found: SearchResult, left_out: Sequence[Column]) -> list[str]:
    from loratrack.views import columns

    notes = []
    if arguments.diff and not columns.differing_settings(found.runs):
        same = "the settings of these runs are the same"
        differ = columns.differing_sources(found.runs)
        notes.append(f"{same}, their {' and '.join(differ)} are not" if differ else same)
    if left_out:
        names = ", ".join(column.name for column in left_out)
        notes.append(f"no room for {names}; choose with --columns, or see all with --json")
    order = f"sorted by {arguments.sort_by}" if arguments.sort_by else "newest first"
    more = "" if len(found.runs) == found.total else "; --limit shows more"
    notes.append(f"{len(found.runs):,} of {found.total:,} runs, {order}{more}")
    if arguments.plot is not None:
        notes.append(f"drawn into {arguments.plot}")
    return notes


def _nothing(arguments: argparse.Namespace, found: SearchResult, place: str) -> str:
    if not found.num_in_store:
        return f"no runs yet in {place}; make one with loratrack run CONFIG"
    return f"none of {found.num_in_store:,} runs has {arguments.filter}"


def _tell(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _as_json(arguments: argparse.Namespace, found: SearchResult) -> dict[str, Any]:
    from loratrack.views import columns

    names = columns.differing_settings(found.runs) if arguments.diff else None
    if arguments.columns:
        runs = [
            {"run_id": run.summary.run_id} | {name: _plain(run.values(name)) for name in arguments.columns}
            for run in found.runs
        ]
    else:
        runs = [as_json(run, names) for run in found.runs]
    return {"total": found.total, "in_store": found.num_in_store, "runs": runs}


def as_json(run: StoredRun, settings: Sequence[str] | None = None) -> dict[str, Any]:
    """A run with these of its settings, or with all."""
    from loratrack.store import links

    summary = run.summary
    names = list(run.params) if settings is None else settings
    return {
        "run_id": summary.run_id,
        "exp_id": summary.exp_id,
        "name": summary.name,
        "experiment": summary.experiment,
        "status": summary.status,
        "started": _moment(summary.started_ms),
        "ended": None if summary.ended_ms is None else _moment(summary.ended_ms),
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


def _plain(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else list(values) or None


def _moment(milliseconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")


def _plot(arguments: argparse.Namespace, found: SearchResult) -> None:
    from loratrack.views import charts

    charts.draw(arguments.plot, found.runs, arguments.sort_by)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text!r}")
    return int(text)


def _picture(text: str) -> Path:
    file = Path(text)
    if file.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"must end in {' or '.join(PICTURES)}, got {text!r}")
    if not file.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {file.absolute().parent}")
    return file
