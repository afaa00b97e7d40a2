"""`loratrack check`: what a training would see, and everything that is wrong, without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest
from transformers import AutoTokenizer

import loratrack as lt
from loratrack.cli import main
from loratrack.store.place import store_folder


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Any:
    def said(*words: object) -> tuple[int, str, str]:
        code = main(["check", *map(str, words)])
        return code, *capsys.readouterr()

    return said


def test_the_page_tells_rows_tokens_steps_and_labels(check: Any, sample: Any) -> None:
    before = store_folder().exists()
    code, page, errors = check(sample.config)
    assert (code, errors) == (0, "")
    start, *tables = page.split("\n\n")
    assert start == "dual (double_cls): no problems"
    lines = tables[0].splitlines()
    assert lines[:2] == [
        "rows       train 144  validation 16  test 40",
        "           train.csv (data.raw_data_path): 160 rows, utf-8",
    ]
    assert f"base       {sample.base} (local), {sample.base}" in lines
    assert lines[-3:] == [
        "training   18 steps: 2 epochs of 9 with 16 rows",
        "           lr 0.02, linear; LoRA rank 4, alpha 32",
        "keeps      best_avg_f1; a version of tiny",
    ]
    assert tables[1].startswith("risk: 3 labels\n")
    assert store_folder().exists() == before


def test_the_page_tells_what_is_one_text_to_the_base(check: Any, sample: Any, tmp_path: Path) -> None:
    rows = pandas.read_csv(sample.folder / "test.csv", dtype=str)
    train = pandas.read_csv(sample.folder / "train.csv", dtype=str)
    copies = pandas.concat([train.head(3), rows.head(2)]).assign(text=lambda frame: frame["text"].str.upper())
    copies.to_csv(tmp_path / "validation.csv", index=False)
    code, page, errors = check(
        sample.config, "--set", f"data.validation_path={tmp_path / 'validation.csv'}; data.max_len=128"
    )
    assert (code, errors) == (0, "")
    assert "           2 validation rows kept: the same text to this base as a test row\n" in page
    assert "           3 training rows left out: the same text to this base as a validation row\n" in page


def test_the_numbers_are_those_of_pandas_and_transformers(check: Any, sample: Any) -> None:
    content = json.loads(check(sample.config, "--json", "--set", "data.max_len=8")[1])
    assert content == {**lt.check(lt.load(sample.config, "data.max_len=8")), "problems": []}
    rows = pandas.read_csv(sample.folder / "test.csv", dtype=str)
    for task in ("risk", "adopt"):
        counts = {label: counts["test"] for label, counts in content["labels"][task].items()}
        assert counts == rows[task].value_counts().to_dict()
    lengths = [
        len(ids) for ids in AutoTokenizer.from_pretrained(sample.base)(rows["text"].tolist())["input_ids"]
    ]
    tokens, num_cut = content["tokens"]["test"], sum(length > 8 for length in lengths)
    assert (tokens["max"], tokens["truncated"]) == (max(lengths), num_cut)
    assert content["notices"][-1] == (
        f"test: {num_cut} texts of 40 cut to data.max_len (8 tokens), the longest has {max(lengths)}"
    )


def test_a_base_that_has_hardly_seen_the_language_is_told(check: Any, tmp_path: Path) -> None:
    rows = [f"请问怎么取消贷款申请{number},{'天气' if number % 2 else '其他'}" for number in range(20)]
    (tmp_path / "zh.csv").write_text("\n".join(["text,label", *rows]), "utf-8")
    (tmp_path / "zh.yaml").write_text("exp_id: zh\ndata: {raw_data_path: zh.csv}\n")
    config = tmp_path / "zh.yaml"
    shares = json.loads(check(config, "--json")[1])["vocabulary"]
    assert shares["unknown_share"] > 0.4
    unknown = 100 * shares["unknown_share"]
    page = check(config)[1]
    assert (
        f"           of the base's tokens {unknown:.1f} % are unknown, 0.0 % parts of a character, 0.0 %"
        " single letters\n"
    ) in page
    assert (
        f"- this base has hardly seen the language of the texts ({unknown:.0f} % of its tokens are unknown);"
        " one that has will do better: model.arch=bert-base-chinese, or a local folder\n"
    ) in page


def test_of_many_labels_the_most_frequent_and_the_rarest_are_shown(check: Any, tmp_path: Path) -> None:
    rows = [f"text {number} {turn},label {number:02}" for number in range(30) for turn in range(3)]
    (tmp_path / "many.csv").write_text("\n".join(["text,label", *rows, "one more,label 29"]))
    (tmp_path / "many.yaml").write_text("exp_id: many\ndata: {raw_data_path: many.csv}\n")
    page = check(tmp_path / "many.yaml")[1]
    shown = [line.split("│")[1].strip() for line in page.splitlines() if line.startswith("│")]
    assert shown[0] == "label 29"
    assert shown[10] == "… 10 more"
    assert len(shown) == 21


def test_problems_end_with_2_also_as_json(check: Any, sample: Any) -> None:
    code, page, errors = check(sample.config, "--json", "--set", "data.text_column=txt")
    assert code == 2
    assert json.loads(page)["problems"] == errors.removeprefix("loratrack: ").splitlines()
    assert errors.startswith("loratrack: dual: 2 problems in the data\n")


def test_a_sweep_is_checked_with_its_space(check: Any, sample: Any) -> None:
    sweep = "sweep={name: s, trials: 3, space: {model.lora.rank: {choice: [2, 4]}}}"
    code, page, _ = check(sample.config, "--set", sweep)
    assert code == 0
    assert (
        "sweep      s: at most 3 trials, by avg_f1\n           model.lora.rank: choice ['2', '4']\n" in page
    )
    code, _, errors = check(sample.config, "--set", sweep.replace("[2, 4]", "[2, -4]"))
    assert code == 2
    assert "sweep.space.model.lora.rank: with '-4'" in errors
