"""A run from its config to its files: data checked, base found, tokens ready, network built, results written.

prepared = set_up(config, log.notice)              # every fault of the data before any network is loaded
member = enter(prepared, config, log, folder)
train(prepared.cohort, watcher)
outcome = conclude(prepared, member)               # best weights back, test scored once
write(prepared, member, outcome, folder)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from loratrack import data
from loratrack.bases import base as bases
from loratrack.bases.base import Base
from loratrack.bases.precision import precision_name
from loratrack.bases.trust import Trust
from loratrack.config import RunConfig
from loratrack.config.train import Train
from loratrack.data import Corpus, Dataset, Encoded
from loratrack.disk import write_json
from loratrack.errors import UserError
from loratrack.model import bundle
from loratrack.model.network import Network
from loratrack.model.out_of_memory import halving
from loratrack.model.passes import check_tokens
from loratrack.model.probe import Probe
from loratrack.places import METRICS
from loratrack.training.checkpoint import Saved, restore
from loratrack.training.cohort import Cohort
from loratrack.training.layout import (
    check_that_nothing_drops,
    choose_layout,
    fault_of_packing,
    step_seconds,
)
from loratrack.training.log import RunLog
from loratrack.training.member import Member
from loratrack.training.memory import TOO_LARGE
from loratrack.training.objectives.classification import Classification
from loratrack.training.objectives.objective import Answers
from loratrack.training.rate import auto_rate, chosen_rate
from loratrack.training.threads import choose_threads
from loratrack.training.yardstick import yardstick


@dataclass(frozen=True)
class Prepared:
    """What the members of a cohort share."""

    base: Base
    dataset: Dataset
    network: Network
    cohort: Cohort
    files_sha256: dict[str, str]
    """The data files, by the setting that names them."""
    yardstick: Mapping[str, float]
    """Scores that every member must beat, by their names in MLflow."""
    entered: set[str] = field(default_factory=set)
    """The names of all members that ever were."""


@dataclass(frozen=True)
class Outcome:
    """What a member came to, with its best weights in place."""

    test: dict[str, float]
    answers: dict[str, Answers]
    """Of each task, on the test set where there is one, else on the validation set."""
    probe: Probe
    """What the saved model must give when it is loaded."""
    thresholds: Mapping[str, float]
    """Of its multi-label tasks, tuned on the validation set."""


def set_up(
    config: RunConfig,
    notice: Callable[[str], None],
    trust: Trust | None = None,
    corpus: Corpus | None = None,
) -> Prepared:
    """`trust` in the code of bases; None: as the config says, which whoever trains has written.

    `corpus`: what the data files hold, where they were read before.
    """
    corpus = data.read(config) if corpus is None else corpus
    base = bases.resolve(config.model.arch, trust=config.model.trust_remote_code if trust is None else trust)
    if base.origin_note:
        notice(f"base {base.name}: {base.origin_note}")
    if base.runs_code:
        notice(f"running code that comes with the base {base.name} (model.trust_remote_code is on)")
    tokenizer = bases.load_tokenizer(base)
    network = bundle.build_network(base, config)
    if network.max_tokens is not None and config.data.max_len > network.max_tokens:
        raise UserError(
            f"data.max_len: must be at most {network.max_tokens}, the positions of the base {base.name}, got"
            f" {config.data.max_len}"
        )
    dataset = data.encode(corpus, config, tokenizer, bases.tokenizer_facts(base), notice)
    for part in (dataset.train, dataset.validation, dataset.test):
        if part is not None:
            check_tokens(part, network)
    objective = Classification(dataset)
    cohort = Cohort(network, objective, notice)
    scores = yardstick(corpus.only(dataset.kept), objective, notice, with_baseline=config.baseline)
    return Prepared(base, dataset, network, cohort, corpus.files_sha256, scores)


def enter(
    prepared: Prepared,
    config: RunConfig,
    log: RunLog,
    folder: Path,
    name: str = bundle.MEMBER,
    saved: Saved | None = None,
) -> Member:
    """A new member of the cohort, with weights drawn from its own seed, or where it was when it was `saved`.

    `config`: of one that was saved its own.
    """
    network, split = prepared.network, prepared.dataset.train
    prepared.cohort.objective.add_member(network, name, config)
    for text in prepared.cohort.objective.notices(config):
        log.notice(text)

    if not prepared.entered:
        if saved is not None:
            torch.set_num_threads(min(saved.state.threads, os.cpu_count() or 1))
        _settle(network, split, name, config.train, log.notice, measure_threads=saved is None)
    if config.train.threads is None and network.device.type == "cpu":
        prepared.cohort.choose_threads = lambda: _choose_threads_again(prepared)
    rate, note = chosen_rate(config.train, rate_to_try(network, config.train), use_lora=network.use_lora)
    if note is not None:
        log.notice(note)
    # What was measured or chosen takes the place of `auto`: the frozen copy gives the same run again.
    choices = {"layout": network.layout, "precision": precision_name(network.dtype), "lr": rate}
    config = config.model_copy(update={"train": config.train.model_copy(update=choices)})

    prepared.entered.add(name)
    if name in network.coverage:
        log.notice(f"LoRA on {network.coverage[name].describe()}")
    trainable, total = network.parameter_counts(name)
    log.notice(f"trainable parameters: {trainable:,} of {total:,} ({100 * trainable / total:.2f} %)")
    torch.manual_seed(config.train.seed)  # a base that is trained whole draws its dropout from torch
    member = Member(name, config, network, len(split), log, folder / "best")
    prepared.cohort.join(member)
    if saved is not None:
        restore(saved, member, prepared.cohort)
    return member


def rate_to_try(network: Network, train: Train) -> float:
    """What `train.lr: auto` is for this network and optimizer."""
    width, is_causal = network.config.hidden_size, network.is_causal
    return auto_rate(width, train.optimizer, use_lora=network.use_lora, is_causal=is_causal)


def _settle(
    network: Network,
    split: Encoded,
    member: str,
    train: Train,
    notice: Callable[[str], None],
    *,
    measure_threads: bool,
) -> None:
    """Checkpointing, layout and threads, decided once for the base; and that it drops nothing."""
    size = min(train.batch_size, train.micro_batch_size or train.batch_size, len(split))
    if train.gradient_checkpointing:
        network.checkpoint_gradients()
    if train.layout != "padded" and "packed" in network.layouts:
        fault, size = halving(size, lambda count: fault_of_packing(network, split, member, count))
        if fault and train.layout == "packed":
            raise UserError(f"train.layout: must not be packed, since {fault}; write padded or auto")
        if fault:
            notice(f"layout: padded, since {fault}")
            network.layout = "padded"
            network.layouts = ("padded",)
    network.layout = network.layouts[0] if train.layout == "auto" else train.layout
    if measure_threads and train.threads is None and network.device.type == "cpu":
        layout = network.layout

        def choose(count: int) -> None:
            rows = np.arange(count)
            choose_threads(lambda: step_seconds(network, split, member, layout, rows), notice)

        _, size = halving(size, choose, TOO_LARGE)
    if train.layout == "auto":
        network.layout, _ = halving(
            size, lambda count: choose_layout(network, split, member, count, notice), TOO_LARGE
        )
    if network.use_lora:
        check_that_nothing_drops(network, split, member)


def _choose_threads_again(prepared: Prepared) -> None:
    """Between two steps, on a batch of one of those who train now."""
    network, split, cohort = prepared.network, prepared.dataset.train, prepared.cohort
    member = cohort.training[0]
    limits = (member.config.train.micro_batch_size, cohort.memory.micro_batch_limits.get(member.name))
    size = min(len(split), member.config.train.batch_size, *(limit for limit in limits if limit is not None))
    rows = np.arange(size)
    with torch.random.fork_rng(devices=[]):  # a base that is trained whole draws its dropout from torch
        choose_threads(lambda: step_seconds(network, split, member.name, network.layout, rows), cohort.notice)


def conclude(prepared: Prepared, member: Member) -> Outcome:
    """Put the best epoch's weights back and score the test set once."""
    member.restore_best()
    network, objective = prepared.network, prepared.cohort.objective
    has_test = objective.dataset.test is not None
    evaluation = None if has_test else prepared.cohort.best_evaluations.get(member.name)
    if evaluation is None:
        evaluation = objective.evaluate(network, "test" if has_test else "validation", [member])[member.name]
    scores = evaluation.scores() if has_test else {}
    return Outcome(
        test={f"test_{metric}": value for metric, value in scores.items()},
        answers=evaluation.answers(),
        probe=objective.probe(network, member.name),
        thresholds=evaluation.thresholds,
    )


def summary(member: Member, outcome: Outcome | None) -> dict[str, float]:
    """The metrics that are logged once, at the end."""
    if member.best is None:
        return {}
    best = member.best
    values = {f"best_{metric}": best.values[metric] for metric in member.config.metric_names}
    place: dict[str, float] = {"best_epoch": best.epoch}
    if member.config.train.eval_steps is not None:
        place["best_step"] = best.step
    return {**values, **place, **(outcome.test if outcome else {})}


def write(
    prepared: Prepared, member: Member, outcome: Outcome | None, folder: Path, *, with_weights: bool = True
) -> None:
    """The run's own files: its bundle and its metrics."""
    if member.best is not None and with_weights:
        bundle.save(
            folder,
            member.folder,
            prepared.network,
            prepared.base,
            member.config,
            prepared.cohort.objective.label_map,
            outcome.probe if outcome else None,
            outcome.thresholds if outcome else {},
        )
    write_json(folder / METRICS, metrics_by_epoch(member, outcome))


def metrics_by_epoch(member: Member, outcome: Outcome | None) -> dict[str, dict[str, float]]:
    """`epoch_1`, `epoch_2` …, `best` and, with a test set, `test`."""
    content = {f"epoch_{number}": values for number, values in enumerate(member.history, start=1)}
    if member.best is not None:
        content["best"] = {"epoch": member.best.epoch, "step": member.best.step, **member.best.values}
    if outcome is not None and outcome.test:
        content["test"] = outcome.test
    return content
