"""`loratrack predict`: label and probability for each task, for texts or a whole file."""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from loratrack.cli.screen import console
from loratrack.errors import DataError, UserError

if TYPE_CHECKING:
    from loratrack.serving.classifier import Classifier, Prediction

Row = dict[str, str | float]
Columns = Mapping[str, list[str]]
RowWriter = Callable[[Row], object]

ROWS_AT_ONCE = 2048
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell starts that a spreadsheet would run."""
NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")
PROBABILITY_DIGITS = 6


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser("predict", help="label texts with a trained model")
    parser.add_argument(
        "--model",
        required=True,
        help="models:/NAME@champion, models:/NAME/3, models:/NAME/Production, runs:/RUN_ID, or a folder",
    )
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--text", action="append", metavar="TEXT", help="a text to label; repeat it")
    given.add_argument(
        "--file", type=Path, metavar="IN", help="a CSV, TSV or JSONL file with the text columns"
    )
    parser.add_argument(
        "--out", type=Path, metavar="OUT", help="the CSV, TSV or JSONL file to write; else it is printed"
    )
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.registry import uri
    from loratrack.serving.classifier import Classifier

    if arguments.out is not None:
        _check_out(arguments.out, arguments.file)
    classifier = Classifier(uri.fetch(arguments.model), _tell)
    columns = _columns(arguments, classifier.config.text_columns)
    rows = _labelled(classifier, columns)
    if arguments.out is None:
        _show(rows, classifier)
    else:
        _write(rows, arguments.out, _names(classifier))
    return 0


def _check_out(out: Path, file: Path | None) -> None:
    """What can be wrong with OUT is told before a model is loaded."""
    if out.suffix.lower() not in WRITERS:
        raise UserError(f"--out: must end in {', '.join(WRITERS)}, got {out.name!r}")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out: no such folder, got {str(out.absolute().parent)!r}; make it first")
    if out.is_dir():
        raise UserError(f"--out: must be a file, got the folder {str(out)!r}")
    if file is not None and out.exists() and file.exists() and out.samefile(file):
        raise UserError(f"--out: must be another file than --file, got {str(out)!r} for both")


def _columns(arguments: argparse.Namespace, names: tuple[str, ...]) -> Columns:
    from loratrack.data import read_texts

    if arguments.file is not None:
        return read_texts(arguments.file, names, _tell)
    if len(names) > 1:
        raise DataError(f"--text: the model reads {len(names)} columns, {list(names)}; give them with --file")
    for text in arguments.text:
        if not text.strip() or not _is_unicode(text):
            raise DataError(f"--text: must be text, got {text!r}")
    return {names[0]: arguments.text}


def _is_unicode(text: str) -> bool:
    """Bytes on the command line that are no text arrive as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _labelled(classifier: Classifier, columns: Columns) -> Iterator[Row]:
    """The rows in their order, each with its texts, labels and probabilities."""
    count = len(next(iter(columns.values())))
    for start in range(0, count, ROWS_AT_ONCE):
        part = {name: values[start : start + ROWS_AT_ONCE] for name, values in columns.items()}
        texts = [dict(zip(part, row, strict=True)) for row in zip(*part.values(), strict=True)]
        for text, answers in zip(texts, classifier.answer(part), strict=True):
            yield _row(text, answers)


def _row(texts: Mapping[str, str], answers: Mapping[str, Prediction]) -> Row:
    labels = {task: answer.label for task, answer in answers.items()}
    probabilities = {
        f"{task}_probability": round(a.probability, PROBABILITY_DIGITS) for task, a in answers.items()
    }
    return {**texts, **labels, **probabilities}


def _names(classifier: Classifier) -> list[str]:
    config = classifier.config
    return [*config.text_columns, *config.tasks, *(f"{task}_probability" for task in config.tasks)]


def _show(rows: Iterable[Row], classifier: Classifier) -> None:
    screen = console()
    for row in rows:
        screen.print(" | ".join(str(row[name]) for name in classifier.config.text_columns))
        shown = (
            f"{task}: {row[task]} ({row[f'{task}_probability']:.3f})" for task in classifier.config.tasks
        )
        screen.print(f"  {'  '.join(shown)}")


def _write(rows: Iterable[Row], file: Path, names: list[str]) -> None:
    """The whole file or nothing: it is written beside its place."""
    draft = file.with_name(f".{file.name}.{os.getpid()}.draft")
    count = 0
    try:
        with draft.open("x", encoding="utf-8", newline="") as opened:
            write_row = WRITERS[file.suffix.lower()](opened, names)
            for row in rows:
                write_row(row)
                count += 1
        draft.replace(file)
    except OSError as error:
        raise UserError(f"--out: {file} cannot be written: {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)
    _tell(f"{file}: {count} row(s)")


def _separated(file: IO[str], names: list[str], delimiter: str) -> RowWriter:
    """Quotes around every text: a lone carriage return would split a row otherwise."""
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(names)
    return lambda row: writer.writerow([_safe(row[name]) for name in names])


def _safe(cell: str | float) -> str | float:
    """A formula becomes text that shows it; a number stays one."""
    if isinstance(cell, str) and cell.startswith(FORMULA) and not NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def _json_lines(file: IO[str], names: list[str]) -> RowWriter:
    return lambda row: file.write(json.dumps({name: row[name] for name in names}, ensure_ascii=False) + "\n")


WRITERS: dict[str, Callable[[IO[str], list[str]], RowWriter]] = {
    ".csv": lambda file, names: _separated(file, names, ","),
    ".tsv": lambda file, names: _separated(file, names, "\t"),
    ".jsonl": _json_lines,
}


def _tell(text: str) -> None:
    console(beside_the_answers=True).print(text)
