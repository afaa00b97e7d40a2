"""Class weights, label smoothing and focal loss against torch's own losses and formulas written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from tests.cohorts import BASES, CLASSES, DATASET, encoded
from torch import Tensor

from loratrack.config import RunConfig
from loratrack.data import Dataset, Encoded, LabelMap, TaskLabels
from loratrack.model.batch import Layout
from loratrack.model.network import Network
from loratrack.training.cohort import Cohort
from loratrack.training.log import ListLog
from loratrack.training.member import Member
from loratrack.training.objectives.classification import Classification
from loratrack.training.step import run_pass

TOPICS = TaskLabels("topics", ("sport", "art", "law", "food"), (0, 1, 2, 3), is_multi_label=True)
RISK = TaskLabels("risk", ("low", "mid", "high"), (4, 5, 6))
CHANCES = (0.6, 0.3, 0.1, 0.05)


def mixed(rows: int, seed: int) -> Encoded:
    """A risk, and any number of four topics; each topic has a word of its own."""
    one = encoded(rows, seed)
    topics = (np.random.default_rng([seed, 1]).random((rows, 4)) < CHANCES).astype(np.int64)
    tokens = one.tokens.copy()
    for position, column in enumerate(topics.T):
        tokens[one.offsets[:-1] + position] = 50 + 2 * position + column
    return Encoded(tokens, one.offsets, None, np.hstack([one.labels[:, :1], topics]))


MIXED = Dataset(mixed(48, 0), mixed(24, 1), mixed(16, 2), LabelMap((RISK, TOPICS)), {}, "0" * 64)


def config(name: str, **train: Any) -> RunConfig:
    settings = {"batch_size": 8, "micro_batch_size": 3, "loss_weight": [0.3, 0.7], "lr": 5e-3, "epochs": 2}
    labels = {task.name: list(task.labels) for task in (RISK, TOPICS)}
    data = {"raw_data_path": "rows.csv", "label_subset": labels, "multi_label": ["topics"]}
    return RunConfig.model_validate(
        {
            "exp_id": name,
            "task_type": "double_cls",
            "data": data,
            "model": {"lora": {"dropout": 0}},
            "train": settings | train,
        }
    )


HIGH = {"risk": {"high": 5, "low": 0.5}, "topics": {"food": 3}}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "balanced": {"class_weight": "balanced"},
    "weights": {"class_weight": HIGH},
    "smooth": {"label_smoothing": 0.1},
    "focal": {"focal_gamma": 2},
    "all": {"class_weight": HIGH, "label_smoothing": 0.2, "focal_gamma": 0.5},
}


def cohort_of(layout: Layout, folder: Path, *names: str) -> tuple[Cohort, list[Member]]:
    torch.manual_seed(0)
    network = Network(BASES["bert"](), "mean", torch.device("cpu"), use_lora=True)
    network.layout = layout
    cohort = Cohort(network, Classification(MIXED), lambda text: None)
    members = []
    for name in names:
        own = config(name, **SETTINGS[name])
        cohort.objective.add_member(network, name, own)
        members.append(Member(name, own, network, len(MIXED.train), ListLog(), folder / name))
        cohort.join(members[-1])
    return cohort, members


def risk_loss(logits: Tensor, labels: Tensor, train: dict[str, Any]) -> Tensor:
    """Over a whole batch, in plain torch."""
    chosen, weight = train.get("class_weight"), None
    if chosen == "balanced":
        every = MIXED.train.labels[:, 0]
        weight = torch.tensor(compute_class_weight("balanced", classes=np.arange(3), y=every)).float()
    elif chosen:
        weight = torch.tensor([0.5, 1.0, 5.0])
    smoothing, gamma = train.get("label_smoothing", 0.0), train.get("focal_gamma", 0)
    if not gamma:
        whole = torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)
        return torch.as_tensor(whole(logits, labels))
    each = torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing, reduction="none")
    p = torch.softmax(logits, dim=-1)[torch.arange(len(labels)), labels]
    divisor = len(labels) if weight is None else weight[labels].sum()
    loss: Tensor = ((1 - p) ** gamma * each(logits, labels)).sum() / divisor
    return loss


def topics_loss(logits: Tensor, labels: Tensor, train: dict[str, Any]) -> Tensor:
    chosen, weight = train.get("class_weight"), torch.ones(4)
    if chosen == "balanced":
        every = torch.from_numpy(MIXED.train.labels[:, 1:])
        weight = (len(every) - every.sum(dim=0)) / every.sum(dim=0)
    elif chosen:
        weight = torch.tensor([1.0, 1.0, 1.0, 3.0])
    smoothing, gamma, truth = train.get("label_smoothing", 0.0), train.get("focal_gamma", 0), labels.float()
    targets = (1 - smoothing) * truth + 0.5 * smoothing
    if not gamma:
        return torch.as_tensor(4 * torch.nn.BCEWithLogitsLoss(pos_weight=weight)(logits, targets))
    p = torch.sigmoid(logits)
    p_of_truth = torch.where(truth == 1, p, 1 - p)
    each = -(weight * targets * torch.log(p) + (1 - targets) * torch.log(1 - p))
    loss: Tensor = ((1 - p_of_truth) ** gamma * each).sum(dim=1).mean()
    return loss


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_the_loss_and_the_gradients_of_a_batch_are_torchs(layout: Layout, tmp_path: Path) -> None:
    """Six members whose losses are defined in six ways, each in micro-batches of 3, 3 and 2 rows."""
    cohort, members = cohort_of(layout, tmp_path, *SETTINGS)
    network, rng = cohort.network, np.random.default_rng(0)
    batches = [(member, rng.choice(len(MIXED.train), 8, replace=False)) for member in members]
    sums: dict[str, Tensor] = {}
    for parts in cohort.memory.divide(batches):
        reported = run_pass(parts, network, cohort.objective, cohort.graphs)
        for part, some in zip(parts, reported, strict=True):
            sums[part.member.name] = sums.get(part.member.name, torch.zeros(2)) + some

    for member, rows in batches:
        batch = network.arrange(MIXED.train, [rows], [member.name]).on(network.device)
        gradients = member.flat_parameters.gradients.clone()
        member.flat_parameters.zero_grad()
        with network.routed(batch, [member.name]):
            logits = network.logits(batch, [member.name])
            labels = torch.from_numpy(MIXED.train.labels[rows])
            train = SETTINGS[member.name]
            risk = risk_loss(logits[:, :3], labels[:, 0], train)
            topics = topics_loss(logits[:, 3:], labels[:, 1:], train)
            torch.autograd.backward(0.3 * risk + 0.7 * topics)
        assert torch.allclose(sums[member.name] / 8, torch.stack([risk, topics]), atol=1e-6), member.name
        assert torch.allclose(gradients, member.flat_parameters.gradients, atol=1e-6), member.name
        assert gradients.abs().max() > 0.01


def test_the_losses_of_all_members_differ(tmp_path: Path) -> None:
    """So the test above compares six different things."""
    logits, labels = torch.tensor([[2.0, 0, 1], [0, 1, 0]]), torch.tensor([0, 2])
    values = {round(float(risk_loss(logits, labels, train)), 4) for train in SETTINGS.values()}
    assert len(values) == len(SETTINGS)


def test_a_certain_answer_has_a_focal_gradient_that_is_a_number() -> None:
    task = Classification(DATASET).tasks[0]
    logits = torch.tensor([[200.0, 0, 0], [0, 200.0, 0]], requires_grad=True)
    train = config("sure", focal_gamma=0.5).train
    torch.autograd.backward(task.losses(logits, torch.tensor([[0], [2]]), train, None).sum())
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_validation_loss_is_the_plain_one(tmp_path: Path) -> None:
    """Runs that differ in weights, smoothing and focus are compared by it."""
    cohort, members = cohort_of("padded", tmp_path, "plain", "all")
    for parameter in cohort.network.parameters("all"):
        parameter.data.zero_()
    for parameter in cohort.network.parameters("plain"):
        parameter.data.zero_()
    evaluations = cohort.objective.evaluate(cohort.network, "validation", members)
    assert evaluations["plain"].loss == evaluations["all"].loss
    assert evaluations["all"].loss == pytest.approx(0.3 * np.log(3) + 0.7 * 4 * np.log(2))


def test_the_log_says_the_class_weights() -> None:
    objective = Classification(MIXED)
    counts = np.bincount(MIXED.train.labels[:, 0])
    risk, topics = objective.notices(config("x", class_weight="balanced"))
    assert f"high {48 / (3 * counts[2]):.3g} ({counts[2]} rows)" in risk
    assert risk.startswith("class weights of risk: ")
    assert topics.startswith("class weights of topics: sport ")
    low, mid, high = counts
    assert objective.notices(config("x", class_weight={"risk": {"high": 5}})) == [
        f"class weights of risk: low 1 ({low} rows), mid 1 ({mid} rows), high 5 ({high} rows)"
    ]
    assert objective.notices(config("x")) == []
    assert CLASSES["risk"] == 3
