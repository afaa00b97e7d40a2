from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from loratrack.config import RunConfig
from loratrack.data import Corpus, Examples, read
from loratrack.errors import DataError

MakeConfig = Callable[..., RunConfig]
TWO_TASKS = {"task_type": "double_cls", "label_subset": {"risk": "all", "adopt": "all"}}


def problems_in(config: RunConfig) -> list[str]:
    """The problems that reading reports, one a line, without the folder."""
    with pytest.raises(DataError) as caught:
        read(config)
    folder = str(Path(config.data.raw_data_path).parent)
    first, *problems = str(caught.value).replace(f"{folder}/", "").split("\n")
    assert first == f"exp: {len(problems)} problem{'s' if len(problems) > 1 else ''} in the data"
    return [problem.removeprefix("  ") for problem in problems]


def texts(examples: Examples | None) -> set[str]:
    assert examples is not None
    return set(examples.columns[0])


def labels_by_text(corpus: Corpus) -> dict[str, tuple[str, ...]]:
    return {
        text: tuple(task.labels[number] for task, number in zip(corpus.label_map.tasks, row, strict=True))
        for part in corpus.parts.values()
        for text, row in zip(part.columns[0], part.labels, strict=True)
    }


def test_each_row_keeps_its_labels(config: MakeConfig) -> None:
    lines = [f"text {number},{'low' if number % 2 else 'high'},{number % 3}" for number in range(40)]
    corpus = read(config("\n".join(["text,risk,adopt", *lines]), **TWO_TASKS))
    assert [task.labels for task in corpus.label_map.tasks] == [("high", "low"), ("0", "1", "2")]
    labels = labels_by_text(corpus)
    assert len(labels) == 40
    for number in range(40):
        assert labels[f"text {number}"] == ("low" if number % 2 else "high", str(number % 3))


def test_a_third_task_needs_only_its_key(config: MakeConfig) -> None:
    lines = [f"text {number},a{number % 2},b{number % 3},c{number % 4}" for number in range(40)]
    subset = {"one": "all", "two": "all", "three": ["c0", "c1", "c2", "c3"]}
    corpus = read(
        config("\n".join(["text,one,two,three", *lines]), task_type="multi_cls", label_subset=subset)
    )
    assert corpus.train.labels.shape == (36, 3)


def test_a_single_task_is_called_label_and_may_read_another_column(config: MakeConfig) -> None:
    content = "body,class\na,x\nb,y\nc,x\nd,y\n"
    corpus = read(config(content, text_column="body", label_columns={"label": "class"}))
    assert corpus.label_map.tasks[0].name == "label"


def test_labels_that_yaml_or_pandas_would_bend_stay_apart(config: MakeConfig) -> None:
    labels = ["NA", "007", "7", "1", "1.0", "true", "no", "null"]
    lines = [f"text {label} {number},{label}" for label in labels for number in range(3)]
    corpus = read(config("\n".join(["text,label", *lines])))
    assert corpus.label_map.tasks[0].labels == tuple(sorted(labels))


def test_numbers_and_truths_are_labels_in_json(config: MakeConfig) -> None:
    values = ["1", "1.0", "true", "false"]
    lines = [f'{{"text": "{v} {number}", "label": {v}}}' for v in values for number in range(3)]
    corpus = read(config("\n".join(lines), name="raw.jsonl", label_subset=["true", "false", "1", "1.0"]))
    assert all(text.startswith(f"{label} ") for text, (label,) in labels_by_text(corpus).items())


def test_all_problems_of_all_files_are_reported_at_once(config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "valid.csv").write_text("text,labels\na,x\n")
    (tmp_path / "map.json").write_text('{"x": 0, "y": 0}')
    content = "text,label\n,x\nb,\n   ,y\nd, x\ne,z\n"
    paths = {
        "label_subset": ["x", "y"],
        "validation_path": str(tmp_path / "valid.csv"),
        "test_path": str(tmp_path / "test.csv"),
    }
    assert problems_in(config(content, **paths, global_label_map=str(tmp_path / "map.json"))) == [
        "valid.csv: has no column 'label'; did you mean 'labels'?; it has ['text', 'labels']"
        "; say which is meant, such as data.label_columns: {label: labels}",
        "test.csv: no such file",
        "map.json: id 0 belongs to more than one label: ['x', 'y']",
        "raw.csv: the text is empty at lines 2, 4; fill or delete these rows, or set data.empty_text: drop",
        "raw.csv: the label 'label' is missing at line 3; fill or delete these rows",
        "raw.csv: the label 'label' has space around it at line 5, got ' x'",
        "raw.csv: the label 'label' must be one of the task's 2, got 'z' at line 6; correct them, add them to"
        " data.label_subset, or set data.unknown_label: drop",
    ]


def test_columns_with_other_names_are_one_problem_with_an_example(config: MakeConfig) -> None:
    chinese = "文本,风险等级,是否采纳\na,x,y\n"
    assert problems_in(config(chinese, **TWO_TASKS)) == [
        "raw.csv: has no columns 'text', 'risk', 'adopt'; it has ['文本', '风险等级', '是否采纳']; say which"
        " is meant, such as data.text_column: 文本 and data.label_columns: {risk: 风险等级, adopt: 是否采纳}"
    ]
    (problem,) = problems_in(config("body,label\na,x\n", text_column=["title", "body"]))
    assert problem.endswith("; say which is meant, such as data.text_column: [COLUMN, body]")


def test_labels_outside_the_subset_are_reported_with_their_lines(config: MakeConfig) -> None:
    content = "text,label\na,low\nb,hihg\nc,high\nd,hihg\ne,mid\n" + "f,high\n" * 19
    assert problems_in(config(content, label_subset=["low", "high"])) == [
        "raw.csv: the label 'label' must be one of the task's 2, got 'hihg' at lines 3, 5;"
        " did you mean 'high'?",
        "raw.csv: the label 'label' must be one of the task's 2, got 'mid' at line 6;"
        " correct them, add them to data.label_subset, or set data.unknown_label: drop",
    ]


def test_a_label_with_many_rows_is_not_taken_for_a_slip(config: MakeConfig) -> None:
    content = "text,label\n" + "a,采纳\nb,不采纳\nc,不采纳\n" * 3
    drop = "; correct them, add them to data.label_subset, or set data.unknown_label: drop"
    assert problems_in(config(content, label_subset=["采纳", "驳回"])) == [
        "data.label_subset.label: label '驳回' is not in the data",
        "raw.csv: the label 'label' must be one of the task's 2, got '不采纳' at lines 3, 4, 6, 7, 9, 10"
        + drop,
    ]
    # where the config is what is wrong, that alone is told
    assert problems_in(config(content, label_subset=["采纳", "不采用"])) == [
        "data.label_subset.label: label '不采用' is not in the data; did you mean '不采纳'?"
    ]


def test_many_unknown_labels_are_counted(config: MakeConfig) -> None:
    lines = [f"text {number},odd {number:02}" for number in range(9)]
    problems = problems_in(config("\n".join(["text,label", "a,x", "b,y", *lines]), label_subset=["x", "y"]))
    assert len(problems) == 6
    assert problems[-1].startswith("raw.csv: … and 4 more such labels in 'label'; correct them")


def test_a_subset_that_the_data_lacks_is_counted(config: MakeConfig, rows: Callable[[int], str]) -> None:
    """A search for what was meant takes milliseconds for each: thousands of them took a minute."""
    subset = ["yes", "no", *(f"label {number}" for number in range(3000))]
    problems = problems_in(config(rows(20), label_subset=subset))
    assert problems == [
        "data.label_subset.label: 3000 labels are not in the data: 'label 0', 'label 1', 'label 2',"
        " 'label 3', 'label 4', … and 2995 more"
    ]


@pytest.mark.parametrize("where", ["label", "header"])
def test_a_name_of_megabytes_is_not_told_whole(config: MakeConfig, where: str) -> None:
    long = "x" * 10_000_000
    content = f"text,label\na,y\nb,{long}\n" if where == "label" else f"text,{long}\na,y\nb,z\n"
    problems = problems_in(config(content, label_subset=["y", "z"]))
    assert max(map(len, problems)) < 500


def test_rows_with_labels_outside_the_subset_are_left_out_when_asked(config: MakeConfig) -> None:
    lines = [f"text {number},{'abc'[number % 3]}" for number in range(30)]
    corpus = read(config("\n".join(["text,label", *lines]), label_subset=["c", "a"], unknown_label="drop"))
    assert len(corpus.train) + len(corpus.validation) == 20
    assert corpus.report["files"]["data.raw_data_path"]["rows_with_unknown_label"] == 10
    assert "10 rows left out for a label outside data.label_subset" in corpus.report["warnings"][0]
    assert corpus.label_map.tasks[0].global_ids == (2, 0)
    assert set(corpus.train.labels[:, 0]) == {0, 1}


def test_rows_without_text_are_left_out_when_asked(config: MakeConfig) -> None:
    content = "text,label\n" + "".join(f"text {number},{'xy'[number % 2]}\n" for number in range(10))
    made = config(content + " ,x\n,\n", empty_text="drop")
    corpus = read(made)
    assert len(corpus.train) + len(corpus.validation) == 10
    facts = corpus.report["files"]["data.raw_data_path"]
    assert (facts["rows"], facts["rows_without_text"]) == (12, 2)
    assert corpus.report["warnings"][0] == f"{made.data.raw_data_path}: 2 rows left out for an empty text"
    assert problems_in(config("text,label\n ,x\n,y\n", empty_text="drop")) == ["raw.csv: no row has a text"]


@pytest.mark.parametrize(
    "url", ["http://host/a.csv", "https://host/a.csv", "file:///etc/a.csv", "s3://b/a.csv"]
)
def test_a_url_is_refused(config: MakeConfig, url: str) -> None:
    problems = problems_in(config("text,label\na,x\nb,y\n", test_path=url, global_label_map=url))
    assert problems == [
        f"data.test_path: must be a local file, got {url!r}; download it and name the file",
        f"data.global_label_map: must be a local file, got {url!r}; download it and name the file",
    ]


def test_the_split_shares_no_text(config: MakeConfig, rows: Callable[[int], str]) -> None:
    repeated = rows(60) + "\n".join(f" text number {number} ,yes" for number in range(0, 60, 4))
    corpus = read(config(repeated, validation_share=0.25))
    train, validation = ({text.strip() for text in texts(part)} for part in (corpus.train, corpus.validation))
    assert len(train) + len(validation) == 60
    assert not train & validation
    assert len(validation) == 15


def test_another_seed_splits_otherwise(config: MakeConfig, rows: Callable[[int], str]) -> None:
    one, same, other = (texts(read(config(rows(60), split_seed=seed)).validation) for seed in (1, 1, 2))
    assert one == same != other


def test_the_seed_of_the_training_moves_no_row(config: MakeConfig, rows: Callable[[int], str]) -> None:
    one, other = (read(config(rows(60), seed=seed)).validation.columns for seed in (1, 2))
    assert one == other


def test_training_leaves_out_the_texts_of_the_other_files(config: MakeConfig, tmp_path: Path) -> None:
    raw = "text,label\n" + "".join(f"text {number},{'xy'[number % 2]}\n" for number in range(10))
    (tmp_path / "valid.csv").write_text("text,label\n text 1,y\nnew,x\n")
    (tmp_path / "test.csv").write_text("text,label\ntext 1,y\ntext 2,x\ntext 2,x\nnew,x\nother,y\n")
    paths = {"validation_path": str(tmp_path / "valid.csv"), "test_path": str(tmp_path / "test.csv")}
    corpus = read(config(raw, **paths))
    assert texts(corpus.train) == {f"text {number}" for number in (0, 3, 4, 5, 6, 7, 8, 9)}
    assert (len(corpus.validation), len(corpus.test or [])) == (2, 5)
    raw_setting, valid_setting, test_setting = corpus.files_sha256
    assert corpus.report["overlaps"] == [
        {"rows_of": valid_setting, "also_in": raw_setting, "rows": 1},
        {"rows_of": test_setting, "also_in": raw_setting, "rows": 3},
        {"rows_of": test_setting, "also_in": valid_setting, "rows": 2},
    ]
    assert [warning.removeprefix(f"{tmp_path}/") for warning in corpus.report["warnings"]] == [
        "valid.csv: 1 row repeats a text of raw.csv; training leaves these texts out",
        "test.csv: 3 rows repeat a text of raw.csv; training leaves these texts out",
        "test.csv: 2 rows repeat a text of valid.csv; both files keep them",
    ]


def test_a_validation_file_that_is_the_training_file_is_reported(config: MakeConfig, tmp_path: Path) -> None:
    assert problems_in(config("text,label\na,x\nb,y\n", validation_path=str(tmp_path / "raw.csv"))) == [
        "data.raw_data_path: no row of raw.csv is left: their texts are empty, their labels are outside"
        " data.label_subset, or their texts are in the validation or test file too"
    ]


def test_too_few_texts_for_a_split_are_reported(config: MakeConfig) -> None:
    assert problems_in(config("text,label\na,x\nb,y\nb,y\n")) == [
        "raw.csv: too few rows for a validation split: 2 different texts, 2 labels; add rows or name a"
        " data.validation_path"
    ]


def test_with_several_text_columns_one_may_be_empty(config: MakeConfig) -> None:
    content = "title,body,label\na,,x\n,b,y\n , ,x\nc,d,y\n"
    assert problems_in(config(content, text_column=["title", "body"])) == [
        "raw.csv: all text columns are empty at line 4; fill or delete these rows, or set data.empty_text:"
        " drop"
    ]
    corpus = read(config(content.replace(" , ,x\n", ""), text_column=["title", "body"]))
    pairs = {pair for part in corpus.parts.values() for pair in zip(*part.columns, strict=True)}
    assert pairs == {("a", ""), ("", "b"), ("c", "d")}


def test_the_sha256_is_that_of_the_bytes(config: MakeConfig, rows: Callable[[int], str]) -> None:
    one, renamed, changed = (
        read(config(content, name=name)).sha256
        for content, name in ((rows(9), "a.csv"), (rows(9), "b.csv"), (rows(10), "a.csv"))
    )
    assert one == renamed != changed
