"""Our side of the benchmark trains what it is told, and counts what it trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from bench.assignment import Assignment, Recipe, Workload
from bench.ours import measure

LABELS = ("one", "two")
RECIPES = (Recipe(batch_size=4, epochs=2, rank=4), Recipe(batch_size=8, epochs=2, rank=2, seed=7))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small are slower on several, and much slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workload:
    """24 texts of 5 tokens, with the two that stand around each."""
    monkeypatch.setenv("LORATRACK_CACHE", str(tmp_path / "cache"))
    words = ("red", "green", "blue", "black", "white", "brown", "grey", "pink")
    texts = [f"{word} {number} {number}" for word in words for number in (1, 2, 3)]
    files = {}
    for part, chosen in (("train", texts), ("validation", [f"{text} more" for text in texts])):
        rows = [f"{text},{LABELS[place % 2]}" for place, text in enumerate(chosen)]
        (tmp_path / f"{part}.csv").write_text("\n".join(["text,label", *rows]), "utf-8")
        files[part] = str(tmp_path / f"{part}.csv")
    return Workload(
        name="tiny",
        train=files["train"],
        validation=files["validation"],
        test=files["validation"],
        columns={"label": "label"},
    )


def test_a_cohort_counts_the_steps_after_the_warm_up(workload: Workload) -> None:
    assignment = Assignment(
        workload=workload, recipes=RECIPES, variant="packed", together=True, warm_up_steps=1, steps=2
    )
    answer = measure(assignment, RECIPES)
    assert (answer.examples, answer.tokens) == (2 * (4 + 8), 2 * (4 + 8) * 5)
    assert 0 < answer.seconds < 60
    assert answer.linear_weights == 6 * (4 * 384 * 384 + 2 * 384 * 1536)
    assert answer.metrics == ({}, {})


def test_a_whole_training_counts_every_step_and_is_scored(workload: Workload) -> None:
    recipe = RECIPES[0]
    assignment = Assignment(
        workload=workload, recipes=(recipe,), variant="packed", warm_up_steps=1, steps=None
    )
    answer = measure(assignment, [recipe])
    assert answer.examples == 2 * 24 - 4
    assert {"test_accuracy", "test_f1"} <= answer.metrics[0].keys()
