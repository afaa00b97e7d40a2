"""A training that was stopped and goes on comes to the same numbers as one that was not, to the last bit."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.attempts import Ending, KilledError, Training, check_same, entered, facts, newest
from tests.cohorts import DATASET, TASKS
from tests.plain import Plain

from loratrack.checkpoints import Home
from loratrack.config import RunConfig, files
from loratrack.config.schema import SINGLE_TASK
from loratrack.data import LabelMap
from loratrack.errors import UserError
from loratrack.model.batch import Layout
from loratrack.training import keeper as keepers
from loratrack.training.checkpoint import STATE, Saved, SavedBest, read, restore
from loratrack.training.cohort import Cohort
from loratrack.training.keeper import Keeper
from loratrack.training.member import Member

NewCohort = Callable[..., Cohort]
ConfigOf = Callable[..., RunConfig]
Seat = Callable[[Cohort, RunConfig, Path], Member]
NewTraining = Callable[..., Training]

EACH_STEP = 1e-9
"""Minutes between checkpoints."""
RATES: dict[str, Any] = {"batch_size": 16, "epochs": 2, "log_steps": 2, "lr": 5e-3}
LORA: dict[str, Any] = {"rank": 2, "dropout": 0.2, "target_modules": ["query", "value"]}
ONE_TASK = dataclasses.replace(
    DATASET,
    label_map=LabelMap((dataclasses.replace(TASKS[0], name=SINGLE_TASK),)),
    **{
        part: dataclasses.replace(getattr(DATASET, part), labels=getattr(DATASET, part).labels[:, :1])
        for part in ("train", "validation", "test")
    },
)


@pytest.fixture(scope="session")
def new_training(new_cohort: NewCohort, config_of: ConfigOf, seat: Seat) -> NewTraining:
    """`new_training({"lr": 1e-3}, {"epochs": 3}, lora={…}, layout="padded")`: members with these settings."""

    def make(
        *trains: dict[str, Any],
        lora: dict[str, Any] | None = None,
        use_lora: bool = True,
        layout: Layout = "packed",
        one_task: bool = False,
        **network: Any,
    ) -> Training:
        model = {"use_lora": use_lora, "lora": LORA | (lora or {})}
        configs = [
            config_of(f"tiny-{number}", RATES | train, **model) for number, train in enumerate(trains or [{}])
        ]
        if one_task:
            network["dataset"] = ONE_TASK
            configs = [of_one_task(config) for config in configs]

        def cohort() -> Cohort:
            made = new_cohort([], use_lora=use_lora, **network)
            made.network.layout = layout
            return made

        return Training(cohort, seat, configs)

    return make


def of_one_task(config: RunConfig) -> RunConfig:
    settings = files.plain(config) | {"task_type": "single_cls"}
    settings["data"]["label_subset"] = list(TASKS[0].labels)
    return RunConfig.model_validate(settings)


WHOLE: dict[str, Any] = {"use_lora": False, "layout": "padded"}
KINDS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "lora": ([{}], {}),
    "padded": ([{}], {"layout": "padded"}),
    "bf16": ([{}], {"dtype": torch.bfloat16}),
    "the whole base": ([{"lr": 1e-3}], WHOLE),
    "the whole base in bf16": ([{"lr": 1e-3}], WHOLE | {"dtype": torch.bfloat16}),
    "one task": ([{}], {"one_task": True}),
    "micro-batches": ([{"micro_batch_size": 5}], {}),
    "early stopping": ([{"epochs": 9, "lr": 1e-12, "early_stopping_epochs": 1}], {}),
    "evaluations within epochs": ([{"eval_steps": 2, "batch_size": 10}], {}),
    "an end within an epoch": ([{"max_steps": 4}], {}),
    "no limit to the gradient, cosine": ([{"max_grad_norm": None, "schedule": "cosine"}], {}),
    "adam": ([{"optimizer": "adam"}], {}),
    "sgd": ([{"optimizer": "sgd", "lr": 0.1}], {}),
    "lion": ([{"optimizer": "lion", "lr": 1e-3}], {}),
    "adafactor": ([{"optimizer": "adafactor"}], {}),
    "adafactor and the whole base": ([{"optimizer": "adafactor", "lr": 1e-3}], WHOLE),
    "dora": ([{}], {"lora": {"use_dora": True}}),
    "rslora": ([{}], {"lora": {"use_rslora": True}}),
    "the last epoch kept": ([{"save_strategy": "last"}], {}),
    "three members": ([{"seed": 1}, {"epochs": 1, "batch_size": 7}, {"epochs": 3, "batch_size": 24}], {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_is_stopped_again_and_again_comes_to_the_same(
    new_training: NewTraining, tmp_path: Path, kind: str
) -> None:
    trains, settings = KINDS[kind]
    training = new_training(*trains, **settings)
    watched = Ending()
    expected = training.ended(tmp_path / "undisturbed", watched)
    assert watched.looks >= 6, "so often it could be stopped"
    # After one turn of the loop or two: where an epoch ends, a single turn only evaluates and is not saved.
    stops = (Ending(look=2 + number % 2) for number in range(watched.looks))
    found = training.ended(tmp_path / "stopped", *stops)
    check_same(found, expected)


@pytest.mark.parametrize("kind", ["lora", pytest.param("the whole base", marks=pytest.mark.slow)])
def test_one_stop_at_any_step_changes_nothing(new_training: NewTraining, tmp_path: Path, kind: str) -> None:
    """Here the step before was saved as well, and losses of several steps are not read yet."""
    trains, settings = KINDS[kind]
    training = new_training({**trains[0], "log_steps": 4, "checkpoint_minutes": EACH_STEP}, **settings)
    watched = Ending()
    expected = training.ended(tmp_path / "undisturbed", watched)
    assert watched.looks >= 6
    for look in range(1, watched.looks + 1):
        check_same(training.ended(tmp_path / f"stopped-{look}", Ending(look=look)), expected)


@pytest.mark.parametrize("kind", ["lora", "the whole base", "evaluations within epochs", "three members"])
def test_an_evaluation_that_is_given_up_is_made_again(
    new_training: NewTraining, tmp_path: Path, kind: str
) -> None:
    trains, settings = KINDS[kind]
    training = new_training(*trains, **settings)
    watched = Ending()
    expected = training.ended(tmp_path / "undisturbed", watched)
    assert watched.evaluations >= 2
    for number in range(1, watched.evaluations + 1):
        check_same(training.ended(tmp_path / f"stopped-{number}", Ending(evaluation=number)), expected)


@pytest.mark.parametrize(
    ("kind", "minutes"), [("lora", 600), ("the whole base", EACH_STEP), ("three members", None)]
)
def test_a_killed_training_goes_on_from_what_was_saved_last(
    new_training: NewTraining, tmp_path: Path, kind: str, minutes: float | None
) -> None:
    trains, settings = KINDS[kind]
    training = new_training(*({**train, "checkpoint_minutes": minutes} for train in trains), **settings)
    expected = training.ended(tmp_path / "undisturbed")
    places = ({"look": 6}, {"evaluation": 2}, {"look": 2})
    killed = training.ended(tmp_path / "killed", *(Ending(**place, how=KilledError) for place in places))
    check_same(killed, expected)


@pytest.mark.parametrize(("minutes", "step"), [(None, 3), (EACH_STEP, 4), (600, 0)])
def test_a_checkpoint_is_made_when_its_time_has_come(
    new_training: NewTraining, tmp_path: Path, minutes: float | None, step: int
) -> None:
    """At the end of an epoch, after each step, or only at the beginning; killed after the fourth step."""
    new_training({"checkpoint_minutes": minutes}).attempt(tmp_path, Ending(look=6, how=KilledError))
    about = Home(tmp_path / "tiny-0").about()
    assert about is not None
    assert (about.step, about.attempt, about.is_trained) == (step, 1, False)
    assert str(about) == f"epoch {step / 3:.1f} of 2"


def drawing(cohort: Cohort) -> Cohort:
    """A base that draws from all generators there are, and counts its passes in a buffer."""
    dropout = cohort.network.encoder.embeddings.dropout
    dropout.register_buffer("passes", torch.zeros(()), persistent=False)

    def draw(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        if not module.training:
            return None
        dropout.passes += 1
        # an odd number of normal ones: the generators keep every second for the next call
        factor: float = 1 + 0.1 * np.random.standard_normal() + 0.1 * random.gauss(0, 1)
        scaled: torch.Tensor = output * factor * dropout.passes.sqrt()
        return scaled

    dropout.register_forward_hook(draw)
    return cohort


def test_random_numbers_of_every_kind_and_buffers_go_on(new_training: NewTraining, tmp_path: Path) -> None:
    plain = new_training({"lr": 1e-3}, **WHOLE)
    training = dataclasses.replace(plain, new_cohort=lambda: drawing(plain.new_cohort()))
    expected = training.ended(tmp_path / "undisturbed")
    found = training.ended(tmp_path / "stopped", *(Ending(look=2) for _ in range(8)))
    check_same(found, expected)


def test_the_writing_thread_sees_nothing_of_later_steps(
    new_training: NewTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins to write when the loop has taken a step, and when it wants to save again."""
    training, home = new_training({"eval_steps": 1}), Home(tmp_path / "home")
    cohort = training.new_cohort()
    member = training.seat(cohort, training.configs[0], tmp_path)
    keeper = Keeper(cohort)
    keeper.follow(member, home, facts(home.claim()))
    keeper.wait()
    begun = threading.Event()

    def late(tensors: dict[str, torch.Tensor], file: Path) -> None:
        begun.wait(timeout=0.3)
        save_file(tensors, file)

    monkeypatch.setattr(keepers, "save_file", late)
    weights, best = [], []
    for _ in range(3):
        cohort.evaluate_due()
        cohort.step()
        weights.append(member.flat_parameters.values.clone())
        best.append(member.best)
        keeper.save([member])
    begun.set()
    keeper.wait()
    about = home.about()
    assert about is not None
    folders = zip(home.folders(), (3, 2), strict=True)
    saved = [read(folder, about.model_copy(update={"step": step})) for folder, step in folders]
    assert [each.state.step for each in saved] == [3, 2]
    for each in saved:
        assert torch.equal(each.tensors["trained"], weights[each.state.step - 1])
        kept = best[each.state.step - 1]
        assert kept is not None
        assert each.state.best == SavedBest(**{**dataclasses.asdict(kept), "values": dict(kept.values)})


def test_what_is_no_part_of_the_numbers_goes_on_too(new_training: NewTraining, tmp_path: Path) -> None:
    training = new_training()
    saved = saved_one(training, tmp_path)
    assert saved.state.threads == torch.get_num_threads()
    assert saved.state.notices == ["said before"]
    state = saved.state.model_copy(update={"epoch_seconds": 1000.0, "threads_at_start": 7})
    changed = dataclasses.replace(saved, state=state)
    cohort = training.new_cohort()
    member = entered(cohort, training.seat, training.configs[0], tmp_path / "new", changed)
    assert 1000 < member.epoch_seconds() < 1100
    assert cohort.threads_at_start == 7


def test_a_training_that_is_over_comes_back_with_its_best_weights(
    new_training: NewTraining, tmp_path: Path
) -> None:
    training = new_training({"epochs": 9, "lr": 1e-12, "early_stopping_epochs": 1})
    expected, found = (training.attempt(tmp_path)["tiny-0"] for _ in range(2))
    assert found.status == "finished"
    assert found.reason == "no better avg_f1 for 1 epoch"
    for name in ("step", "epoch", "status", "reason", "history", "best", "best_files"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.told == []


def test_it_learns_what_a_plain_loop_learns_without_a_stop(new_training: NewTraining, tmp_path: Path) -> None:
    """The other side is PEFT and torch alone: nothing of ours could be wrong on both sides."""
    lora = {"rank": 4, "dropout": 0, "target_modules": "all-linear"}
    training = new_training({"epochs": 3, "weight_decay": 0.1}, lora=lora)
    begun = training.attempt(tmp_path / "begun", Ending(look=1))["tiny-0"].member
    plain = Plain(begun, torch.optim.AdamW)
    plain.train()
    stops = (Ending(look=3), Ending(look=2), Ending(evaluation=1), Ending(look=4))
    learned = training.ended(tmp_path / "stopped", *stops)["tiny-0"].member
    assert (learned.step, learned.status) == (9, "finished")
    assert plain.largest_difference(begun) > 1e-2
    assert plain.largest_difference(learned) < 1e-5


def refusing(cohort: Cohort, most_tokens: int) -> Cohort:
    """Training passes of more tokens do not fit, the way of a full device."""

    def refuse(module: torch.nn.Module, inputs: Any) -> None:
        if inputs[0].shape[:-1].numel() > most_tokens and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    cohort.network.encoder.encoder.layer[0].attention.self.key.register_forward_pre_hook(refuse)
    return cohort


def test_what_memory_has_taught_is_not_learned_again(new_training: NewTraining, tmp_path: Path) -> None:
    """Two members do not fit in one pass, and a batch of the larger one not at all."""
    plain = new_training({}, {"batch_size": 48, "lr": 1e-3})
    notices: list[str] = []

    def cohort() -> Cohort:
        made = refusing(plain.new_cohort(), most_tokens=260)
        made.memory.notice = notices.append
        return made

    training = dataclasses.replace(plain, new_cohort=cohort)
    expected = training.ended(tmp_path / "undisturbed")
    assert notices == [
        "out of memory: 2 members now train in 2 passes a step",
        "out of memory: micro-batch halved from 48 to 24 examples; the step is repeated and the batch stays;"
        " results are no longer exact to the last bit",
    ]
    training.attempt(tmp_path / "stopped", Ending(look=2))
    del notices[:]
    check_same(training.ended(tmp_path / "stopped", Ending(look=2)), expected)
    assert notices == []


def saved_one(training: Training, folder: Path) -> Saved:
    """After two steps."""
    training.attempt(folder, Ending(look=3))
    saved = newest(Home(folder / "tiny-0"))
    assert saved is not None
    assert saved.state.step == 2
    return saved


@pytest.mark.parametrize(
    ("use_lora", "change", "message"),
    [
        (
            True,
            {"num_rows": 1234, "epoch": 3},
            "was trained on 1,234 rows, and there are 48 now; put the data back, or begin a new run",
        ),
        (True, {"step": 4}, "does not fit this run: step 4 of 6 in epoch 1; begin a new run"),
        (True, {"epoch": 3}, "does not fit this run: step 2 of 6 in epoch 3; begin a new run"),
        (
            True,
            {"unread_targets": [16]},
            "does not fit this run: unread_losses of shape (2, 2); begin a new run",
        ),
        (
            False,
            {"python_random": [3]},
            "does not fit this run: not enough values to unpack (expected 3, got 1); begin a new run",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    new_training: NewTraining, tmp_path: Path, use_lora: bool, change: dict[str, Any], message: str
) -> None:
    layout: Layout = "packed" if use_lora else "padded"
    training = new_training({"log_steps": 9}, use_lora=use_lora, layout=layout)
    saved = saved_one(training, tmp_path)
    changed = dataclasses.replace(saved, state=saved.state.model_copy(update=change))
    with pytest.raises(UserError, match=f"^{re.escape(f'{saved.folder}: {message}')}$"):
        entered(training.new_cohort(), training.seat, training.configs[0], tmp_path / "new", changed)


@pytest.mark.parametrize(
    ("lora", "train", "message"),
    [
        (
            {"rank": 4},
            {},
            r"trained must be \(608,\) in torch.float32, got \(352,\) in torch.float32; begin a new run",
        ),
        (
            {},
            {"optimizer": "adafactor"},
            "2 states of an optimizer that has 10 parameters; begin a new run",
        ),
    ],
)
def test_tensors_of_another_shape_are_refused(
    new_training: NewTraining,
    tmp_path: Path,
    lora: dict[str, Any],
    train: dict[str, Any],
    message: str,
) -> None:
    saved = saved_one(new_training(), tmp_path)
    other = new_training(train, lora=lora)
    cohort = other.new_cohort()
    member = other.seat(cohort, other.configs[0], tmp_path / "new")
    with pytest.raises(UserError, match=message):
        restore(saved, member, cohort)


@pytest.mark.parametrize(
    "name", ["trained", "optimizer.0.", "buffer.embeddings.position_ids", "random.torch"]
)
@pytest.mark.parametrize("how", ["missing", "of another shape"])
def test_a_tensor_that_is_missing_or_of_another_shape_is_refused(
    new_training: NewTraining, tmp_path: Path, name: str, how: str
) -> None:
    training = new_training(use_lora=False, layout="padded")
    saved = saved_one(training, tmp_path)
    tensors = dict(saved.tensors)
    found = {key: tensors.pop(key) for key in saved.tensors if key.startswith(name)}
    assert found
    if how != "missing":
        tensors |= {key: value.flatten()[:-1].clone() for key, value in found.items()}
    changed = dataclasses.replace(saved, tensors=tensors)
    with pytest.raises(UserError, match=f"^{re.escape(str(saved.folder))}: .*; begin a new run$"):
        entered(training.new_cohort(), training.seat, training.configs[0], tmp_path / "new", changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format: Input should be 1"),
        ({"step": -1}, "step: Input should be greater than or equal to 0"),
        ({"step": "2"}, "step: Input should be a valid integer"),
        ({"epoch": 0}, "epoch: Input should be greater than or equal to 1"),
        ({"threads": 0}, "threads: Input should be greater than or equal to 1"),
        ({"passes": 0}, "passes: Input should be greater than or equal to 1"),
        ({"micro_batch_limit": 0}, "micro_batch_limit: Input should be greater than or equal to 1"),
        ({"history": None}, "history: Input should be a valid array"),
        ({"best": {"epoch": 1}}, "best.step: Field required"),
    ],
)
def test_a_state_with_nonsense_is_refused(
    new_training: NewTraining, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    saved = saved_one(new_training(), tmp_path)
    file = saved.folder / STATE
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(
        UserError, match=f"^{re.escape(f'{file}: {message}; as another version wrote it; begin a new run')}$"
    ):
        read(saved.folder, saved.about)


def test_files_that_are_no_checkpoint_are_refused(new_training: NewTraining, tmp_path: Path) -> None:
    saved = saved_one(new_training(), tmp_path)
    (saved.folder / STATE).write_text("{")
    with pytest.raises(
        UserError, match=r"state\.json: : Invalid JSON: .*; as another version wrote it; begin a new run$"
    ):
        read(saved.folder, saved.about)
    (saved.folder / STATE).unlink()
    with pytest.raises(UserError, match=r"cannot be read: .*No such file.*; begin a new run$"):
        read(saved.folder, saved.about)


def test_values_that_are_no_numbers_come_back_as_they_were(new_training: NewTraining, tmp_path: Path) -> None:
    """The loss of the validation set may be infinite while that of training is not yet."""
    training = new_training()
    cohort = training.new_cohort()
    member = training.seat(cohort, training.configs[0], tmp_path / "old")
    member.history = [{"validation/loss": math.inf, "avg_f1": math.nan}]
    home, keeper = Home(tmp_path / "home"), Keeper(cohort)
    keeper.follow(member, home, facts(home.claim()))
    keeper.wait()
    saved = newest(home)
    assert saved is not None
    assert saved.state.history[0]["validation/loss"] == math.inf
    assert math.isnan(saved.state.history[0]["avg_f1"])
