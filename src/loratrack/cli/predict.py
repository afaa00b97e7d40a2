"""`loratrack predict`: label and probability for each task, for texts or a whole file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from loratrack.errors import DataError, UserError

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell starts that a spreadsheet would run."""


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser("predict", help="label texts with a trained model")
    parser.add_argument(
        "--model", required=True, help="models:/NAME@champion, models:/NAME/3, runs:/RUN_ID, or a folder"
    )
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--text", action="append", metavar="TEXT", help="a text to label; repeat it")
    given.add_argument(
        "--file", type=Path, metavar="IN", help="a CSV, TSV or JSONL file with the text columns"
    )
    parser.add_argument("--out", type=Path, metavar="OUT.csv", help="where to write; else it is printed")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.data import read_texts
    from loratrack.serving.classifier import Classifier
    from loratrack.serving.pyfunc import table
    from loratrack.tracking import models

    if arguments.out is not None and not arguments.out.absolute().parent.is_dir():
        raise UserError(f"--out: {arguments.out.absolute().parent}: no such folder")
    classifier = Classifier(models.fetch(arguments.model))
    names = classifier.config.text_columns
    if arguments.file is not None:
        columns = read_texts(arguments.file, names)
    elif len(names) == 1:
        columns = {names[0]: arguments.text}
    else:
        raise DataError(f"--text: the model reads {len(names)} columns {list(names)}; give them with --file")
    frame = table(classifier, columns)
    for position, name in enumerate(names):
        frame.insert(position, name, columns[name])
    if arguments.out is None:
        _show(frame, names)
    else:
        _write(frame, arguments.out)
    return 0


def _show(frame: Any, names: tuple[str, ...]) -> None:
    console = Console(soft_wrap=True)
    tasks = [name for name in frame.columns if name not in names and f"{name}_probability" in frame.columns]
    for row in frame.to_dict("records"):
        texts = " | ".join(str(row[name]) for name in names)
        answers = "  ".join(f"{task}: {row[task]} ({row[f'{task}_probability']:.3f})" for task in tasks)
        console.print(f"{texts}\n  {answers}", highlight=False, markup=False)


def _write(frame: Any, file: Path) -> None:
    safe = frame.map(lambda cell: f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell)
    draft = file.with_name(f".{file.name}.draft")
    safe.to_csv(draft, index=False, encoding="utf-8")
    draft.replace(file)
    Console(soft_wrap=True).print(f"{file}: {len(frame)} rows", highlight=False, markup=False)
