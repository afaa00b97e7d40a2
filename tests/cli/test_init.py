"""`loratrack init`: a config from the columns and labels of a data file, which can be checked and trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import loratrack as lt
from loratrack.cli import main

Init = Callable[..., tuple[int, str, str]]


@pytest.fixture
def init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Init:
    monkeypatch.chdir(tmp_path)

    def said(*words: str) -> tuple[int, str, str]:
        code = main(["init", *words])
        return code, *capsys.readouterr()

    return said


def chinese(count: int) -> str:
    """Two Chinese label columns and a number of each row."""
    levels, answers = ("低风险", "中风险", "高风险", "低风险"), ("采纳", "不采纳", "采纳")
    rows = [f"{n},第{n}条记录的说明文字,{levels[n % 4]},{answers[n % 3]}" for n in range(count)]
    return "\n".join(["序号,文本,风险等级,是否 采纳", *rows, ""])


def test_a_chinese_file_in_gbk_becomes_a_config(init: Init, tmp_path: Path) -> None:
    (tmp_path / "风险.csv").write_bytes(chinese(120).encode("gb18030"))
    code, shown, errors = init("风险.csv")
    assert (code, errors) == (0, "")
    assert shown == (
        "text         column '文本': its name\n"
        "labels       '风险等级', '是否 采纳': the name, and few different values\n"
        "validation   a tenth of the rows, held out\n"
        "风险等级         3 labels, the most frequent first: 低风险, 中风险, 高风险\n"
        "是否_采纳        2 labels, the most frequent first: 采纳, 不采纳\n"
        "base         minilm: built in, needs no network\n"
        "             100% of the letters are Chinese, Japanese or Korean, which minilm has hardly seen;"
        " where the hub or its folder is at hand, model.arch: bert-base-chinese does better\n"
        "\n风险.yaml is written; all of it may be changed. Next:\n"
        "  loratrack check '风险.yaml'\n  loratrack run '风险.yaml'\n"
    )
    assert yaml.safe_load((tmp_path / "风险.yaml").read_text("utf-8")) == {
        "exp_id": "风险",
        "task_type": "double_cls",
        "data": {
            "raw_data_path": "风险.csv",
            "text_column": "文本",
            "label_columns": {"是否_采纳": "是否 采纳"},
            "label_subset": {"风险等级": ["低风险", "中风险", "高风险"], "是否_采纳": ["采纳", "不采纳"]},
        },
        "model": {"arch": "minilm", "pooling": "mean"},
        "train": {"epochs": 5},
    }
    assert lt.check("风险.yaml")["rows"] == {"train": 108, "validation": 12}


def test_what_is_written_trains(
    init: Init, sample: Any, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlruns").mkdir()
    shutil.copy(empty_database, tmp_path / "mlruns" / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    out = tmp_path / "made.yaml"
    assert (
        init(str(sample.folder / "train.csv"), "--out", str(out), "--label", "risk", "--label", "channel")[0]
        == 0
    )
    config = lt.load(out, f"model.arch={sample.base}", "train.epochs=1; data.max_len=32", "register=false")
    assert set(config.subsets["channel"]) == {"web", "shop", "007"}
    assert config.data.test_path == str(sample.folder / "test.csv")
    assert lt.train(config).status == "FINISHED"


def test_labels_that_yaml_bends_and_texts_that_lack_are_kept(init: Init, tmp_path: Path) -> None:
    labels = ("yes", "no", "null", "007", "1e3", "a: b")
    rows = [f'text {number},"{labels[number % 6]}"' for number in range(60)]
    (tmp_path / "raw.csv").write_text("\n".join(["body,answer", *rows, ",yes", ",no"]))
    assert init("raw.csv", "--out", "a.yaml")[0] == 0
    checked = lt.check("a.yaml")
    assert set(checked["labels"]["label"]) == set(labels)
    assert checked["files"]["data.raw_data_path"]["rows_without_text"] == 2


def test_what_check_would_refuse_is_told_with_its_number(
    init: Init, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"text {number},{'xy'[number % 2]}" for number in range(40)]
    (tmp_path / "train.csv").write_text(
        "\n".join(["text,label", *rows, "no label,", "nor here, ", ",x", ","])
    )
    (tmp_path / "test.csv").write_text("text,label\nasked,x\nasked too,\n ,y\n")
    code, shown, _ = init("train.csv", "--out", "a.yaml")
    assert code == 0
    assert [line for line in shown.splitlines() if line.startswith(("label  ", "empty_text"))] == [
        "label        2 labels, the most frequent first: x, y",
        "label        2 rows have no label in train.csv (lines 42, 43); fill or delete these rows, else"
        " `loratrack check` refuses them",
        "label        1 row has no label in test.csv (line 3); fill or delete these rows, else"
        " `loratrack check` refuses them",
        "empty_text   drop: 3 rows have no text (2 in train.csv, 1 in test.csv);"
        " with `error` they are refused",
    ]
    assert main(["check", "a.yaml"]) == 2
    assert "the label 'label' is missing at lines 42, 43;" in capsys.readouterr().err


def test_many_labels_are_all_and_bad_task_names_are_replaced(init: Init, tmp_path: Path) -> None:
    rows = [f"text {number},a{number % 40},b{number % 2}" for number in range(200)]
    (tmp_path / "raw.csv").write_text("\n".join(["text,loss,avg", *rows]))
    assert init("raw.csv", "--out", "a.yaml")[0] == 0
    config = lt.load("a.yaml")
    assert config.data.label_columns == {"task_1": "loss", "task_2": "avg"}
    assert config.data.label_subset == {"task_1": "all", "task_2": ("b0", "b1")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("raw.csv",), "raw.yaml: is there already and is not replaced; name another file with --out"),
        (
            ("raw.csv", "--text", "txt"),
            "raw.csv: has no column 'txt'; did you mean 'text'?; it has ['text', 'n']",
        ),
        (("raw.csv", "--out", "a.csv"), "a.csv: must end in .yaml, got '.csv'"),
        (
            ("numbers.csv",),
            "numbers.csv: no column beside 'text' has few different values; name the columns of the labels"
            " with --label, and that of the text with --text",
        ),
        (("nmbers.csv",), "nmbers.csv: 1 problem\n  no such file; did you mean 'numbers.csv'?"),
    ],
)
def test_what_cannot_be_guessed_or_written_is_told(
    init: Init, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "raw.csv").write_text("text,n\n" + "a,x\nb,y\n" * 9)
    (tmp_path / "numbers.csv").write_text("text,n\n" + "".join(f"a,{n}\n" for n in range(9)))
    (tmp_path / "raw.yaml").touch()
    assert init(*words) == (2, "", f"loratrack: {message}\n")


def test_labels_that_are_joined_become_several_labels_a_row(init: Init, tmp_path: Path) -> None:
    topics = ("sport", "law", "sport|law", "law|art", "art", "")
    rows = [f"text number {n},{topics[n % 6]},{'yes' if n % 4 else 'no'}" for n in range(120)]
    (tmp_path / "topics.csv").write_text("\n".join(["text,topics,urgent", *rows]), "utf-8")
    code, shown, errors = init("topics.csv")
    assert (code, errors) == (0, "")
    assert (
        "topics       several labels a row, joined by '|': the parts are labels too\n"
        "topics       3 labels, the most frequent first: law, sport, art\n"
    ) in shown
    data = yaml.safe_load((tmp_path / "topics.yaml").read_text("utf-8"))["data"]
    assert (data["multi_label"], data["label_separator"]) == (["topics"], "|")
    assert data["label_subset"] == {"topics": ["law", "sport", "art"], "urgent": ["yes", "no"]}
    assert lt.check("topics.yaml")["rows"] == {"train": 108, "validation": 12}
