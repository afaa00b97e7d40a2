from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratrack.data.conversations.json_records import Records, read_records

RECORDS = [{"text": "数据 😀\u2028", "n": 1, "x": 1.0, "yes": True}, {"text": "b", "n": None}]
LISTED = json.dumps(RECORDS, ensure_ascii=False, indent=1)
ONE_A_LINE = "\n\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS)


def records_of(file: Path, content: str | bytes) -> Records:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    problems: list[str] = []
    records = read_records(file, problems)
    assert problems == []
    assert records is not None
    return records


def problems_of(file: Path, content: str | bytes) -> list[str]:
    """What is reported of a file with that content, without the file's name."""
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    problems: list[str] = []
    read_records(file, problems)
    assert all(problem.startswith(f"{file}: ") for problem in problems)
    return [problem.removeprefix(f"{file}: ") for problem in problems]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.JSON"])
def test_a_list_and_one_record_a_line_are_told_apart_by_what_they_hold(tmp_path: Path, name: str) -> None:
    listed = records_of(tmp_path / name, f"\n {LISTED}\r\n")
    assert (listed.noun, listed.values) == ("record", [(1, RECORDS[0]), (2, RECORDS[1])])
    lines = records_of(tmp_path / name, ONE_A_LINE.replace("\n", "\r\n"))
    assert (lines.noun, lines.values) == ("line", [(1, RECORDS[0]), (3, RECORDS[1])])
    one = records_of(tmp_path / name, json.dumps(RECORDS[0], indent=2))
    assert one.values == [(1, RECORDS[0])]


def test_numbers_and_truths_stay_what_they_are_and_nan_is_missing(tmp_path: Path) -> None:
    (only,) = records_of(tmp_path / "a.json", '[[1, 1.0, true, "1", NaN]]').values
    assert repr(only) == "(1, [1, 1.0, True, '1', None])"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_encodings_are_found(tmp_path: Path, encoding: str) -> None:
    text = json.dumps([{"output": "味道很好，送餐快，没有送水"}], ensure_ascii=False)
    records = records_of(tmp_path / "a.json", text.encode(encoding))
    assert records.values == [(1, {"output": "味道很好，送餐快，没有送水"})]
    assert records.encoding == encoding


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", "a,b", "must be one of .json, .jsonl, got '.csv'; write conversations as JSON"),
        ("a.txt", "[]", "must be one of .json, .jsonl, got '.txt'"),
        ("a.json", "\ufeff \n", "is empty; it must hold records"),
        ("a.json", "[ ]", "holds no records"),
        ("a.json", '[{"a": 1},\n{"a": 2\n', "record 2: expecting ',' delimiter (line 3)"),
        ("a.json", '[{"a": 1},\n]', "record 2: expecting value (line 2)"),
        ("a.json", '[{"a": 1}\n{"a": 2}]', "record 1: no comma or ] follows it (line 2)"),
        ("a.json", '[{"a": 1}', "record 1: no comma or ] follows it (line 1)"),
        ("a.json", '[{"a": 1}]\n[]', "line 2: something follows the end of the list"),
        (
            "a.json",
            '[{"a": 1}, {"a": 1, "a": 2}]',
            "record 2: the same key stands twice in one object (line 1)",
        ),
        ("a.json", "[" + "1" * 5000 + "]", "record 1: a number has too many digits (line 1)"),
        (
            "a.json",
            '{\n"a": 1,,\n}',
            "must be JSON: a list, one object, or one object a line; expecting property name enclosed in"
            " double quotes (line 2)",
        ),
        (
            "a.json",
            b'[{"a": "\0"}]',
            "line 1: holds a NUL byte, so it is no text file; save it as UTF-8 text",
        ),
        (
            "a.jsonl",
            b"\x89PNG\r\n\xff\xfe\xfa",
            "is neither UTF-8, UTF-16, GBK/GB18030 nor Windows-1252; save it as UTF-8",
        ),
    ],
)
def test_a_broken_file_is_one_message_with_its_place(
    tmp_path: Path, name: str, content: str | bytes, problem: str
) -> None:
    assert problems_of(tmp_path / name, content) == [problem]


def test_lines_that_are_no_json_are_reported_together_and_the_others_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    assert problems_of(file, '{"a": 1\n{"a": 2}\nhi\n{"a": 3\n{"a": 1, "a": 1}\n') == [
        "lines 1, 4: must be one JSON object a line (expecting ',' delimiter)",
        "line 3: must be one JSON object a line (expecting value)",
        "line 5: must be one JSON object a line (the same key stands twice in one object)",
    ]
    records = read_records(file, [])
    assert records is not None
    assert records.values == [(2, {"a": 2})]


def test_a_missing_file_and_a_folder_are_reported(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("[]")
    (tmp_path / "folder.json").mkdir()
    problems: list[str] = []
    assert read_records(tmp_path / "trian.json", problems) is None
    assert read_records(tmp_path / "folder.json", problems) is None
    assert problems == [
        f"{tmp_path / 'trian.json'}: no such file; did you mean 'train.json'?",
        f"{tmp_path / 'folder.json'}: must be a file, got a folder",
    ]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.json", "[" * 3_000_000, "record 1: nested too deeply (line 1)"),
        (
            "a.json",
            '{"a":' * 1_000_000,
            "must be JSON: a list, one object, or one object a line; nested too deeply (line 1)",
        ),
        ("a.jsonl", '{"a":' * 1_000_000, "line 1: must be one JSON object a line (nested too deeply)"),
    ],
)
def test_a_file_of_brackets_is_refused_quickly(tmp_path: Path, name: str, content: str, problem: str) -> None:
    start = time.process_time()
    assert problems_of(tmp_path / name, content) == [problem]
    assert time.process_time() - start < 2


@given(st.text(st.sampled_from('[]{}",:1 \n\\naNu😀'), max_size=30), st.sampled_from([".json", ".jsonl"]))
def test_any_text_gives_records_or_problems(
    tmp_path_factory: pytest.TempPathFactory, content: str, suffix: str
) -> None:
    file = tmp_path_factory.getbasetemp() / f"any{suffix}"
    file.write_text(content, encoding="utf-8")
    problems: list[str] = []
    records = read_records(file, problems)
    assert problems or (records is not None and records.values)
