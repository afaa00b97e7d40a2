"""A tiny base with random weights, and data whose labels can be learned from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    EsmConfig,
    EsmModel,
    OPTConfig,
    OPTModel,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
    XLMConfig,
    XLMModel,
)

from loratrack.config import RunConfig
from loratrack.data import Dataset, Encoded, LabelMap, TaskLabels
from loratrack.model.network import Network
from loratrack.training.cohort import Cohort
from loratrack.training.log import ListLog
from loratrack.training.member import Member
from loratrack.training.objectives.classification import Classification

TASKS = (
    TaskLabels("risk", ("low", "mid", "high"), (0, 1, 2)),
    TaskLabels("taken", ("yes", "no"), (3, 4)),
)
VOCABULARY = 60


SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2, "max_position_embeddings": 64}
T5_SIZES = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
BASES: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertModel(
        BertConfig(**SIZES, intermediate_size=24, initializer_range=0.2), add_pooling_layer=False
    ),
    "opt": lambda: OPTModel(OPTConfig(**SIZES, ffn_dim=24, word_embed_proj_dim=16, init_std=0.2)),
    "t5": lambda: T5EncoderModel(T5Config(vocab_size=VOCABULARY, **T5_SIZES)),
    "xlm": lambda: XLMModel(XLMConfig(vocab_size=VOCABULARY, emb_dim=16, n_layers=2, n_heads=2)),
    "esm": lambda: EsmModel(
        EsmConfig(**SIZES, intermediate_size=24, pad_token_id=1, mask_token_id=2), add_pooling_layer=False
    ),
}
"""Architectures that drop in several ways: by modules, by functions, inside attention."""


def encoded(rows: int, seed: int) -> Encoded:
    """Each risk has words of its own, and each row says twice whether it was taken."""
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.integers(0, 3, rows), rng.integers(0, 2, rows)], axis=1).astype(np.int64)
    lengths = rng.integers(5, 14, size=rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = rng.integers(5, 20, size=lengths.sum()).astype(np.int32)
    tokens += 15 * np.repeat(labels[:, 0], lengths).astype(np.int32)
    for position in (0, 1):
        tokens[offsets[:-1] + position] = 55 + labels[:, 1]
    return Encoded(tokens, offsets, None, labels)


DATASET = Dataset(encoded(48, 0), encoded(24, 1), encoded(16, 2), LabelMap(TASKS), {}, "0" * 64)
CLASSES = {task.name: len(task.labels) for task in TASKS}


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return DATASET


@pytest.fixture(scope="session")
def config_of() -> Callable[..., RunConfig]:
    """`config_of("name", {"lr": 1e-3}, lora={"rank": 4})`: a config of two tasks on the tiny data."""

    def make(name: str = "tiny", train: dict[str, Any] | None = None, **model: Any) -> RunConfig:
        labels = {task.name: list(task.labels) for task in TASKS}
        rates = {"batch_size": 8, "lr": 5e-3, "epochs": 2, "log_steps": 2}
        settings = {
            "exp_id": name,
            "task_type": "double_cls",
            "data": {"raw_data_path": "rows.csv", "label_subset": labels},
            "model": model,
            "train": rates | (train or {}),
        }
        return RunConfig.model_validate(settings)

    return make


@pytest.fixture(scope="session")
def new_cohort() -> Callable[..., Cohort]:
    """A cohort without members on a base that is always the same; its notices go to the list."""

    def make(
        notices: list[str],
        base: str = "bert",
        *,
        use_lora: bool = True,
        dtype: torch.dtype = torch.float32,
        dataset: Dataset = DATASET,
    ) -> Cohort:
        torch.manual_seed(0)
        network = Network(BASES[base](), "mean", torch.device("cpu"), use_lora=use_lora, dtype=dtype)
        return Cohort(network, Classification(dataset), notices.append)

    return make


@pytest.fixture(scope="session")
def seat() -> Callable[[Cohort, RunConfig, Path], Member]:
    """A new member of the cohort, named after its config."""

    def make(cohort: Cohort, config: RunConfig, folder: Path) -> Member:
        name = f"member-{config.exp_id}"
        cohort.objective.add_member(cohort.network, name, config)
        rows = len(cohort.objective.dataset.train.offsets) - 1
        member = Member(name, config, cohort.network, rows, ListLog(), folder / name / "best")
        cohort.join(member)
        return member

    return make
