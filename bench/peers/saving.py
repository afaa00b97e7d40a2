"""Checkpoints as people write them today: transformers.Trainer's own, and accelerate's `save_state`."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from peft import LoraConfig, TaskType, get_peft_model
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    set_seed,
)

from bench.assignment import Assignment, Recipe, Workload
from bench.peers import trainer as peer
from bench.saving import Saves
from loratrack.bases.base import quiet, resolve

SAVES = 8
ORDINARY = range(0x30, 0x40)
"""What the highest byte of a number in fp32 is, without its sign, from 5e-10 to 2."""
REFUSALS = (OSError, ValueError, RuntimeError, KeyError, SafetensorError)


class TimedTrainer(Trainer):  # type: ignore[misc]  # mypy does not read transformers
    """The only part that a user would not write: it reads the clock."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.saved_ms: list[float] = []
        self.restored_ms = 0.0

    def _save_checkpoint(self, *arguments: Any, **settings: Any) -> None:
        started = time.perf_counter()
        super()._save_checkpoint(*arguments, **settings)
        self.saved_ms.append(1000 * (time.perf_counter() - started))

    def _load_from_checkpoint(self, *arguments: Any, **settings: Any) -> None:
        started = time.perf_counter()
        super()._load_from_checkpoint(*arguments, **settings)
        self.restored_ms += 1000 * (time.perf_counter() - started)

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        started = time.perf_counter()
        super()._load_optimizer_and_scheduler(checkpoint)
        self.restored_ms += 1000 * (time.perf_counter() - started)


class Peers:
    """The same adapter and the same rows for both."""

    def __init__(self, workload: Workload, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self.base = resolve(workload.base).folder
        assignment = Assignment(
            workload=workload, recipes=(recipe,), variant="dynamic", warm_up_steps=0, steps=None
        )
        [column] = workload.columns.values()
        texts = pd.read_csv(workload.train, dtype=str, keep_default_na=False)
        self.labels = sorted(set(texts[column]))
        self.texts = peer.Texts(workload.train, assignment, {"label": self.labels})
        self.texts.labels = [row[0] for row in self.texts.labels]  # type: ignore[misc]

    def model(self) -> nn.Module:
        set_seed(self.recipe.seed)
        with quiet():
            model = AutoModelForSequenceClassification.from_pretrained(self.base, num_labels=len(self.labels))
        lora = LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=self.recipe.rank,
            lora_alpha=self.recipe.alpha,
            lora_dropout=self.recipe.dropout,
            target_modules=["query", "value"],
        )
        peft: nn.Module = get_peft_model(model, lora)
        return peft

    def trainer(self, folder: Path, steps: int, save_steps: int) -> TimedTrainer:
        arguments = peer.arguments(self.recipe, "dynamic", str(folder))
        arguments.max_steps, arguments.save_strategy = steps, "steps"
        arguments.save_steps, arguments.save_total_limit = save_steps, 2
        return TimedTrainer(
            model=self.model(),
            args=arguments,
            train_dataset=self.texts,
            data_collator=DataCollatorWithPadding(AutoTokenizer.from_pretrained(self.base)),
        )

    def trainer_saves(self) -> Saves:
        folder = self.folder / "trainer"
        trainer = self.trainer(folder, SAVES + 1, 1)
        trainer.train()
        again = self.trainer(folder, SAVES + 1, SAVES + 1)
        again.train(resume_from_checkpoint=str(folder / f"checkpoint-{SAVES}"))
        first, *others = trainer.saved_ms
        saves = Saves(
            first_ms=first,
            loop_ms=statistics.median(others),
            whole_ms=statistics.median(others),
            back_ms=again.restored_ms,
            trained=num_trained(trainer.model),
            files=sizes(folder / f"checkpoint-{SAVES}"),
        )
        shutil.rmtree(folder)
        return saves

    def trainer_damages(self) -> dict[str, str]:
        """What comes of going on from a damaged checkpoint, by the weights at the end."""
        folder = self.folder / "damaged"
        whole = self.trainer(folder, 4, 2)
        whole.train()
        checkpoint = folder / "checkpoint-2"

        def go_on() -> str:
            trainer = self.trainer(folder / "again", 4, 4)
            trainer.train(resume_from_checkpoint=str(checkpoint))
            return "the same weights" if is_same(trainer.model, whole.model) else "other weights, and no word"

        outcomes = damage_each(checkpoint, ("adapter_model.safetensors", "optimizer.pt"), go_on)
        shutil.rmtree(folder)
        return outcomes

    def accelerate_saves(self) -> Saves:
        accelerator, model, _ = self._accelerated()
        saved_ms = []
        for _ in range(SAVES + 1):
            shutil.rmtree(self.folder / "accelerate", ignore_errors=True)
            started = time.perf_counter()
            accelerator.save_state(str(self.folder / "accelerate"))
            saved_ms.append(1000 * (time.perf_counter() - started))
        started = time.perf_counter()
        accelerator.load_state(str(self.folder / "accelerate"))
        back_ms = 1000 * (time.perf_counter() - started)
        return Saves(
            first_ms=saved_ms[0],
            loop_ms=statistics.median(saved_ms[1:]),
            whole_ms=statistics.median(saved_ms[1:]),
            back_ms=back_ms,
            trained=num_trained(model),
            files=sizes(self.folder / "accelerate"),
        )

    def accelerate_damages(self) -> dict[str, str]:
        """What a damaged state is loaded to, against the numbers that were saved."""
        accelerator, model, optimizer = self._accelerated()
        folder = self.folder / "accelerate"
        accelerator.save_state(str(folder))
        before = [value.clone() for value in numbers(model, optimizer)]

        def go_on() -> str:
            accelerator.load_state(str(folder))
            pairs = zip(before, numbers(model, optimizer), strict=True)
            same = all(torch.equal(one, other) for one, other in pairs)
            return "the same numbers" if same else "other numbers, and no word"

        return damage_each(folder, ("model.safetensors", "optimizer.bin"), go_on)

    def _accelerated(self) -> tuple[Any, nn.Module, torch.optim.Optimizer]:
        """A model and an optimizer after one step."""
        accelerator = Accelerator(cpu=not torch.cuda.is_available())
        model = self.model()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model, optimizer = accelerator.prepare(model, torch.optim.AdamW(trained, lr=self.recipe.lr))
        collate = DataCollatorWithPadding(AutoTokenizer.from_pretrained(self.base))
        batch = collate([self.texts[row] for row in range(self.recipe.batch_size)])
        accelerator.backward(model(**batch.to(accelerator.device)).loss)
        optimizer.step()
        return accelerator, model, optimizer


def damage_each(folder: Path, names: tuple[str, ...], go_on: Callable[[], str]) -> dict[str, str]:
    """What comes of it when nothing is wrong, when a file is missing, and when one bit of it is flipped."""
    outcomes = {"nothing wrong": go_on()}
    for name in names:
        file = folder / name
        content = file.read_bytes()
        file.unlink()
        outcomes[f"no {name}"] = _outcome(go_on)
        file.write_bytes(flipped(content))
        outcomes[f"one bit of {name} flipped"] = _outcome(go_on)
        file.write_bytes(content)
    return outcomes


def flipped(content: bytes) -> bytes:
    """The first number behind the middle that is not tiny is four times as large, or a fourth, by one bit."""
    middle = len(content) // 2 // 4 * 4
    last_bytes = range(middle + 3, len(content), 4)  # of four: they hold the sign and most of the exponent
    place = next(place for place in last_bytes if content[place] & 127 in ORDINARY)
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def is_same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def numbers(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """All weights, and what the optimizer remembers."""
    states = optimizer.state_dict()["state"].values()
    return [*model.state_dict().values(), *(value for state in states for value in state.values())]


def num_trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file below the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _outcome(go_on: Callable[[], str]) -> str:
    try:
        return go_on()
    except REFUSALS as error:
        return f"refused: {type(error).__name__}"
