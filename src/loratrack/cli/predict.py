"""`loratrack predict`: label and probability for each task, for texts or a whole file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from loratrack.bases.trust import said_by_loader
from loratrack.cli.commands import Commands, add_trust_to, examples
from loratrack.cli.screen import console, loading, print_json
from loratrack.errors import DataError, UserError, counted
from loratrack.index.naming import MODEL_HELP, MODEL_WORDS

if TYPE_CHECKING:
    from loratrack.serving.files import Cell


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "predict",
        help="label texts with a trained model",
        description="Label texts or a whole file: for each task the label and its probability.",
        epilog=examples(
            'loratrack predict --model models:/clinc@champion --text "will it rain tomorrow"',
            "loratrack predict --model models:/clinc/3 --file requests.csv --out labelled.csv",
        ),
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar=f"{MODEL_WORDS}|FOLDER",
        help=f"{MODEL_HELP}, or a folder",
    )
    texts = parser.add_mutually_exclusive_group(required=True)
    texts.add_argument("--text", action="append", metavar="TEXT", help="a text to label; repeat it")
    texts.add_argument(
        "--file",
        type=Path,
        metavar="IN",
        help="a CSV, TSV, JSONL, Excel or Parquet file with the text columns",
    )
    parser.add_argument(
        "--out", type=Path, metavar="OUT", help="the CSV, TSV or JSONL file to write; default: print"
    )
    parser.add_argument(
        "--safe-for-excel",
        action="store_true",
        help="put an apostrophe before texts and labels that a spreadsheet would run as formulas",
    )
    add_trust_to(parser)
    parser.add_argument("--json", action="store_true", help="the answers as JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.config.schema import probability_column
    from loratrack.registry import uri
    from loratrack.serving import files

    notices, trusted = console(beside_the_answers=True), said_by_loader(arguments.trust_remote_code)
    if arguments.out is not None:
        files.check_target(arguments.out, arguments.file, safe_for_excel=arguments.safe_for_excel)
    elif arguments.safe_for_excel:
        raise UserError("--safe-for-excel: needs --out, the file that a spreadsheet opens")
    with loading():
        folder = uri.fetch(arguments.model)
        from loratrack.data import read_texts  # only now: these open torch, and a name may be mistyped
        from loratrack.serving.classifier import Classifier

        classifier = Classifier(folder, notices.print, trusted)
    config = classifier.config
    if arguments.file is not None:
        columns = read_texts(arguments.file, config.text_columns, notices.print)
    else:
        names = config.text_columns
        if len(names) > 1:
            raise DataError(
                f"--text: the model reads {len(names)} columns, {list(names)}; give them with --file"
            )
        for text in arguments.text:
            if not text.strip():
                raise DataError(f"--text: must be text, got {text!r}")
        columns = {names[0]: arguments.text}
    rows = files.labelled(classifier, columns)
    if arguments.file is not None and (arguments.out is not None or arguments.json):
        from loratrack.cli.progress import counting

        rows = counting(rows, len(next(iter(columns.values()))), arguments.file.name, notices)
    if arguments.out is not None:
        num_rows = files.write(
            rows,
            arguments.out,
            files.column_names(config),
            label_separator=config.data.label_separator,
            safe_for_excel=arguments.safe_for_excel,
        )
        notices.print(f"{arguments.out}: {counted(num_rows, 'row')}")
        if arguments.json:
            print_json({"model": arguments.model, "out": str(arguments.out), "rows": num_rows})
        return 0
    if arguments.json:
        print_json({"model": arguments.model, "rows": list(rows)})
        return 0
    screen = console()
    for row in rows:
        screen.print(" | ".join(str(row[name]) for name in config.text_columns))
        answers = [f"{task}: {_shown(row[task], row[probability_column(task)])}" for task in config.tasks]
        screen.print(f"  {'  '.join(answers)}")
    return 0


def _shown(label: Cell, probability: Cell) -> str:
    """`sport (0.912)`, and of several labels each of them."""
    if not isinstance(label, list) or not isinstance(probability, list):
        return f"{label} ({probability:.3f})"
    pairs = zip(label, probability, strict=True)
    return ", ".join(f"{one} ({number:.3f})" for one, number in pairs) or "none"
