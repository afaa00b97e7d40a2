from __future__ import annotations

import csv
import io
import json
import random
import sys
from datetime import date, datetime
from pathlib import Path

import pandas
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

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


@pytest.mark.parametrize(
    ("name", "content", "found", "usual"),
    [
        ("a.csv", "id;text;label\n1;a, b;x\n", "semicolons", "commas"),
        ("a.csv", "text\tlabel\na, b\tx\n", "tabs", "commas"),
        ("a.csv", "id;text;label, old;label\n1;a, b;;x\n", "semicolons", "commas"),
        ("a.tsv", 'text,label\n"a, b",x\n', "commas", "tabs"),
    ],
)
def test_another_separator_is_read_and_told(
    tmp_path: Path, name: str, content: str, found: str, usual: str
) -> None:
    table = table_of(tmp_path / name, content)
    assert table.columns == {"text": ["a, b"], "label": ["x"]}
    notice = f"its fields are separated by {found}, not by {usual}, and were read so"
    assert table.notices == (f"{tmp_path / name}: {notice}",)


def test_a_wrong_column_beside_another_separator_is_one_problem(tmp_path: Path) -> None:
    remedy = "rename the columns in the file"
    problems = problems_of(tmp_path / "a.csv", "text;class\n" + "yes, or, no;x\n" * 30)
    assert problems == [f"has no column 'label'; it has ['text', 'class']; {remedy}"]
    assert table_of(tmp_path / "a.csv", "text,label\na;b,x\n").columns["text"] == ["a;b"]


def test_the_index_that_pandas_writes_is_left_out(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"text": [f"text {number}" for number in range(9)], "label": list("xyz" * 3)})
    shuffled = frame.sample(frac=1, random_state=0)
    table = table_of(tmp_path / "a.csv", shuffled.to_csv())
    assert table.columns["text"] == shuffled["text"].tolist()
    assert table.notices == (
        f"{tmp_path / 'a.csv'}: its first column has no name and numbers the rows, as pandas writes them:"
        " left out",
    )
    assert problems_of(tmp_path / "a.csv", ",text,label\n3,a,x\n3,b,y\n") == [
        "a value stands in a column without a name (quote texts with commas, or name the column, or write it"
        " with index=False) at lines 2, 3"
    ]


def test_excel_is_as_strict_with_columns_without_a_name(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")

    def workbook(*rows: list[object]) -> bytes:
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.save(tmp_path / "made.xlsx")
        return (tmp_path / "made.xlsx").read_bytes()

    file, remedy = tmp_path / "a.xlsx", "name the column, or clear its cells"
    stray = workbook(["text", "label", None, "x"], ["a", "x"], ["b", "y", 0], ["c", "x", None, 1, "far"])
    assert problems_of(file, stray) == [f"a value stands in a column without a name ({remedy}) at lines 3, 4"]
    frame = pandas.DataFrame({"text": ["a", "b", "c"], "label": ["x", "y", "x"]})
    frame.to_excel(tmp_path / "made.xlsx")
    table = table_of(file, (tmp_path / "made.xlsx").read_bytes())
    assert table.columns == {"text": ["a", "b", "c"], "label": ["x", "y", "x"]}
    assert table.notices == (
        f"{file}: its first column has no name and numbers the rows, as pandas writes them: left out",
    )
    pandas.concat([frame, frame]).to_excel(tmp_path / "made.xlsx")
    assert problems_of(file, (tmp_path / "made.xlsx").read_bytes()) == [
        f"a value stands in a column without a name ({remedy}, or write it with index=False)"
        " at lines 2, 3, 4, 5, 6, 7"
    ]


def test_truths_are_what_pandas_writes_but_in_json(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    frame = pandas.DataFrame({"text": ["a", "b"], "label": [True, False]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_excel(tmp_path / "a.xlsx", index=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    labels = {
        file.suffix: table_of(file, file.read_bytes()).columns["label"] for file in tmp_path.glob("a.*")
    }
    python, json_own = ["True", "False"], ["true", "false"]
    assert labels == {".csv": python, ".parquet": python, ".xlsx": python, ".jsonl": json_own}
    problems: list[str] = []
    listed = tmp_path / "listed.jsonl"
    listed.write_text('{"text": "a", "label": [true, "x", false]}')
    table = read_table(listed, COLUMNS, problems, {"label": ";"})
    assert table is not None
    assert table.columns["label"] == ["true;x;false"]


def damaged_copies_are_read_or_refused(file: Path, whole: bytes) -> int:
    """How many of 100 copies with wrong bytes are refused; the others hold rows."""
    draw, num_refused = random.Random(0), 0
    for _ in range(100):
        copy = bytearray(whole)
        for _ in range(4):
            copy[draw.randrange(len(copy))] = draw.randrange(256)
        file.write_bytes(copy)
        problems: list[str] = []
        assert (read_table(file, COLUMNS, problems) is None) == bool(problems)
        num_refused += bool(problems)
    return num_refused


VALUES_OF_CELLS = {
    "text": ["a", "b", "c", "d", "e", "f", "g"],
    "label": ["007", 7, 0.5, True, datetime(2026, 1, 31), datetime(2026, 1, 31, 8, 5), None],
}


def test_excel_is_read_as_it_is_shown(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    file, book = tmp_path / "a.xlsx", openpyxl.Workbook()
    book.create_sheet("more")
    book.active.append(["text", "label", None])
    for row in zip(*VALUES_OF_CELLS.values(), strict=True):
        book.active.append(row)
    book.active.insert_rows(3)
    book.save(file)
    whole = file.read_bytes()
    table = table_of(file, whole)
    assert table.columns["label"] == ["007", "7", "0.5", "True", "2026-01-31", "2026-01-31 08:05:00", None]
    assert table.lines == [2, 4, 5, 6, 7, 8, 9]
    assert table.notices == (f"{file}: it has 2 sheets, and only the first was read: 'Sheet'",)
    for raw in (b"PK\x03\x04", whole[:1000], b"text,label\n"):
        (problem,) = problems_of(file, raw)
        assert problem.startswith("is no Excel workbook that openpyxl can read: BadZipFile: ")
    assert damaged_copies_are_read_or_refused(file, whole) > 20


def test_without_openpyxl_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert problems_of(tmp_path / "a.xlsx", b"PK") == [
        "needs openpyxl to be read: `pip install openpyxl`; or save it in Excel as CSV UTF-8"
    ]


def test_parquet_keeps_the_values_as_they_are(tmp_path: Path) -> None:
    labels: list[tuple[list[object], list[str | None]]] = [
        (["007", "1.0", None], ["007", "1.0", None]),
        ([7, None, 2**60], ["7", None, str(2**60)]),
        ([1.0, 0.1, None], ["1.0", "0.1", None]),
        ([date(2026, 1, 31)] * 3, ["2026-01-31"] * 3),
    ]
    file = tmp_path / "a.parquet"
    for values, texts in labels:
        columns = {"id": [[1], [2], [3]], "text": ["a", "b", "c"], "label": values}
        parquet.write_table(pyarrow.table(columns), file)
        whole = file.read_bytes()
        table = table_of(file, whole)
        assert (table.columns["label"], table.lines) == (texts, [1, 2, 3])
    (problem,) = problems_of(file, whole[:-9])
    assert problem.startswith("is no Parquet file that pyarrow can read: ArrowInvalid: ")
    assert damaged_copies_are_read_or_refused(file, whole) > 20


def test_a_field_may_be_very_long(tmp_path: Path) -> None:
    text = "word " * 50_000
    assert table_of(tmp_path / "a.csv", f"text,label\n{text},x\n").columns["text"] == [text]


def test_a_column_that_is_not_asked_for_may_hold_anything(tmp_path: Path) -> None:
    assert len(table_of(tmp_path / "a.csv", "id,text,id,label,\n1,a,,x,\n,b,2,y,\n")) == 2


def test_rows_with_too_many_or_too_few_fields_are_reported(tmp_path: Path) -> None:
    content = "text,label\na,x\nb, and c,x\nd\ne,y\nf,g,y\n"
    assert problems_of(tmp_path / "a.csv", content) == [
        "must have 2 fields like the header, got 1 or 3 at lines 3, 4, 6",
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
    assert problems_of(tmp_path / "a.csv", "texts,class\na,x\n") == [
        "has no columns 'text', 'label'; it has ['texts', 'class']; rename the columns in the file"
    ]
    assert problems_of(tmp_path / "a.jsonl", '{"text": "a", "labels": "x"}') == [
        "has no column 'label'; did you mean 'labels'?; it has ['text', 'labels']; rename the columns"
        " in the file"
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
        (
            '{"text": "a", "label": ["x"]}',
            "'label' must be text, a number or true/false, got a list; lists of labels need data.multi_label",
        ),
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
    known = ".csv, .tsv, .jsonl, .xlsx, .parquet"
    assert problems == [f"must be one of {known}, got '.json'; JSON is read one object a line, as .jsonl"]
    assert problems_of(tmp_path / "a.xls", "x") == [
        f"must be one of {known}, got '.xls'; save it as .xlsx, or as CSV UTF-8"
    ]


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
