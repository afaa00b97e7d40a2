"""`loratrack compare`: a table of runs, found, sorted and set side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from loratrack.cli.commands import Commands
from loratrack.cli.screen import complain, console, fitted_table, left_out_line, print_json
from loratrack.errors import counted

NOTHING_FOUND = 1
PICTURES = (".png", ".html")
HELP = """\
EXPR is made of comparisons, joined by and, or, not and parentheses:

  loratrack compare --filter "task_type=multi_cls and avg_f1>0.9" --sort-by avg_f1
  loratrack compare --filter "model.lora.rank>=8 and (exp_id~v4 or project=risk) and started>7d"
  loratrack compare --filter "alias=champion or stage=Staging" --diff

names      run_id exp_id name status experiment started ended duration; model version stage alias of the
           registry; any tag (task_type, project, device, …), setting (model.lora.rank, or rank as the
           table says), metric (avg_f1).
           tags.X, params.X and metrics.X say which, where names are alike
metrics    the value at the best epoch, so far the best of a run without one; avg_f1 of a run with one
           task is its f1; best_…, test_… as logged; tfidf is what the baseline has for avg_f1
operators  =  !=  <  <=  >  >=  ~ (contains)  !~; numbers by value, texts in any case
MLflow's   metrics.avg_f1 > 0.9 and params.`model.lora.rank` IN ('8', '16') and tags.project LIKE 'r%' and
           attributes.end_time IS NOT NULL mean here what they mean there, except that a metric is its value
           at the best epoch
values     a word, or in quotes ("one two"); null means that the run has none (alias!=null: has an alias)
task_type  double_cls and multi_cls each find both
moments    started, ended: 2026-11-01, 2026-11-01T14:30, which last a day and a minute, or so long
           ago: 90s 30m 2h 7d 4w, so started>7d is later than 7 days ago, started<7d is before that
duration   90s 30m 2h: duration>2h took more than two hours

Runs are the trainings that LoRATrack made and nobody deleted, without the sweeps and chains around them;
the newest first without --sort-by. Those that failed are left out, unless --all or a filter by status
asks for them.
exit codes: 0 found, 1 nothing found, 2 wrong use
"""


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "compare",
        help="find runs and set them side by side",
        description="Find runs and set them side by side.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--filter", metavar="EXPR", help="only runs that match; see below")
    parser.add_argument(
        "--sort-by", metavar="NAME", help="best first, such as avg_f1; of a loss the lowest is best"
    )
    parser.add_argument(
        "--columns",
        metavar="NAME,…",
        type=_names,
        default=(),
        help="exp_id, run and only these, in this order",
    )
    parser.add_argument("--limit", metavar="N", type=_count, default=20, help="at most N rows; default 20")
    parser.add_argument("--all", action="store_true", help="runs that failed too, and why")
    parser.add_argument("--diff", action="store_true", help="only the settings that differ, and the scores")
    parser.add_argument(
        "--plot",
        metavar="FILE",
        type=_picture,
        help="draw into FILE.png or FILE.html: bars, or with many runs parallel coordinates",
    )
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="read everything from a tracking server again; this happens once a day by itself",
    )
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.index import search
    from loratrack.index.opened import open_tables
    from loratrack.store.place import store_name
    from loratrack.views import columns, comparison

    sort_by, is_diff = arguments.sort_by, arguments.diff
    with open_tables(arguments.rebuild) as tables:
        result = search.search(
            tables,
            filter_text=arguments.filter,
            sort_by=sort_by,
            columns=arguments.columns,
            limit=arguments.limit,
            with_failed=arguments.all,
        )
    if arguments.plot is not None and result.runs:
        from loratrack.views import charts  # matplotlib takes a second

        notice = charts.draw(arguments.plot, result.runs, sort_by)
        if notice is not None:
            complain(f"{arguments.plot}: {notice}")
    screen = console()
    if arguments.json:
        print_json(comparison.comparison(result, arguments.columns, is_diff=is_diff))
    elif result.runs:
        names = arguments.columns
        table, left_out = fitted_table(
            columns.columns(
                result.runs,
                names=names,
                sort_by=sort_by,
                filtered_by=result.filtered_by,
                is_diff=is_diff,
            ),
            screen,
        )
        screen.print(table)
        if left_out:
            remedy = "; choose with --columns, or see all with --json"
            screen.print(left_out_line(left_out, screen.width, remedy))
        for line in comparison.remarks(result, sort_by=sort_by, is_diff=is_diff):
            screen.print(line)
        if arguments.plot is not None:
            screen.print(f"drawn into {arguments.plot}")
    elif result.num_failed:
        screen.print(f"{counted(result.num_failed, 'run')} failed; --all shows why")
    elif result.num_in_store:
        screen.print(f"none of {result.num_in_store:,} runs has {arguments.filter}")
    else:
        screen.print(f"no runs yet in {store_name()}; make one with loratrack run CONFIG")
    return 0 if result.runs else NOTHING_FOUND


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
