"""The engine: what members learn, alone and together, and what happens when things go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.cohorts import BASES, CLASSES, DATASET
from torch import Tensor

from loratrack.config import RunConfig
from loratrack.errors import StoppedError, UserError
from loratrack.experiments.watcher import Nobody
from loratrack.training.cohort import Cohort, StopWhen, train
from loratrack.training.layout import check_that_nothing_drops
from loratrack.training.log import ListLog
from loratrack.training.member import Member

NewCohort = Callable[..., Cohort]
ConfigOf = Callable[..., RunConfig]
Seat = Callable[[Cohort, RunConfig, Path], Member]


def log_of(member: Member) -> ListLog:
    assert isinstance(member.log, ListLog)
    return member.log


def weights_of(member: Member) -> list[Tensor]:
    return [value.detach().clone() for value in member.network.parameters(member.name)]


def steps(cohort: Cohort, count: int) -> None:
    """So many optimizer steps of every member, evaluations left out of the way."""
    cohort.network.train()
    while any(member.step < count for member in cohort.training):
        cohort.end_epochs(cohort.step())


def test_a_member_learns_what_the_data_say(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    cohort = new_cohort([])
    config = config_of(train={"epochs": 20, "lr": 0.005}, lora={"rank": 8, "target_modules": "all-linear"})
    member = seat(cohort, config, tmp_path)
    train(cohort, Nobody())
    assert member.status == "finished"
    first, last = member.history[0], member.history[-1]
    assert last["train/loss"] < 0.5 * first["train/loss"]
    assert member.best is not None
    assert member.history[member.best.epoch - 1]["avg_f1"] > 0.7


def test_every_epoch_is_told_in_one_call(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    cohort = new_cohort([])
    member = seat(cohort, config_of(), tmp_path)
    train(cohort, Nobody())
    assert [step for step, _ in log_of(member).calls] == [1, 2]
    _, values = log_of(member).calls[0]
    assert set(values) == {
        *member.config.metric_names,
        *("train/loss", "train/loss_risk", "train/loss_taken", "validation/loss"),
        *("system/epoch_seconds", "system/examples_per_second"),
    }
    assert values["train/loss"] == pytest.approx((values["train/loss_risk"] + values["train/loss_taken"]) / 2)


PLANS = st.lists(
    st.fixed_dictionaries(
        {
            "batch_size": st.integers(3, 20),
            "micro_batch_size": st.sampled_from([None, 3]),
            "lr": st.sampled_from([1e-3, 1e-2]),
            "schedule": st.sampled_from(["linear", "cosine", "constant"]),
            "loss_weight": st.sampled_from([None, [0.9, 0.1], [0.0, 1.0]]),
            "class_weight": st.sampled_from([None, "balanced", {"risk": {"high": 4}}]),
            "label_smoothing": st.sampled_from([0.0, 0.2]),
            "focal_gamma": st.sampled_from([0.0, 2.0]),
            "seed": st.integers(0, 1000),
            "epochs": st.just(30),
            "rank": st.integers(1, 12),
            "alpha": st.sampled_from([4, 16]),
            "dropout": st.sampled_from([0.0, 0.1, 0.5]),
            "target_modules": st.sampled_from(["auto", "all-linear", ["key"]]),
        }
    ),
    min_size=1,
    max_size=5,
)
LORA = ("rank", "alpha", "dropout", "target_modules")
TOLERANCE = 1e-4
"""Weights after 20 steps; sums are taken in another order when the shapes differ."""


@pytest.mark.slow
@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(PLANS)
def test_the_weights_after_20_steps_do_not_depend_on_the_neighbours(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, plans: list[dict[str, Any]]
) -> None:
    configs = []
    for number, plan in enumerate(plans):
        lora = {key: plan[key] for key in LORA}
        rates = {key: value for key, value in plan.items() if key not in LORA and value is not None}
        rates["micro_batch_size"] = min(rates.get("micro_batch_size", 99), rates["batch_size"])
        configs.append(config_of(f"{number}", rates, lora=lora))
    with TemporaryDirectory() as folder:
        together = new_cohort([])
        members = [seat(together, config, Path(folder)) for config in configs]
        learned = {}
        together.network.train()
        while together.training:
            together.end_epochs(together.step())
            for member in together.training:
                if member.step == 20:
                    learned[member.name] = weights_of(member)
                    member.end("stopped")
        for member, config in zip(members, configs, strict=True):
            alone = new_cohort([])
            single = seat(alone, config, Path(folder) / "alone")
            steps(alone, 20)
            for mine, other in zip(learned[member.name], weights_of(single), strict=True):
                assert torch.allclose(mine, other, atol=TOLERANCE)


@pytest.mark.parametrize("base", BASES)
def test_a_member_learns_the_same_alone_and_among_others_on_each_architecture(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path, base: str
) -> None:
    """On the architecture's own defaults, which drop in ways of their own."""
    configs = [
        config_of("ann", {"batch_size": 8, "seed": 1}, lora={"rank": 4, "dropout": 0.3}),
        config_of("bob", {"batch_size": 5, "seed": 2}, lora={"rank": 2, "target_modules": "all-linear"}),
    ]
    for layout in new_cohort([], base).network.layouts:
        together = new_cohort([], base)
        together.network.layout = layout
        members = [seat(together, config, tmp_path / layout) for config in configs]
        steps(together, 5)
        for member, config in zip(members, configs, strict=True):
            alone = new_cohort([], base)
            alone.network.layout = layout
            single = seat(alone, config, tmp_path / f"{layout}-alone")
            check_that_nothing_drops(alone.network, DATASET.train, single.name)
            steps(alone, member.step)
            for mine, other in zip(weights_of(member), weights_of(single), strict=True):
                assert torch.allclose(mine, other, atol=TOLERANCE)


def test_a_base_that_draws_in_each_pass_is_refused(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    network = new_cohort([]).network

    def drop(module: torch.nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return torch.nn.functional.dropout(output, 0.1)  # in eval mode too, as code of a hub may do it

    network.encoder.embeddings.register_forward_hook(drop)
    network.add("ann", config_of().model.lora, CLASSES, seed=0)
    with pytest.raises(UserError, match=r"^model\.arch: 'bert' draws random numbers of its own in each pass"):
        check_that_nothing_drops(network, DATASET.train, "ann")


def test_micro_batches_add_up_to_the_batch(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    learned = []
    for number, size in enumerate([8, 3]):
        cohort = new_cohort([])
        config = config_of(f"{number}", {"micro_batch_size": size}, lora={"dropout": 0})
        member = seat(cohort, config, tmp_path)
        steps(cohort, 6)
        learned.append(weights_of(member))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*learned, strict=True))


def test_the_same_seed_gives_the_same_bits(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    histories = []
    for number in range(2):
        cohort = new_cohort([])
        member = seat(cohort, config_of(lora={"dropout": 0.3}), tmp_path / f"{number}")
        train(cohort, Nobody())
        histories.append([{k: v for k, v in epoch.items() if "system/" not in k} for epoch in member.history])
    assert histories[0] == histories[1]


def test_early_stopping_keeps_the_best_epoch(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    cohort = new_cohort([])
    rates = {"epochs": 9, "lr": 1e-12, "early_stopping_epochs": 2}
    member = seat(cohort, config_of(train=rates), tmp_path)
    train(cohort, Nobody())
    assert member.status == "finished"
    assert len(member.history) == 3
    assert member.best is not None
    assert member.best.epoch == 1
    assert log_of(member).notices == ["tiny: finished in epoch 3: no better avg_f1 for 2 epochs"]


@pytest.mark.parametrize(
    ("f1_and_loss", "best", "epochs"),
    [
        ([(0.5, 0.9), (0.5, 0.8), (0.5, 0.7), (0.9, 0.6)], 3, 3),
        ([(0.5, 0.9), (0.5, 0.8), (0.6, 0.9), (0.6, 0.9), (0.5, 0.1)], 3, 5),
        ([(0.5, 0.9), (0.5, float("nan"))], 1, 2),
    ],
    ids=["a lower loss wins a tie, and puts no stop off", "the metric goes first", "no number never wins"],
)
def test_of_equal_epochs_the_one_with_the_lowest_loss_is_kept(
    new_cohort: NewCohort,
    config_of: ConfigOf,
    seat: Seat,
    tmp_path: Path,
    f1_and_loss: list[tuple[float, float]],
    best: int,
    epochs: int,
) -> None:
    rates = {"epochs": 9, "early_stopping_epochs": 2}
    member = seat(new_cohort([]), config_of(train=rates), tmp_path)
    for f1, loss in f1_and_loss:
        if member.is_training:
            member.end_epoch({"avg_f1": f1, "validation/loss": loss}, seconds=1)
    assert member.best is not None
    assert (member.best.epoch, len(member.history)) == (best, epochs)


def test_save_strategy_last_keeps_the_last(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    cohort = new_cohort([])
    member = seat(cohort, config_of(train={"save_strategy": "last"}), tmp_path)
    train(cohort, Nobody())
    assert member.best is not None
    assert member.best.epoch == 2


def test_the_best_weights_come_back(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    cohort = new_cohort([])
    member = seat(cohort, config_of(train={"epochs": 1}), tmp_path)
    train(cohort, Nobody())
    kept = weights_of(member)
    with torch.no_grad():
        for value in member.network.parameters(member.name):
            value.add_(1)
    member.restore_best()
    assert all(torch.equal(a, b) for a, b in zip(kept, weights_of(member), strict=True))


def test_a_member_without_a_number_for_a_loss_stops_and_its_neighbour_goes_on(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    cohort = new_cohort([])
    wild = {"lr": 1e38, "warmup_share": 0, "max_grad_norm": None}
    bad = seat(cohort, config_of("wild", wild), tmp_path)
    good = seat(cohort, config_of("calm"), tmp_path)
    train(cohort, Nobody())
    assert bad.status == "failed"
    assert bad.reason.startswith("the loss was nan at step ")
    assert "the likely cause is the learning rate (9.2e+37): lower train.lr" in bad.reason
    assert good.status == "finished"
    assert all(math.isfinite(value) for epoch in good.history for value in epoch.values())


@contextmanager
def little_memory(cohort: Cohort, most_tokens: int) -> Iterator[None]:
    """The first layer refuses passes of more tokens, the way a full device does."""

    def refuse(module: torch.nn.Module, inputs: Any) -> None:
        if inputs[0].numel() > most_tokens * 16 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    layer = cohort.network.encoder.encoder.layer[0]
    handle = layer.attention.self.key.register_forward_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()


def test_out_of_memory_first_spreads_the_cohort_and_changes_no_result(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    learned = []
    for memory in (10**6, 130):
        notices: list[str] = []
        cohort = new_cohort(notices)
        members = [seat(cohort, config_of(name), tmp_path / f"{memory}") for name in ("one", "two")]
        with little_memory(cohort, memory):
            steps(cohort, 4)
        learned.append([weight for member in members for weight in weights_of(member)])
        assert {member.meter.rows for member in members} == {32}
    assert notices == ["out of memory: 2 members now train in 2 passes a step"]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*learned, strict=True))


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_batch(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    learned = []
    for memory in (10**6, 40):
        notices: list[str] = []
        cohort = new_cohort(notices)
        member = seat(cohort, config_of(lora={"dropout": 0}), tmp_path / f"{memory}")
        with little_memory(cohort, memory):
            steps(cohort, 5)
        learned.append(weights_of(member))
    assert notices == [
        f"out of memory: micro-batch halved from {size} to {size // 2} examples; the step is repeated"
        " and the batch stays; results are no longer exact to the last bit"
        for size in (8, 4)
    ]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*learned, strict=True))


def test_out_of_memory_with_one_example_is_told(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    cohort = new_cohort([])
    seat(cohort, config_of(), tmp_path)
    with (
        little_memory(cohort, 1),
        pytest.raises(UserError, match=r"micro-batch of 1 example; lower data\.max_len"),
    ):
        cohort.step()


def test_another_fault_is_not_taken_for_a_lack_of_memory(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    cohort = new_cohort([])
    seat(cohort, config_of(), tmp_path)

    def fail(*_: Any) -> None:
        raise RuntimeError("the roof fell in")

    cohort.network.encoder.encoder.layer[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="the roof fell in"):
        cohort.step()


def test_members_join_and_leave_at_the_end_of_an_epoch(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    cohort = new_cohort([])
    first = seat(cohort, config_of("first", {"epochs": 5}), tmp_path)

    def replace(member: Member) -> None:
        if member is first and member.epoch == 3:
            member.end("stopped", "pruned")
            seat(cohort, config_of("second"), tmp_path)

    train(cohort, Nobody(), after_epoch=replace)
    second = cohort.members[-1]
    assert (first.status, len(first.history)) == ("stopped", 2)
    assert (second.status, len(second.history)) == ("finished", 2)
    alone = new_cohort([])
    single = seat(alone, config_of("second"), tmp_path / "alone")
    train(alone, Nobody())
    assert second.history[-1]["avg_f1"] == single.history[-1]["avg_f1"]


def test_a_stop_leaves_all_members_between_steps(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    cohort = new_cohort([])
    members = [seat(cohort, config_of(name, {"epochs": 9}), tmp_path) for name in ("one", "two")]
    with pytest.raises(StoppedError):
        train(cohort, Nobody(), stop=StopWhen(lambda: members[0].step >= 8))
    assert [(member.status, member.step) for member in members] == [("training", 8)] * 2
    assert [len(member.history) for member in members] == [1, 1]
    assert members[0].folder.is_dir()


def evaluations(member: Member) -> list[int]:
    """The steps after which the scores were logged by step."""
    return [step for step, values in log_of(member).calls if "eval/avg_f1" in values]


@pytest.mark.parametrize(
    ("max_steps", "steps_done", "epochs"), [(8, 8, 2), (12, 12, 2), (3, 3, 1), (99, 30, 5)]
)
def test_max_steps_ends_a_training_within_an_epoch(
    new_cohort: NewCohort,
    config_of: ConfigOf,
    seat: Seat,
    tmp_path: Path,
    max_steps: int,
    steps_done: int,
    epochs: int,
) -> None:
    """Six steps are an epoch."""
    cohort = new_cohort([])
    member = seat(cohort, config_of("short", {"epochs": 5, "max_steps": max_steps}), tmp_path)
    other = seat(cohort, config_of("other", {"epochs": 1}), tmp_path)
    train(cohort, Nobody())
    assert (member.step, member.epochs, len(member.history)) == (steps_done, epochs, epochs)
    assert (member.status, member.reason) == (other.status, other.reason) == ("finished", "")
    assert [step for step, _ in log_of(member).calls] == [*range(1, epochs + 1)]
    assert member.meter.rows == 48 - 8 * (-steps_done % 6)


def test_eval_steps_evaluates_within_an_epoch_and_changes_nothing_learned(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    together = new_cohort([])
    often = seat(together, config_of("often", {"eval_steps": 4}), tmp_path)
    once = seat(together, config_of("once"), tmp_path)
    train(together, Nobody())
    assert evaluations(often) == [4, 6, 8, 12], "4 and 8, and the ends of both epochs, each once"
    assert evaluations(once) == []
    assert [epoch for epoch, values in log_of(often).calls if "avg_f1" in values] == [1, 2]
    at_the_end = next(v for step, v in log_of(often).calls if step == 12)
    assert at_the_end["eval/avg_f1"] == often.history[-1]["avg_f1"]
    assert at_the_end["eval/loss"] == often.history[-1]["validation/loss"]
    assert all(torch.equal(a, b) for a, b in zip(weights_of(often), weights_of(once), strict=True))


def test_the_best_weights_may_come_from_within_an_epoch(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    member = seat(new_cohort([]), config_of(train={"eval_steps": 4}), tmp_path)
    member.step = 4
    member.evaluated({"avg_f1": 0.9, "validation/loss": 0.1})
    kept = weights_of(member)
    with torch.no_grad():
        for value in member.network.parameters(member.name):
            value.add_(1)
    member.step = 6
    member.end_epoch({"avg_f1": 0.5, "validation/loss": 0.2}, seconds=1)
    assert member.best is not None
    assert (member.best.epoch, member.best.step, member.best.values["avg_f1"]) == (1, 4, 0.9)
    member.restore_best()
    assert all(torch.equal(a, b) for a, b in zip(kept, weights_of(member), strict=True))
