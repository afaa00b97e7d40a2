"""The same engine on a GPU: ragged attention, grouped products, CUDA graphs, and nothing that waits."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.attempts import Ended, Ending, Training
from torch import Tensor
from transformers import AutoModel, BertConfig, LlamaConfig, ModernBertConfig

from loratrack.config import RunConfig
from loratrack.data import Dataset, Encoded, LabelMap, TaskLabels
from loratrack.model.network import Network
from loratrack.training.cohort import Cohort
from loratrack.training.log import ListLog
from loratrack.training.member import Member, Rows
from loratrack.training.objectives.classification import Classification
from loratrack.training.objectives.objective import MicroBatch
from loratrack.training.step import run_pass

pytestmark = pytest.mark.gpu

TASKS = (
    TaskLabels("risk", ("low", "mid", "high"), (0, 1, 2)),
    TaskLabels("taken", ("yes", "no"), (3, 4)),
)
LORAS: dict[str, dict[str, Any]] = {
    "ann": {"rank": 4, "dropout": 0.3},
    "bob": {"rank": 9, "alpha": 7, "dropout": 0.1, "target_modules": ["key", "value"]},
    "cid": {"rank": 8, "dropout": 0.0},
}


SIZES = {"vocab_size": 60, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96}
BASES = {
    "bert": BertConfig(**SIZES, num_attention_heads=2, initializer_range=0.2),
    "llama": LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2),
    "modernbert": ModernBertConfig(
        **SIZES,
        num_attention_heads=2,
        pad_token_id=0,
        cls_token_id=1,
        sep_token_id=2,
        local_attention=8,
        global_attn_every_n_layers=2,
    ),
}


def encoded(rows: int, seed: int, longest: int = 14) -> Encoded:
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.integers(0, 3, rows), rng.integers(0, 2, rows)], axis=1).astype(np.int64)
    lengths = rng.integers(5, longest, size=rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = rng.integers(5, 20, size=lengths.sum()).astype(np.int32)
    tokens += 15 * np.repeat(labels[:, 0], lengths).astype(np.int32)
    return Encoded(tokens, offsets, None, labels)


DATASET = Dataset(encoded(1600, 0), encoded(24, 1), encoded(16, 2), LabelMap(TASKS), {}, "0" * 64)


def cohort_of(
    *names: str,
    precision: torch.dtype = torch.bfloat16,
    lr: float = 5e-3,
    kind: str = "bert",
    use_lora: bool = True,
) -> Cohort:
    torch.manual_seed(0)
    base = AutoModel.from_config(copy.deepcopy(BASES[kind]))
    network = Network(base, "mean", torch.device("cuda"), use_lora=use_lora, dtype=precision)
    cohort = Cohort(network, Classification(DATASET), lambda text: None)
    for name in names:
        config = RunConfig.model_validate(
            {
                "exp_id": name,
                "task_type": "double_cls",
                "data": {
                    "raw_data_path": "rows.csv",
                    "label_subset": {task.name: list(task.labels) for task in TASKS},
                },
                "model": {"lora": LORAS[name], "use_lora": use_lora},
                "train": {"batch_size": 16, "lr": lr, "epochs": 9, "seed": ord(name[0]), "log_steps": 1000},
            }
        )
        cohort.objective.add_member(network, name, config)
        cohort.join(Member(name, config, network, len(DATASET.train), ListLog(), Path(name)))
    network.train()
    return cohort


def weights(cohort: Cohort, name: str, steps: int) -> list[Tensor]:
    for _ in range(steps):
        cohort.step()
    return [value.detach().cpu().clone() for value in cohort.network.parameters(name)]


@pytest.mark.parametrize("name", LORAS)
def test_a_member_learns_the_same_alone_and_among_others(name: str) -> None:
    """In fp32; bf16 rounds sums of other sizes in other ways."""
    together = weights(cohort_of(*LORAS, precision=torch.float32), name, 11)
    alone = weights(cohort_of(name, precision=torch.float32), name, 11)
    assert all(torch.allclose(a, b, atol=2e-4) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("name", LORAS)
def test_grouped_products_are_as_exact_as_a_member_alone(name: str) -> None:
    exact = gradients(cohort_of(name, precision=torch.float32), name)
    alone, together = (gradients(cohort_of(*names), name) for names in ([name], list(LORAS)))
    for a, b, c in zip(exact, alone, together, strict=True):
        assert a.any()
        assert (b - a).norm() < 0.05 * a.norm()
        assert (c - a).norm() < 0.05 * a.norm()


def gradients(cohort: Cohort, name: str) -> list[Tensor]:
    for member in cohort.members:
        for value in cohort.network.adapter_parameters(member.name).values():
            torch.nn.init.normal_(value, std=0.05, generator=torch.Generator("cuda").manual_seed(1))
    parts = []
    for member in cohort.members:
        rows = np.arange(16) + 16 * (ord(member.name[0]) % 3)
        parts.append(MicroBatch(member, rows, rows, number=0))
    run_pass(parts, cohort.network, cohort.objective, cohort.graphs)
    return [value.grad.cpu().clone() for value in cohort.network.parameters(name) if value.grad is not None]


@pytest.mark.parametrize("kind", BASES)
def test_ragged_rows_give_the_logits_of_padded_ones(kind: str) -> None:
    network = cohort_of("cid", kind=kind).network
    assert network.takes_ragged
    answers = []
    for layout in ("packed", "padded"):
        network.layout = layout
        network.eval()
        batch = network.arrange(DATASET.train, [np.arange(24)], ["cid"]).on(network.device)
        with torch.inference_mode(), network.routed(batch, ["cid"]):
            answers.append(network.logits(batch, ["cid"]))
    assert (answers[0] - answers[1]).abs().max() < 0.05 * answers[1].abs().max()


def test_checkpointing_changes_no_gradient() -> None:
    saving = cohort_of(*LORAS)
    saving.network.checkpoint_gradients()
    assert not saving.network.can_be_captured
    plain, other = gradients(cohort_of(*LORAS), "ann"), gradients(saving, "ann")
    assert len(plain) > 4
    assert all((a - b).norm() < 0.01 * a.norm() for a, b in zip(plain, other, strict=True))


def test_a_base_that_synchronises_in_its_forward_stays_eager() -> None:
    cohort = cohort_of("ann")
    notices: list[str] = []
    cohort.graphs.notice = notices.append

    def look(module: torch.nn.Module, inputs: Any, output: Tensor) -> None:
        assert output.detach().sum().item() != 0

    cohort.network.encoder.encoder.layer[1].register_forward_hook(look)
    mine = weights(cohort, "ann", 12)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert len(notices) == 1
    assert notices[0].startswith("this base does not run as a CUDA graph, so its steps are slower: ")
    other = weights(cohort_of("ann"), "ann", 12)
    for a, b in zip(mine, other, strict=True):
        assert (a - b).norm() < 0.02 * b.norm() + 1e-3


def test_a_base_can_be_trained_whole() -> None:
    cohort = cohort_of("ann", use_lora=False, lr=1e-3)
    (member,) = cohort.members
    losses = []
    for _ in range(90):
        cohort.step()
        losses += member.meter.read()
    assert len(losses) == 90
    assert sum(losses[-9:]) < 0.7 * sum(losses[:9])


@pytest.mark.parametrize("names", [["ann"], list(LORAS)])
def test_a_replayed_pass_learns_what_an_eager_one_does(
    names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 12
    captured = cohort_of(*names)
    mine = weights(captured, names[0], steps)
    assert captured.graphs._graphs_by_shape
    monkeypatch.setattr(Network, "can_be_captured", False)
    plain = cohort_of(*names)
    other = weights(plain, names[0], steps)
    assert not plain.graphs._graphs_by_shape
    for a, b in zip(mine, other, strict=True):
        assert (a - b).norm() < 0.02 * b.norm() + 1e-3


class Watched(Member):
    """Remembers the rows that it has learned from."""

    def next_batch(self) -> Rows:
        rows = super().next_batch()
        self.__dict__.setdefault("rows", []).append(rows.tolist())
        return rows

    @property
    def seen(self) -> list[list[int]]:
        rows: list[list[int]] = self.__dict__.get("rows", [])
        return rows


def training_of(*names: str, **settings: Any) -> Training:
    """What `cohort_of` begins, in attempts."""
    configs = [member.config for member in cohort_of(*names, **settings).members]
    configs = [
        config.model_copy(update={"train": config.train.model_copy(update={"epochs": 1, "max_steps": STEPS})})
        for config in configs
    ]

    def seat(cohort: Cohort, config: RunConfig, folder: Path) -> Member:
        cohort.objective.add_member(cohort.network, config.exp_id, config)
        rows = len(DATASET.train)
        member = Watched(config.exp_id, config, cohort.network, rows, ListLog(), folder / "best")
        cohort.join(member)
        return member

    return Training(lambda: cohort_of(**settings), seat, configs)


def rows_of(attempts: Sequence[Mapping[str, Ended]], name: str) -> list[list[int]]:
    members = [attempt[name].member for attempt in attempts]
    return [rows for member in members if isinstance(member, Watched) for rows in member.seen]


STEPS = 12
RESUMED: dict[str, tuple[list[str], dict[str, Any]]] = {
    "one member": (["ann"], {}),
    "three members": (list(LORAS), {}),
    "fp32": (["ann"], {"precision": torch.float32}),
    "the whole base": (["ann"], {"use_lora": False, "precision": torch.float32, "lr": 1e-3}),
}


@pytest.mark.parametrize("kind", RESUMED)
def test_a_training_that_is_stopped_goes_on_with_the_same_rows(kind: str, tmp_path: Path) -> None:
    """Its weights end within a tenth of the way that they went: a GPU adds in no fixed order, and graphs are
    captured at other steps. With other dropout or a new optimizer they end farther off.
    """
    names, settings = RESUMED[kind]
    training = training_of(*names, **settings)
    begun = training.attempt(tmp_path / "begun", Ending(look=1))
    undisturbed = training.attempt(tmp_path / "undisturbed")
    attempts = [training.attempt(tmp_path / "stopped", Ending(look=look)) for look in (6, 1, 5)]
    attempts.append(training.attempt(tmp_path / "stopped"))
    for name in names:
        found, expected = attempts[-1][name], undisturbed[name]
        assert (found.step, found.status) == (expected.step, expected.status) == (STEPS, "finished")
        assert len(rows_of([undisturbed], name)) == STEPS
        assert rows_of(attempts, name) == rows_of([undisturbed], name)
        assert found.weights.keys() == expected.weights.keys()
        way = distance(begun[name], expected)
        assert way > 0
        assert distance(found, expected) < 0.1 * way


def distance(one: Ended, other: Ended) -> float:
    """Between all that is trained, as one row of numbers."""
    parts = [(value - other.weights[name]).flatten() for name, value in one.weights.items()]
    return float(torch.cat(parts).norm())


def test_a_step_waits_for_nothing() -> None:
    for names in (["ann"], list(LORAS)):
        cohort = cohort_of(*names)
        for _ in range(8):
            cohort.step()
        cohort.graphs.clear()
        with waiting_is_an_error():
            cohort.step()  # eager
        for _ in range(24):
            cohort.step()
        assert cohort.graphs._graphs_by_shape
        with waiting_is_an_error():
            cohort.step()


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
