"""A whole file labelled: its rows in their order, each with its texts, labels and probabilities.

check_target(Path("out.csv"), Path("in.csv"))          # before a model is loaded
rows = labelled(classifier, read_texts(Path("in.csv"), classifier.config.text_columns))
write(rows, Path("out.csv"), column_names(classifier.config))
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from loratrack import disk
from loratrack.config import RunConfig
from loratrack.config.schema import probability_column
from loratrack.errors import UserError

if TYPE_CHECKING:  # opens torch, for which a check of the target need not wait
    from loratrack.serving.classifier import Classifier

Cell = str | float | list[str] | list[float]
"""Lists are the labels of a multi-label task and their probabilities."""
Row = dict[str, Cell]
RowWriter = Callable[[Row], object]

BATCH_ROWS = 2048
"""Rows that are labelled in one go."""
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet runs a cell that starts so."""
NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")
PROBABILITY_DIGITS = 6


def column_names(config: RunConfig) -> list[str]:
    """Texts, labels, probabilities."""
    return [*config.text_columns, *config.tasks, *map(probability_column, config.tasks)]


def check_target(target: Path, source: Path | None = None, *, safe_for_excel: bool = False) -> None:
    """UserError where the labelled file of `source` cannot be written to `target`."""
    if safe_for_excel and target.suffix.lower() == ".jsonl":
        raise UserError(f"--safe-for-excel: is for .csv and .tsv, which spreadsheets open, got {target}")
    if target.suffix.lower() not in WRITERS:
        raise UserError(f"{target}: must end in {', '.join(WRITERS)}, got {target.suffix!r}")
    if not target.absolute().parent.is_dir():
        raise UserError(f"{target}: must be in a folder that exists, not in {target.parent}; make it first")
    if target.is_dir():
        raise UserError(f"{target}: must be a file, got a folder")
    if source is not None and target.exists() and source.exists() and target.samefile(source):
        raise UserError(f"{target}: must be another file than the one with the texts")


def labelled(classifier: Classifier, columns: Mapping[str, list[str]]) -> Iterator[Row]:
    """The rows of these text columns, a batch at a time."""
    num_rows = len(next(iter(columns.values())))
    for start in range(0, num_rows, BATCH_ROWS):
        batch = {name: texts[start : start + BATCH_ROWS] for name, texts in columns.items()}
        for index, predictions in enumerate(classifier.answer(batch)):
            row: Row = {name: texts[index] for name, texts in batch.items()}
            several = classifier.config.multi_label_tasks
            for task, each in predictions.items():
                row[task] = list(each.labels) if task in several else each.label
            for task, each in predictions.items():
                numbers = [round(each.probabilities[label], PROBABILITY_DIGITS) for label in each.labels]
                one = round(each.probability, PROBABILITY_DIGITS)
                row[probability_column(task)] = numbers if task in several else one
            yield row


def write(
    rows: Iterable[Row],
    file: Path,
    names: list[str],
    *,
    label_separator: str,
    safe_for_excel: bool = False,
) -> int:
    """Write the whole file or nothing; the ending of `file` says the format. Returns the number of rows.

    Lists are joined by `label_separator` where the format has none. Labels and texts stay as they are, so
    that answers can be joined to the data. `safe_for_excel`: what a spreadsheet would run as a formula gets
    an apostrophe in front.
    """
    num_rows = 0
    try:
        with disk.whole_file(file) as draft, draft.open("x", encoding="utf-8", newline="") as opened:
            write_row = WRITERS[file.suffix.lower()](opened, names)
            for row in rows:
                if file.suffix.lower() != ".jsonl":
                    row = {name: joined(cell, label_separator) for name, cell in row.items()}
                write_row({name: safe_cell(cell) for name, cell in row.items()} if safe_for_excel else row)
                num_rows += 1
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror}") from None
    return num_rows


def joined(cell: Cell, separator: str) -> Cell:
    return separator.join(map(str, cell)) if isinstance(cell, list) else cell


def safe_cell(cell: Cell) -> Cell:
    """A formula becomes a text that shows it; a number stays a number."""
    if isinstance(cell, str) and cell.startswith(FORMULA_STARTS) and not NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def separated(file: IO[str], names: list[str], delimiter: str) -> RowWriter:
    """CSV or TSV; quotes around every text, since a lone carriage return would split a row otherwise."""
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(names)
    return lambda row: writer.writerow([row[name] for name in names])


def json_lines(file: IO[str], names: list[str]) -> RowWriter:
    return lambda row: file.write(json.dumps({name: row[name] for name in names}, ensure_ascii=False) + "\n")


WRITERS: dict[str, Callable[[IO[str], list[str]], RowWriter]] = {
    ".csv": lambda file, names: separated(file, names, ","),
    ".tsv": lambda file, names: separated(file, names, "\t"),
    ".jsonl": json_lines,
}
"""What writes each format."""
