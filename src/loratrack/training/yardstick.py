"""What a model must beat: a classifier that counts words, and below it the most frequent label.

    yardstick(corpus, objective, notice)
    # {"majority_f1": 0.06, "baseline_f1": 0.901, "baseline_test_f1": 0.894, …}

The baseline is scikit-learn's TF-IDF and a linear support vector machine with its own settings, fitted on the
run's training rows and scored by the run's own measures. It is fitted before the training begins, so that
neither slows the other down, and once for the same rows and labels: the cache keeps its scores.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from loratrack.data import Corpus, Examples, cache
from loratrack.data.scripts import has_no_spaces
from loratrack.metrics import BASELINE, MAJORITY
from loratrack.training.objectives.classification import Classification
from loratrack.training.objectives.multi_label import MultiLabel
from loratrack.training.objectives.objective import Split
from loratrack.training.objectives.task import Labels

FORMAT = 1
"""Another number where the same rows come to other scores than before."""
MAX_ROWS = 50_000
MAX_CHARACTERS, MAX_CHARACTERS_COUNTED_SINGLY = 12_000_000, 1_000_000
"""Of the training texts: counting their words, or their characters, takes up to two seconds of one core."""
MAX_PRODUCTS = 35_000_000
"""Counted words of all training rows, times labels: fitting takes up to four seconds of one core."""
MIN_ROWS_A_LABEL = 5
"""With fewer of them the rows that there is time for say nothing."""
MAX_WEIGHTS = 20_000_000
"""Words times labels: 160 MB."""
ANSWERED_ROWS = 10_000
"""Rows that are answered in one go: their decisions are a dense matrix of rows and labels."""


def yardstick(
    corpus: Corpus, objective: Classification, notice: Callable[[str], None], *, with_baseline: bool = True
) -> dict[str, float]:
    """`majority_…` of the validation rows; `baseline_…` of them, and `baseline_test_…` with a test set."""
    rows = len(corpus.validation)
    constant = {task.name: np.tile(task.constant_answer(), (rows, 1)) for task in objective.tasks}
    scores = objective.score("validation", constant)
    majority = {f"{MAJORITY}{name}": value for name, value in scores.items()}
    return majority | (_baseline(corpus, objective, notice) if with_baseline else {})


def _baseline(corpus: Corpus, objective: Classification, notice: Callable[[str], None]) -> dict[str, float]:
    """The scores of the baseline, from the cache where it was fitted on these rows before."""
    parts = corpus.parts.items()
    settings = {
        "baseline": FORMAT,
        "scikit-learn": sklearn.__version__,
        "texts": {name: part.texts_sha256 for name, part in parts},
        "labels": {name: hashlib.sha256(part.labels.tobytes()).hexdigest() for name, part in parts},
        "tasks": [[task.name, len(task.labels), task.is_multi_label] for task in corpus.label_map.tasks],
    }
    facts = cache.fetch(settings, lambda: cache.Stored({}, _fitted(corpus, objective)), notice).facts
    scores: dict[str, float] = facts["scores"]
    num_rows, num_fitted = len(corpus.train), facts["rows"]
    if not scores:
        notice(
            f"baseline: none; {num_fitted:,} of {num_rows:,} rows fit into its time, too few for the labels"
        )
        return {}
    name = next(name for name in ("avg_f1", "f1") if f"{BASELINE}{name}" in scores)
    sample = "" if num_fitted == num_rows else f" (fitted on {num_fitted:,} of {num_rows:,} training rows)"
    notice(
        f"baseline: TF-IDF of {facts['counted']} and a linear classifier: {name}"
        f" {scores[BASELINE + name]:.3f} on the validation rows{sample}"
    )
    return scores


def _fitted(corpus: Corpus, objective: Classification) -> dict[str, Any]:
    """`scores`, none where there is time for too few rows; `counted`, what is counted; `rows`, how many."""
    texts, tasks = corpus.train.joined, objective.tasks
    most_labels, all_labels = (pick(len(task.labels) for task in tasks) for pick in (max, sum))
    counted, max_characters = "words", MAX_CHARACTERS
    counting: dict[str, Any] = {"token_pattern": r"\w+"}
    if has_no_spaces(texts):
        counted, max_characters = "characters", MAX_CHARACTERS_COUNTED_SINGLY
        counting = {"analyzer": "char", "ngram_range": (1, 2)}

    order = np.random.default_rng(0).permutation(len(texts))  # a sample is always the same rows
    ends = np.cumsum([len(texts[row]) for row in order])
    rows = np.sort(order[: min(MAX_ROWS, max(1, int(np.sum(ends <= max_characters))))])
    vectorizer = TfidfVectorizer(sublinear_tf=True, max_features=MAX_WEIGHTS // most_labels, **counting)
    matrix = vectorizer.fit_transform([texts[row] for row in rows])
    num_fitted = min(len(rows), len(rows) * MAX_PRODUCTS // (matrix.nnz * all_labels))
    facts = {"scores": {}, "counted": counted, "rows": num_fitted}
    if num_fitted < min(len(texts), MIN_ROWS_A_LABEL * most_labels):
        return facts
    if num_fitted < len(rows):
        chosen = np.sort(np.random.default_rng(1).permutation(len(rows))[:num_fitted])
        rows, matrix = rows[chosen], matrix[chosen]

    labels = corpus.train.labels[rows]
    classifiers = [_classifier(matrix, labels[:, column]) for column in range(labels.shape[1])]

    scores: dict[str, float] = {}
    thresholds: dict[str, float | None] = {}
    splits: dict[Split, Examples | None] = {"validation": corpus.validation, "test": corpus.test}
    for split, part in splits.items():
        if part is None:
            continue
        to_answer, chunks = part.joined, range(0, len(part), ANSWERED_ROWS)
        matrices = [vectorizer.transform(to_answer[start : start + ANSWERED_ROWS]) for start in chunks]
        answers: dict[str, Labels] = {}
        for task in tasks:
            own, truth = classifiers[task.columns], torch.from_numpy(part.labels[:, task.columns])
            if isinstance(task, MultiLabel):  # its threshold is tuned as that of a network is
                decisions = torch.from_numpy(np.concatenate([_decisions(own, each) for each in matrices]))
                if split == "validation":
                    thresholds[task.name] = task.tuned_threshold(decisions, truth)
                answers[task.name] = task.answers(decisions, thresholds[task.name])
            else:
                answers[task.name] = np.concatenate([own[0].predict(each) for each in matrices])[:, None]
        found = objective.score(split, answers)
        prefix = BASELINE if split == "validation" else f"{BASELINE}test_"
        scores |= {f"{prefix}{name}": value for name, value in found.items()}
    return {**facts, "scores": scores}


def _classifier(matrix: Any, labels: Labels) -> Any:
    """One class needs no classifier, and LinearSVC refuses it."""
    has_several = len(np.unique(labels)) > 1
    classifier = LinearSVC(random_state=0) if has_several else DummyClassifier()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(matrix, labels)


def _decisions(classifiers: Sequence[Any], matrix: Any) -> NDArray[np.float64]:
    """[rows, labels]: above 0 for a yes."""
    columns = [
        each.decision_function(matrix) if isinstance(each, LinearSVC) else 2.0 * each.predict(matrix) - 1
        for each in classifiers
    ]
    return np.stack(columns, axis=1)
