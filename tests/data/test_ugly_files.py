"""Real ugly files, where they are: LORATRACK_SHARED_DATA, or shared/data beside the repository."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from loratrack.config import RunConfig
from loratrack.data import Corpus, read
from loratrack.errors import DataError

BESIDE = Path(__file__).parents[3] / "shared" / "data"
SHARED = Path(os.environ.get("LORATRACK_SHARED_DATA", BESIDE))

pytestmark = pytest.mark.skipif(
    not (SHARED / "ugly").is_dir(),
    reason=f"the real ugly files are not committed: {SHARED / 'ugly'} is missing (LORATRACK_SHARED_DATA)",
)


def corpus(name: str, **data: Any) -> Corpus:
    settings = {"exp_id": "ugly", "data": {"raw_data_path": str(SHARED / name), **data}}
    if isinstance(data.get("label_subset"), dict):
        settings["task_type"] = "multi_cls"
    return read(RunConfig.model_validate(settings))


def facts(made: Corpus) -> dict[str, Any]:
    report: dict[str, Any] = made.report["files"]["data.raw_data_path"]
    return report


@pytest.mark.parametrize(
    ("name", "encoding", "num_rows"),
    [
        ("ugly/derived_waimai_bom_crlf_quoteall.csv", "utf-8-sig", 600),
        ("ugly/derived_waimai_gbk.csv", "gb18030", 597),
    ],
)
def test_reviews_in_other_encodings(name: str, encoding: str, num_rows: int) -> None:
    labelled = corpus(name, text_column="review", label_subset=["0", "1"])
    assert (facts(labelled)["encoding"], facts(labelled)["rows"]) == (encoding, num_rows)
    assert "很快，好吃，味道足，量大" in {
        text for part in labelled.parts.values() for text in part.columns[0]
    }


def test_tweets_mangled_by_excel() -> None:
    labelled = corpus("ugly/tweets_excel_mangled.csv", label_columns={"label": "airline_sentiment"})
    assert labelled.label_map.tasks[0].labels == ("negative", "neutral", "positive")
    assert facts(labelled)["rows"] == 14_640
    assert facts(labelled)["repeated_rows"] == 213
    assert facts(labelled)["conflicting_texts"] == 25
    assert sum("\n" in text for part in labelled.parts.values() for text in part.columns[0]) == 138


def test_dialogues_with_commas_in_quoted_times() -> None:
    labelled = corpus(
        "ugly/meld_crlf.csv",
        text_column="Utterance",
        label_subset={"emotion": "all", "sentiment": "all"},
        label_columns={"emotion": "Emotion", "sentiment": "Sentiment"},
    )
    assert [len(task.labels) for task in labelled.label_map.tasks] == [7, 3]
    assert facts(labelled)["rows"] == 1_109


def test_texts_spilt_into_nameless_columns_are_reported() -> None:
    with pytest.raises(DataError, match=r"column without a name .* at lines 97, 284, .*… and 40 more"):
        corpus(
            "ugly/spam_cp1252_crlf_nameless_columns.csv",
            text_column="message",
            label_columns={"label": "class_label"},
        )


def test_a_file_of_another_kind_is_reported() -> None:
    with pytest.raises(DataError, match=r"must be one of \.csv, .*, got '\.label'"):
        corpus("ugly/trec_latin1_noheader.label")


@pytest.mark.parametrize(
    ("name", "columns", "num_conflicts"),
    [
        ("waimai_10k", ["label"], 5),
        ("airline_tweets", ["label"], 21),
        ("online_shopping_10_cats", ["label_category", "label_sentiment"], 10),
        ("meld", ["label_emotion", "label_sentiment"], 52),
    ],
)
def test_conflicts_of_real_data_are_counted(name: str, columns: list[str], num_conflicts: int) -> None:
    labelled = corpus(f"{name}/train.csv", label_subset=dict.fromkeys(columns, "all"))
    assert facts(labelled)["conflicting_texts"] == num_conflicts
    assert any(f"{num_conflicts} texts stand with different labels" in w for w in labelled.report["warnings"])
