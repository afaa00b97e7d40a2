from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratrack.data.tables import Table, lines_text, read_table

COLUMNS = ("text", "label")


def problems_of(file: Path, content: str | bytes) -> list[str]:
    """What is reported of a file with that content, without the file's name."""
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    problems: list[str] = []
    assert read_table(file, COLUMNS, problems) is None
    assert all(problem.startswith(f"{file}: ") for problem in problems)
    return [problem.removeprefix(f"{file}: ") for problem in problems]


def table_of(file: Path, content: str | bytes) -> Table:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    problems: list[str] = []
    table = read_table(file, COLUMNS, problems)
    assert table is not None, problems
    assert problems == []
    return table


@pytest.mark.parametrize(
    "label", ["NA", "None", "null", "nan", "007", "1", "1.0", "1e3", "true", "no", "N/A"]
)
def test_every_label_stays_the_text_it_is(tmp_path: Path, label: str) -> None:
    table = table_of(tmp_path / "a.csv", f"text,label\nsome,{label}\n")
    assert table.columns["label"] == [label]


def test_numbers_and_truths_in_json_stay_as_written(tmp_path: Path) -> None:
    values = ["1", "1.0", "007", "1e3", "true", "false", "12345678901234567890"]
    written = [json.dumps(value) if value == "007" else value for value in values]
    lines = [f'{{"text": "a", "label": {value}}}' for value in written]
    assert table_of(tmp_path / "a.jsonl", "\n".join(lines)).columns["label"] == values


def test_null_nan_and_a_missing_key_are_missing_values(tmp_path: Path) -> None:
    lines = ['{"text": "a", "label": null}', '{"text": "b", "label": NaN}', '{"text": "c"}']
    assert table_of(tmp_path / "a.jsonl", "\n".join(lines)).columns["label"] == [None, None, None]


def test_a_row_is_reported_by_the_line_it_starts_at(tmp_path: Path) -> None:
    content = 'text,label\r\n"two\r\nlines",a\r\n\r\n"quoted ""word"", comma",b\r\n'
    table = table_of(tmp_path / "a.csv", content)
    assert table.columns["text"] == ["two\r\nlines", 'quoted "word", comma']
    assert table.lines == [2, 5]


def test_json_lines_are_cut_at_newlines_alone(tmp_path: Path) -> None:
    table = table_of(
        tmp_path / "a.jsonl", '{"text": "a\u2028b", "label": "x"}\r\n\n{"text": "c", "label": "y"}'
    )
    assert table.columns["text"] == ["a\u2028b", "c"]
    assert table.lines == [1, 3]


def test_tabs_part_the_fields_of_a_tsv(tmp_path: Path) -> None:
    assert table_of(tmp_path / "a.tsv", "text\tlabel\na, b\tx\n").columns["text"] == ["a, b"]


def test_a_field_may_be_very_long(tmp_path: Path) -> None:
    text = "word " * 50_000
    assert table_of(tmp_path / "a.csv", f"text,label\n{text},x\n").columns["text"] == [text]


def test_a_column_that_is_not_asked_for_may_hold_anything(tmp_path: Path) -> None:
    assert len(table_of(tmp_path / "a.csv", "id,text,id,label,\n1,a,,x,\n,b,2,y,\n")) == 2


def test_rows_with_too_many_or_too_few_fields_are_reported(tmp_path: Path) -> None:
    content = "text,label\na,x\nb, and c,x\nd\ne,y\nf,g,y\n"
    assert problems_of(tmp_path / "a.csv", content) == [
        "must have 2 fields like the header, has 3 at lines 3, 6",
        "must have 2 fields like the header, has 1 at line 4",
    ]


def test_values_that_spill_into_columns_without_a_name_are_reported(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "a.csv", "text,label,,\na,x,,\nb,x, and c,\n") == [
        "a value stands in a column without a name (quote texts with commas, or name the column) at line 3"
    ]


def test_bad_quoting_is_reported(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "a.csv", 'text,label\n"said "so" he",x\nb,y\n"open,x\n') == [
        "a closing quote must stand before ',' or the line's end (a quote inside is doubled) at line 2",
        "a quote is opened and never closed at line 4",
    ]


def test_where_no_line_can_be_read_nothing_is_said_of_columns(tmp_path: Path) -> None:
    assert len(problems_of(tmp_path / "a.jsonl", "{\n{\n")) == 1
    assert len(problems_of(tmp_path / "a.csv", '"open,label\na,x\n')) == 1


def test_a_wrong_column_name_is_reported_with_the_nearest(tmp_path: Path) -> None:
    settings = "(settings data.text_column, data.label_subset, data.label_columns)"
    assert problems_of(tmp_path / "a.csv", "texts,class\na,x\n") == [
        f"has no column 'text'; did you mean 'texts'?; it has ['texts', 'class'] {settings}",
        f"has no column 'label'; it has ['texts', 'class'] {settings}",
    ]
    assert problems_of(tmp_path / "a.jsonl", '{"text": "a", "labels": "x"}') == [
        f"has no column 'label'; did you mean 'labels'?; it has ['text', 'labels'] {settings}"
    ]


def test_a_column_twice_is_reported(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "a.csv", "text,label,label\na,x,y\n") == [
        "has the column 'label' more than once; rename one"
    ]


@pytest.mark.parametrize("content", ["", "  \n\n", "\t"])
def test_an_empty_file_is_reported(tmp_path: Path, content: str) -> None:
    assert problems_of(tmp_path / "a.csv", content) == ["is empty; it must hold a header and rows"]


def test_a_mark_of_utf8_alone_is_an_empty_file(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "a.csv", b"\xef\xbb\xbf") == ["is empty; it must hold a header and rows"]


def test_a_header_without_rows_is_reported(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "a.csv", "text,label\n") == ["holds no rows, only a header"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "a", "label": "x"', "must be one JSON object a line (expecting ',' delimiter)"),
        ("[1, 2]", "must be one JSON object a line, got a list"),
        ("text", "must be one JSON object a line (expecting value)"),
        ("[" * 100_000, "must be one JSON object a line (nested too deeply)"),
        ('{"text": "a", "label": ["x"]}', "'label' must be text, a number or true/false, got a list"),
        ('{"text": {"a": 1}, "label": "x"}', "'text' must be text, a number or true/false, got a dict"),
        ('{"text": "a", "text": "b", "label": "x"}', "the same key stands twice in one object"),
        (r'{"text": "\ud83d", "label": "x"}', "'text' holds half of a character (a lone surrogate escape)"),
    ],
)
def test_a_bad_json_line_is_reported(tmp_path: Path, line: str, problem: str) -> None:
    content = f'{{"text": "a", "label": "x"}}\n{line}\n'
    assert problems_of(tmp_path / "a.jsonl", content) == [f"{problem} at line 2"]


def test_a_json_array_is_reported(tmp_path: Path) -> None:
    problems = problems_of(tmp_path / "a.json", '[{"text": "a", "label": "x"}]')
    assert problems == ["must be one of .csv, .tsv, .jsonl, got '.json'; JSON is read one object a line"]


def test_a_missing_file_is_reported_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "train.csv").touch()
    problems: list[str] = []
    assert read_table(tmp_path / "trian.csv", COLUMNS, problems) is None
    assert problems == [f"{tmp_path / 'trian.csv'}: no such file; did you mean 'train.csv'?"]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    problems: list[str] = []
    assert read_table(tmp_path / "a.csv", COLUMNS, problems) is None
    assert problems == [f"{tmp_path / 'a.csv'}: must be a file, got a folder"]


def test_ten_lines_are_shown_and_the_rest_counted() -> None:
    assert lines_text([3]) == "line 3"
    assert lines_text([3, 5]) == "lines 3, 5"
    assert lines_text(list(range(1, 26))) == "lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, … and 15 more"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=5))
def test_what_csv_writes_is_read_back(folder: Path, rows: list[tuple[str, str]]) -> None:
    content = io.StringIO(newline="")
    csv.writer(content, quoting=csv.QUOTE_ALL).writerows([COLUMNS, *rows])
    table = table_of(folder / "a.csv", content.getvalue())
    assert list(zip(*(table.columns[column] for column in COLUMNS), strict=True)) == rows


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=5), st.booleans())
def test_what_json_writes_is_read_back(folder: Path, rows: list[tuple[str, str]], ascii_only: bool) -> None:
    lines = [json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=ascii_only) for row in rows]
    table = table_of(folder / "a.jsonl", "\n".join(lines))
    assert list(zip(*(table.columns[column] for column in COLUMNS), strict=True)) == rows


@given(st.sampled_from([".csv", ".tsv", ".jsonl"]), st.binary(max_size=200), st.booleans())
def test_any_file_is_read_or_refused(folder: Path, suffix: str, raw: bytes, has_header: bool) -> None:
    file = folder / f"fuzz{suffix}"
    file.write_bytes(b"text,label\n" + raw if has_header else raw)
    problems: list[str] = []
    table = read_table(file, COLUMNS, problems)
    assert (table is None) == bool(problems)
    assert table is None or all(len(values) == len(table) > 0 for values in table.columns.values())


STRUCTURED = st.text(st.sampled_from('ab",\n\r\t {}[]:1\\é'), max_size=60)


@given(st.sampled_from([".csv", ".tsv", ".jsonl"]), STRUCTURED)
def test_any_structure_is_read_or_refused(folder: Path, suffix: str, content: str) -> None:
    file = folder / f"structure{suffix}"
    file.write_text(f"text,label\n{content}", encoding="utf-8", newline="")
    problems: list[str] = []
    table = read_table(file, COLUMNS, problems)
    assert (table is None) == bool(problems)
