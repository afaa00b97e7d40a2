"""The baseline and the majority class, beside scikit-learn by hand on the same rows."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import accuracy_score, f1_score
from sklearn.svm import LinearSVC

from loratrack import data
from loratrack.config import RunConfig
from loratrack.data import Corpus, Dataset, Encoded
from loratrack.training.objectives.classification import Classification
from loratrack.training.objectives.objective import Split
from loratrack.training.objectives.task import Labels
from loratrack.training.yardstick import yardstick

ENGLISH = {
    "topic": {"sky": ["rain wind", "cloud storm rain"], "money": ["bank coin", "coin loan bank"]},
    "tone": {"glad": ["nice", "good nice"], "sad": ["bad"], "calm": ["well", "slow well"]},
}
CHINESE = {
    "topic": {"天气": ["下雨刮风", "多云下雨"], "钱": ["银行存款", "贷款硬币"]},
    "tone": {"高兴": ["很好", "真不错"], "难过": ["太差了"], "平静": ["还行", "一般般"]},
}
FILLERS = {"en": ["the", "of", "a", "is", "n1", "n2", "n3"], "zh": ["的", "了", "我们", "今天", "他说"]}


class Counting(Classification):
    """Counts how often answers are scored."""

    count = 0

    def score(self, split: Split, predicted: Mapping[str, Labels]) -> dict[str, float]:
        self.count += 1
        return super().score(split, predicted)


def objective_of(corpus: Corpus) -> Counting:
    """Without tokens, which no score depends on."""

    def part(examples: data.Examples) -> Encoded:
        return Encoded(np.empty(0), np.zeros(len(examples) + 1, np.int64), None, examples.labels)

    parts = {name: part(examples) for name, examples in corpus.parts.items()}
    return Counting(
        Dataset(parts["train"], parts["validation"], parts.get("test"), corpus.label_map, {}, corpus.sha256)
    )


def corpus_of(
    folder: Path, rows: Mapping[str, list[dict[str, str]]], tasks: tuple[str, ...], **data_settings: Any
) -> Corpus:
    for name, lines in rows.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as opened:
            writer = csv.DictWriter(opened, ["text", *tasks])
            writer.writeheader()
            writer.writerows(lines)
    files = {"raw_data_path": "train.csv", "validation_path": "validation.csv", "test_path": "test.csv"}
    paths = {
        setting: str(folder / file) for setting, file in files.items() if file.removesuffix(".csv") in rows
    }
    settings = {
        "exp_id": "tiny",
        "task_type": "multi_cls",
        "data": {**paths, "label_subset": dict.fromkeys(tasks, "all"), **data_settings},
    }
    return data.read(RunConfig.model_validate(settings))


def drawn(signs: Mapping[str, Mapping[str, list[str]]], language: str, count: int, seed: int) -> list[Any]:
    """Rows whose words hint at their labels; a fifth of the labels are drawn anew."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        labels = {task: str(draw.choice(list(words))) for task, words in signs.items()}
        parts = [str(draw.choice(signs[task][label])) for task, label in labels.items()]
        parts += draw.choice(FILLERS[language], 4).tolist()
        text = ("" if language == "zh" else " ").join(draw.permutation(parts))
        noisy = {
            task: str(draw.choice(list(signs[task]))) if draw.random() < 0.2 else label
            for task, label in labels.items()
        }
        rows.append({"text": f"{text} {draw.integers(10**6)}", **noisy})
    return rows


@pytest.mark.parametrize(
    ("signs", "language", "by_hand"),
    [
        (ENGLISH, "en", TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+")),
        (CHINESE, "zh", TfidfVectorizer(sublinear_tf=True, analyzer="char", ngram_range=(1, 2))),
    ],
    ids=["words", "characters"],
)
def test_the_scores_are_those_of_scikit_learn_by_hand(
    signs: Any, language: str, by_hand: TfidfVectorizer, tmp_path: Path
) -> None:
    sizes = {"train": 300, "validation": 80, "test": 60}
    rows = {name: drawn(signs, language, size, size) for name, size in sizes.items()}
    notices: list[str] = []
    corpus = corpus_of(tmp_path, rows, ("topic", "tone"))
    scores = yardstick(corpus, objective_of(corpus), notices.append)

    expected: dict[str, float] = {}
    train = by_hand.fit_transform([row["text"] for row in rows["train"]])
    for name, prefix in (("validation", "baseline_"), ("test", "baseline_test_")):
        matrix = by_hand.transform([row["text"] for row in rows[name]])
        for task in ("topic", "tone"):
            truth = [row[task] for row in rows[name]]
            known = [row[task] for row in rows["train"]]
            kinds = {prefix: LinearSVC(random_state=0)}
            if name == "validation":
                kinds["majority_"] = DummyClassifier()
            for kind, classifier in kinds.items():
                predicted = classifier.fit(train, known).predict(matrix)
                macro = f1_score(truth, predicted, average="macro", zero_division=0)
                expected |= {
                    f"{kind}{task}_accuracy": accuracy_score(truth, predicted),
                    f"{kind}{task}_f1": macro,
                }
    for kind in ("baseline_", "baseline_test_", "majority_"):
        for measure in ("accuracy", "f1"):
            values = [expected[f"{kind}{task}_{measure}"] for task in ("topic", "tone")]
            expected[f"{kind}avg_{measure}"] = sum(values) / 2
    assert scores == pytest.approx(expected)
    assert 0.5 < scores["baseline_avg_f1"] < 1
    counted = {"en": "words", "zh": "characters"}[language]
    assert notices == [
        f"baseline: TF-IDF of {counted} and a linear classifier: avg_f1"
        f" {scores['baseline_avg_f1']:.3f} on the validation rows"
    ]


def test_it_is_fitted_once_for_the_same_rows_and_labels(tmp_path: Path) -> None:
    rows = {name: drawn(ENGLISH, "en", 40, seed) for seed, name in enumerate(("train", "validation"))}
    corpus = corpus_of(tmp_path, rows, ("topic", "tone"))
    first, second, third = (objective_of(corpus) for _ in range(3))
    scores = yardstick(corpus, first, lambda text: None)
    assert yardstick(corpus, second, lambda text: None) == scores
    assert (first.count, second.count) == (2, 1)  # the majority, and once the baseline
    majority = yardstick(corpus, third, lambda text: None, with_baseline=False)
    assert majority == {name: value for name, value in scores.items() if name.startswith("majority_")}
    rows["train"][0]["tone"] = "sad" if rows["train"][0]["tone"] != "sad" else "glad"
    other = corpus_of(tmp_path, rows, ("topic", "tone"))
    relabelled = objective_of(other)
    yardstick(other, relabelled, lambda text: None)
    assert relabelled.count == 2


def test_of_very_many_rows_a_sample_is_fitted_and_it_is_said(tmp_path: Path) -> None:
    """And what the sample is, changes from no run to the next."""
    rows = {
        "train": [
            {"text": f"w{row % 7} n{row}", "parity": "odd" if row % 7 % 2 else "even"}
            for row in range(50_020)
        ],
        "validation": [
            {"text": f"w{row % 7} m{row}", "parity": "odd" if row % 7 % 2 else "even"} for row in range(14)
        ],
    }
    corpus = corpus_of(tmp_path, rows, ("parity",))
    notices: list[str] = []
    scores = yardstick(corpus, objective_of(corpus), notices.append)
    assert scores["baseline_f1"] == 1
    assert notices == [
        "baseline: TF-IDF of words and a linear classifier: f1 1.000 on the validation rows"
        " (fitted on 50,000 of 50,020 training rows)"
    ]


def test_thousands_of_labels_have_no_baseline_and_it_is_said(tmp_path: Path) -> None:
    lines = [{"text": f"a b c d n{row}", "number": f"label {row % 4000}"} for row in range(8000)]
    corpus = corpus_of(tmp_path, {"train": lines, "validation": lines[:50]}, ("number",))
    notices: list[str] = []
    scores = yardstick(corpus, objective_of(corpus), notices.append)
    assert not [name for name in scores if name.startswith("baseline_")]
    assert notices == ["baseline: none; 1,890 of 7,950 rows fit into its time, too few for the labels"]


def test_a_task_with_one_label_in_training_has_that_answer(tmp_path: Path) -> None:
    rows = {
        "train": [{"text": f"word {row}", "mark": "yes"} for row in range(20)],
        "validation": [{"text": f"word x{row}", "mark": "no" if row < 5 else "yes"} for row in range(20)],
    }
    corpus = corpus_of(tmp_path, rows, ("mark",))
    scores = yardstick(corpus, objective_of(corpus), lambda text: None)
    assert scores["baseline_accuracy"] == scores["majority_accuracy"] == 0.75


def test_a_task_of_several_labels_has_a_classifier_for_each_and_a_tuned_threshold(tmp_path: Path) -> None:
    """By hand: probabilities from 0.01 to 0.99 of a logistic function, the best macro-F1 wins."""
    words = {"sky": "rain", "money": "coin", "food": "bread"}
    draw = np.random.default_rng(0)
    rows: dict[str, list[dict[str, str]]] = {}
    for name, size in (("train", 200), ("validation", 60)):
        rows[name] = []
        for row in range(size):
            labels = [label for label in words if draw.random() < 0.4]
            hints = [words[label] if draw.random() < 0.8 else "other" for label in labels]
            rows[name].append({"text": " ".join([*hints, f"n{row}"]), "topics": ";".join(labels)})
    corpus = corpus_of(tmp_path, rows, ("topics",), multi_label=["topics"])
    scores = yardstick(corpus, objective_of(corpus), lambda text: None)

    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+")
    train = vectorizer.fit_transform([row["text"] for row in rows["train"]])
    matrix = vectorizer.transform([row["text"] for row in rows["validation"]])
    known, truth = (
        np.array([[label in row["topics"] for label in sorted(words)] for row in rows[name]]) for name in rows
    )
    classifiers = [LinearSVC(random_state=0).fit(train, column) for column in known.T]
    decisions = np.stack([each.decision_function(matrix) for each in classifiers], axis=1)
    predictions = [decisions >= np.log(step / (100 - step)) for step in range(1, 100)]
    best = max(f1_score(truth, each, average="macro", zero_division=0) for each in predictions)
    assert scores["baseline_f1"] == pytest.approx(best)
    assert 0.7 < best < 1
    assert scores["majority_f1"] == 0  # no label is in most rows
    assert scores["majority_accuracy"] == pytest.approx(np.mean(~truth.any(axis=1)))
