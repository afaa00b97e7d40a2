from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loratrack.config import RunConfig
from loratrack.data import read

MakeConfig = Callable[..., RunConfig]


def test_counts_per_label_and_part(config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "valid.csv").write_text("text,label\nv1,x\nv2,z\n")
    content = "text,label\na,x\nb,y\nc,x\n"
    report = read(config(content, validation_path=str(tmp_path / "valid.csv"))).report
    assert report["rows"] == {"train": 3, "validation": 2}
    assert report["labels"] == {
        "label": {
            "x": {"train": 2, "validation": 1},
            "y": {"train": 1, "validation": 0},
            "z": {"train": 0, "validation": 1},
        }
    }
    assert report["warnings"] == [
        "label: no training row for 1 label: ['z']",
        "label: no validation row for 1 of 3 labels, so its f1 says nothing of them: ['y']",
    ]


def file_warnings(report: dict[str, Any]) -> list[str]:
    """Without those of labels, of which so few rows leave some without a validation row."""
    return [warning for warning in report["warnings"] if not warning.startswith("label: ")]


def test_repeats_and_conflicts_are_counted_and_conflicts_warned_of(
    config: MakeConfig, tmp_path: Path
) -> None:
    content = "text,label\na,x\nb,y\na,y\na ,x\nb,y\nc,x\nd,y\n"
    report = read(config(content)).report
    facts = report["files"]["data.raw_data_path"]
    assert facts["rows"] == 7
    assert facts["repeated_rows"] == 3
    assert facts["conflicting_texts"] == 1
    assert facts["conflicting_lines"] == [2, 4, 5]
    raw = tmp_path / "raw.csv"
    assert file_warnings(report) == [f"{raw}: 1 text stands with different labels (lines 2, 4, 5)"]


def test_a_guessed_encoding_is_warned_of(config: MakeConfig, tmp_path: Path) -> None:
    content = "text,label\n味道很好,好评\n送餐太慢,差评\n非常好吃,好评\n"
    report = read(config(content.encode("gbk"))).report
    assert report["files"]["data.raw_data_path"]["encoding"] == "gb18030"
    raw = tmp_path / "raw.csv"
    assert file_warnings(report) == [f"{raw}: encoding guessed as gb18030; save the file as UTF-8 to be sure"]
    assert file_warnings(read(config(content.encode("utf-16"))).report) == []


def test_the_report_is_json(config: MakeConfig, rows: Callable[[int], str]) -> None:
    report = read(config(rows(20))).report
    assert json.loads(json.dumps(report)) == report


def test_numbers_and_lists_are_doubted_as_labels(config: MakeConfig) -> None:
    numbers = [f"text {number},{number % 150 / 7:.3f}" for number in range(160)]
    warnings = read(config("\n".join(["text,label", *numbers]))).report["warnings"]
    assert warnings[0] == (
        "label: 150 labels for 160 rows, 140 of them with one row: a number or a free text cannot be learned"
        " as a label; make classes of it, such as low and high"
    )
    lists = [f'text {number},"{("a", "b", "a, b", "b,a")[number % 4]}"' for number in range(40)]
    warnings = read(config("\n".join(["text,label", *lists]))).report["warnings"]
    assert warnings == [
        "label: 2 labels join other labels, such as 'a, b': it is learned as a class of its own; for several"
        " labels a row set data.multi_label: [label] and data.label_separator: ','"
    ]


def test_classes_are_not_doubted(config: MakeConfig) -> None:
    rows = [f'text {number},"{("New York, NY", "and/or", "c", "d+")[number % 4]}"' for number in range(40)]
    rows += [f"rare {number},rare {number}" for number in range(4)]
    warnings = read(config("\n".join(["text,label", *rows]))).report["warnings"]
    assert [warning for warning in warnings if "no validation row" not in warning] == []
