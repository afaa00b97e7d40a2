"""`loratrack predict`: what is read, what is written, and what each fault says."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loratrack.cli import main
from loratrack.serving import files
from loratrack.store.client import connect
from loratrack.store.place import tracking_uri

NAMES = ["text", "risk", "adopt", "risk_probability", "adopt_probability"]
CHINESE = "客 户 loud，take\r\n第二行"

Words = Callable[..., int]


@pytest.fixture
def words(untrained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Words:
    """`loratrack predict --model MODEL …` in an empty folder; gives the exit code."""
    monkeypatch.chdir(tmp_path)
    return lambda *more: main(["predict", "--model", str(untrained), *map(str, more)])


def rows_of(file: str) -> list[list[str]]:
    with open(file, encoding="utf-8", newline="") as opened:
        return list(csv.reader(opened, strict=True))


def test_texts_are_answered_on_the_screen(words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    assert words("--text", "loud [b]take[/b] :smile:", "--text", CHINESE) == 0
    printed, errors = capsys.readouterr()
    assert errors == ""
    assert printed.startswith("loud [b]take[/b] :smile:\n  risk: ")
    assert CHINESE.replace("\r", "") in printed.replace("\r", "")
    assert printed.count("  adopt: ") == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_a_file_is_answered_row_by_row_whatever_its_encoding(words: Words, encoding: str) -> None:
    texts = ["风险 calm take", "采纳 客户 loud", "不采纳 客户 mild leave", CHINESE]
    quoted = "".join(f'{n},"{text}"\n' for n, text in enumerate(texts))
    Path("in.csv").write_text("id,text\n" + quoted, encoding, newline="")
    assert words("--file", "in.csv", "--out", "out.csv") == 0
    header, *rows = rows_of("out.csv")
    assert header == NAMES
    assert [row[0] for row in rows] == texts
    assert {row[1] for row in rows} <= {"低风险", "中风险", "高风险"}
    assert all(0 < float(row[3]) <= 1 for row in rows)


def test_a_guessed_encoding_is_told(words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.csv").write_bytes(("text\n" + "风险很高的客户，不采纳\n" * 9).encode("gb18030"))
    words("--file", "in.csv", "--out", "out.csv")
    assert "in.csv: encoding guessed as gb18030; save the file as UTF-8 to be sure" in capsys.readouterr().err


def test_json_lines_go_in_and_come_out(words: Words) -> None:
    texts = ["=SUM(A1)", "line\u2028separator", CHINESE]
    Path("in.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), "utf-8")
    assert words("--file", "in.jsonl", "--out", "out.jsonl") == 0
    rows = [json.loads(line) for line in Path("out.jsonl").read_text("utf-8").split("\n") if line]
    assert [list(row) for row in rows] == [NAMES] * 3
    assert [row["text"] for row in rows] == texts


def test_cells_stay_as_they_are_unless_a_spreadsheet_is_to_open_them(words: Words) -> None:
    texts = ["=cmd()", "+1+cmd()", "-2", "@sum", "\tx", "plain", "a\rb"]
    Path("in.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), "utf-8")
    cells = []
    for more in ([], ["--safe-for-excel"]):
        assert words("--file", "in.jsonl", "--out", "out.tsv", *more) == 0
        with open("out.tsv", encoding="utf-8", newline="") as opened:
            cells.append([row[0] for row in csv.reader(opened, delimiter="\t")][1:])
    assert cells == [texts, ["'=cmd()", "'+1+cmd()", "-2", "'@sum", "'\tx", "plain", "a\rb"]]


def test_labels_that_look_like_formulas_are_labels(tmp_path: Path) -> None:
    rows: list[files.Row] = [{"text": "-bad", "mood": "=mid", "mood_probability": 0.5}]
    for safe, expected in ((False, ["-bad", "=mid", "0.5"]), (True, ["'-bad", "'=mid", "0.5"])):
        files.write(rows, tmp_path / "out.csv", list(rows[0]), label_separator=";", safe_for_excel=safe)
        assert rows_of(str(tmp_path / "out.csv"))[1] == expected


def test_what_is_safe_for_excel_is_a_file_that_excel_opens(
    words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words("--text", "calm", "--safe-for-excel") == 2
    assert "--safe-for-excel: needs --out" in capsys.readouterr().err
    assert words("--text", "calm", "--safe-for-excel", "--out", "out.jsonl") == 2
    assert "--safe-for-excel: is for .csv and .tsv" in capsys.readouterr().err


def test_ten_thousand_rows_keep_their_order(words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [f"{'the ' * (number % 3)}calm n{number}" for number in range(10_000)]
    Path("in.csv").write_text("text\n" + "\n".join(texts), "utf-8")
    assert words("--file", "in.csv", "--out", "out.csv") == 0
    assert [row[0] for row in rows_of("out.csv")[1:]] == texts
    assert capsys.readouterr().err == "out.csv: 10,000 rows\n"


def test_a_batch_gives_what_a_text_alone_gives(words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["calm take", "loud the the the the leave note"]
    Path("in.csv").write_text("text\n" + "\n".join(texts * (files.BATCH_ROWS // 2 + 1)), "utf-8")
    words("--file", "in.csv", "--out", "out.csv")
    rows = rows_of("out.csv")
    words("--text", texts[1])
    *_, last = rows
    expected = f"risk: {last[1]} ({float(last[3]):.3f})  adopt: {last[2]} ({float(last[4]):.3f})"
    assert expected in capsys.readouterr().out


def test_what_is_there_stays_until_the_new_file_is_whole(words: Words) -> None:
    Path("out.csv").write_text("old")
    Path("in.csv").write_text("text\ncalm\n \n")
    assert words("--file", "in.csv", "--out", "out.csv") == 2
    assert Path("out.csv").read_text() == "old"
    assert sorted(os.listdir()) == ["in.csv", "out.csv"]


FAULTS = {
    "no-such-folder": (
        ["--out", "nowhere/out.csv"],
        "nowhere/out.csv: must be in a folder that exists, not in nowhere; make it first",
    ),
    "kind": (["--out", "out.xlsx"], "out.xlsx: must end in .csv, .tsv, .jsonl, got '.xlsx'"),
    "a-folder": (["--out", "sub.csv"], "sub.csv: must be a file, got a folder"),
    "itself": (["--out", "in.csv"], "in.csv: must be another file than the one with the texts"),
}


@pytest.mark.parametrize(("more", "message"), FAULTS.values(), ids=FAULTS)
def test_an_out_that_cannot_be_written_is_told_at_once(
    words: Words, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in.csv").write_text("text\ncalm\n")
    Path("sub.csv").mkdir()
    assert words("--file", "in.csv", *more) == 2
    assert capsys.readouterr().err == f"loratrack: {message}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Text\ncalm\n", "in.csv: has no column 'text'; did you mean 'Text'?"),
        ("text\n", "in.csv: holds no rows, only a header"),
        ("", "in.csv: is empty; it must hold a header and rows"),
        ("text\ncalm\n\n \n", "in.csv: the text is empty at line 4; fill or delete these rows"),
        ("text\ncalm,take\n", "in.csv: must have 1 field like the header, got 2 at line 2"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_its_lines(
    words: Words, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in.csv").write_text(content)
    assert words("--file", "in.csv", "--out", "out.csv") == 2
    assert f"loratrack: in.csv: 1 problem\n  {message}" in capsys.readouterr().err
    assert not Path("out.csv").exists()


@pytest.mark.parametrize("text", ["", "  "])
def test_a_text_must_be_text(words: Words, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words("--text", text) == 2
    assert capsys.readouterr().err == f"loratrack: --text: must be text, got {text!r}\n"


def test_a_model_is_named_as_in_every_command(ask: Any) -> None:
    run_id = str(connect().get_model_version("tiny", "1").run_id)
    names = ("tiny/1", "models:/tiny/1", "first", run_id, run_id[:12], f"runs:/{run_id}")
    answers = [ask("predict", "--model", name, "--text", "calm take") for name in names]
    assert len(set(answers)) == 1
    assert answers[0][0] == 0


WITHOUT_BOTH = """
import sys
from loratrack.cli import main
for name in ("frist", "tiny/9"):
    print(main(["predict", "--model", name, "--text", "calm"]), end=" ")
print([name for name in ("torch", "mlflow") if name in sys.modules])
"""


def test_a_mistyped_model_is_1_before_torch_or_mlflow_is_opened(trained: Any) -> None:
    process = subprocess.run([sys.executable, "-c", WITHOUT_BOTH], capture_output=True, text=True, check=True)
    forms = "NAME@alias, NAME/3, NAME/Production, an exp_id, a run's id or its beginning, or a folder"
    assert process.stdout == "1 1 []\n"
    assert process.stderr == (
        f"loratrack: frist: no such run, exp_id or version in {tracking_uri()}; did you mean 'first'?;"
        f" a model is {forms}\n"
        f"loratrack: tiny/9: no such version; it has 1, 2, 3; a model is {forms}\n"
    )
