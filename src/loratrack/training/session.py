"""The way of a run: data checked, base found, tokens ready, network built; and its end, told in files.

prepared = set_up(config, log.notice)              # every fault of the data before any network is loaded
member = enter(prepared, config, log, folder)
train(prepared.cohort, watcher)
outcome = conclude(prepared, member)               # best weights back, test scored once
write(prepared, member, outcome, folder)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loratrack import data
from loratrack.bases import base as bases
from loratrack.bases.base import Base
from loratrack.bases.precision import precision_name
from loratrack.config import RunConfig
from loratrack.data import Dataset, Encoded
from loratrack.model import bundle
from loratrack.model.network import Network
from loratrack.model.passes import predict
from loratrack.model.probe import probe_of
from loratrack.training.cohort import Cohort
from loratrack.training.layout import choose_layout, step_seconds
from loratrack.training.log import RunLog
from loratrack.training.member import Member
from loratrack.training.objectives.evaluation import evaluate
from loratrack.training.objectives.scores import confusions, scores
from loratrack.training.threads import choose_threads

PROBE_ROWS = 32
"""Rows whose logits must come out the same when the saved model is loaded again."""


@dataclass(frozen=True)
class Prepared:
    """What the members of a cohort share."""

    base: Base
    dataset: Dataset
    network: Network
    cohort: Cohort
    files_sha256: dict[str, str]
    """The data files, by the setting that names them."""
    entered: set[str] = field(default_factory=set)
    """The names of all members that ever were."""


@dataclass(frozen=True)
class Outcome:
    """What a member came to, with its best weights in place."""

    test: dict[str, float]
    confusions: dict[str, NDArray[np.int64]]
    """On the test set where there is one, else on the validation set."""
    probe: Encoded
    probe_logits: Tensor


def set_up(config: RunConfig, notice: Callable[[str], None]) -> Prepared:
    corpus = data.read(config)
    base = bases.resolve(config.model.arch, trust_remote_code=config.model.trust_remote_code)
    if config.model.trust_remote_code:
        notice(f"running code that comes with the base {base.name} (model.trust_remote_code is on)")
    tokenizer = bases.load_tokenizer(base, trust_remote_code=config.model.trust_remote_code)
    dataset = data.encode(corpus, config, tokenizer, base.tokenizer_sha256, notice)
    network = bundle.build_network(base, config)
    return Prepared(base, dataset, network, Cohort(network, dataset, notice), corpus.files_sha256)


def enter(
    prepared: Prepared, config: RunConfig, log: RunLog, folder: Path, name: str = bundle.MEMBER
) -> Member:
    """A new member of the cohort, with an adapter and heads drawn from its own seed."""
    network = prepared.network
    classes = {task.name: len(task.labels) for task in prepared.dataset.label_map.tasks}
    network.add(name, config.model.lora, classes, config.train.seed)
    if not prepared.entered:
        _settle_network(prepared, config, log, name)
    config = _settled(config, network)
    prepared.entered.add(name)
    if name in network.coverage:
        log.notice(f"LoRA on {network.coverage[name].describe()}")
    trainable, total = network.parameter_counts(name)
    log.notice(f"trainable parameters: {trainable:,} of {total:,} ({100 * trainable / total:.2f} %)")
    torch.manual_seed(config.train.seed)  # a base that is trained whole drops by torch's own numbers
    member = Member(name, config, network, len(prepared.dataset.train), log, folder / "best")
    prepared.cohort.join(member)
    return member


def conclude(prepared: Prepared, member: Member) -> Outcome:
    """Put the best epoch's weights back and score the test set once."""
    member.restore_best()
    network, dataset = prepared.network, prepared.dataset
    classes = network.heads[member.name].classes
    split = dataset.validation if dataset.test is None else dataset.test
    answer = evaluate(network, split, {member.name: member.loss_weights})[member.name]
    test = {} if dataset.test is None else scores(answer.truth, answer.predicted, classes)
    probe = first_rows(dataset.validation, PROBE_ROWS)
    return Outcome(
        test={f"test_{metric}": value for metric, value in test.items()},
        confusions=confusions(answer.truth, answer.predicted, classes),
        probe=probe,
        probe_logits=predict(network, probe, [member.name])[member.name],
    )


def summary(member: Member, outcome: Outcome | None) -> dict[str, float]:
    """The metrics that are logged once, at the end."""
    if member.best is None:
        return {}
    best = member.history[member.best.epoch - 1]
    values = {f"best_{metric}": best[metric] for metric in member.config.metric_names}
    return {**values, "best_epoch": member.best.epoch, **(outcome.test if outcome else {})}


def write(
    prepared: Prepared, member: Member, outcome: Outcome | None, folder: Path, *, with_weights: bool = True
) -> None:
    """The run's own files: its bundle, its metrics and the report on its data."""
    if member.best is not None and with_weights:
        bundle.save(
            folder,
            member.folder,
            prepared.network,
            prepared.base,
            member.config,
            prepared.dataset.label_map.to_dict(),
            probe_of(outcome.probe, outcome.probe_logits, prepared.network.device) if outcome else None,
        )
    _write_json(folder / "metrics.json", metrics_by_epoch(member, outcome))
    _write_json(folder / "data_report.json", prepared.dataset.report)


def metrics_by_epoch(member: Member, outcome: Outcome | None) -> dict[str, Any]:
    content: dict[str, Any] = {f"epoch_{n}": values for n, values in enumerate(member.history, start=1)}
    if member.best is not None:
        content["best"] = {"epoch": member.best.epoch, **member.history[member.best.epoch - 1]}
    if outcome is not None and outcome.test:
        content["test"] = outcome.test
    return content


def first_rows(split: Encoded, count: int) -> Encoded:
    count = min(count, len(split))
    end = int(split.offsets[count])
    types = None if split.token_types is None else split.token_types[:end]
    return Encoded(split.tokens[:end], split.offsets[: count + 1], types, split.labels[:count])


def _settle_network(prepared: Prepared, config: RunConfig, log: RunLog, name: str) -> None:
    """What is decided once for the base: threads, layout, and whether activations are computed twice."""
    network, train = prepared.network, config.train
    size = min(train.batch_size, train.micro_batch_size or train.batch_size)
    if train.gradient_checkpointing:
        network.checkpoint_gradients()
    if train.threads is None and network.device.type == "cpu":
        rows = np.arange(min(size, len(prepared.dataset.train)))
        layout = network.layout
        choose_threads(lambda: step_seconds(network, prepared.dataset.train, name, layout, rows), log.notice)
    if train.layout == "auto":
        network.layout = choose_layout(network, prepared.dataset.train, name, size, log.notice)
    else:
        network.layout = train.layout


def _settled(config: RunConfig, network: Network) -> RunConfig:
    """What was measured or found here in the place of `auto`: its frozen copy gives the same run again."""
    found = {"layout": network.layout, "precision": precision_name(network.dtype)}
    return config.model_copy(update={"train": config.train.model_copy(update=found)})


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
