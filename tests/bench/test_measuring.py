"""From answers of processes to figures, and the parts a training process counts with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench.assignment import Answer, total
from bench.ours import config
from bench.sections import COHORT, NAMES, cohort, section_named
from bench.train import Timer, summed
from bench.workloads import clinc, most_frequent
from torch import nn

from bench import machine


def answer(seconds: float, examples: int = 100, memory_bytes: int = 1_000_000, **metrics: float) -> Answer:
    return Answer(
        seconds=seconds,
        examples=examples,
        tokens=10 * examples,
        memory_bytes=memory_bytes,
        linear_weights=1000,
        precision="fp32",
        metrics=(metrics,),
    )


def test_processes_at_the_same_time_add_up() -> None:
    figures = summed([answer(2), answer(4)], [{"fp32": 6e6}, {"fp32": 9e6}])
    assert figures.examples_per_second == 75
    assert figures.tokens_per_second == 750
    assert figures.memory_mb == 2
    assert figures.share == 4 * 1000 * 750 / 7.5e6


def test_trainings_after_each_other_take_all_their_time_but_no_more_memory() -> None:
    both = total([answer(2, memory_bytes=5, f1=0.1), answer(3, memory_bytes=6, f1=0.2)])
    assert (both.seconds, both.examples, both.tokens, both.memory_bytes) == (5, 200, 2000, 6)
    assert both.metrics == ({"f1": 0.1}, {"f1": 0.2})


def test_linear_weights_leave_out_what_is_not_the_base() -> None:
    network = nn.ModuleDict(
        {
            "query": nn.Linear(4, 8),
            "lora_A": nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)}),
            "pooler": nn.ModuleDict({"dense": nn.Linear(4, 4)}),
            "embeddings": nn.Embedding(10, 4),
        }
    )
    assert machine.linear_weights(network) == 32


def test_a_round_is_begun_only_when_it_can_end_in_time() -> None:
    timer = Timer(60)
    assert timer.has_time_for(50)
    assert not timer.has_time_for(61)


def test_the_most_frequent_length() -> None:
    assert most_frequent([3, 5, 5, 4, 5, 3]) == [1, 2, 4]


@pytest.mark.parametrize("name", NAMES)
def test_every_section_compares_contenders_that_it_has(name: str, tmp_path: Path) -> None:
    section = section_named(name, tmp_path)
    if section is None:
        pytest.skip("its data is not at hand")
    assert section.name == name
    assert section.pairs
    for pair in section.pairs:
        assert {pair.of, pair.against} <= section.contenders.keys()


def test_all_contenders_of_a_round_train_the_same_recipes(tmp_path: Path) -> None:
    section = cohort()
    asked = [
        each.assignments(section.workload, "minilm", 2, tmp_path) for each in section.contenders.values()
    ]
    recipes = [[recipe for part in assignments for recipe in part.recipes] for assignments in asked]
    assert len(recipes) == 4
    assert all(each == recipes[0] for each in recipes)
    assert [recipe.seed for recipe in recipes[0]] == [recipe.seed + 2 for recipe in COHORT]


def test_our_config_says_what_the_recipe_says() -> None:
    recipe = COHORT[5]
    made = config(clinc(), recipe, "packed")
    assert made.tasks == ("domain", "intent")
    assert (made.train.lr, made.train.seed, made.train.layout) == (recipe.lr, recipe.seed, "packed")
    assert (made.model.lora.rank, made.model.lora.alpha) == (recipe.rank, recipe.alpha)
    assert np.isclose(sum(made.loss_weights.values()), 1)
