"""transformers.Trainer and PEFT, one process: python -m bench.peers.trainer ASSIGNMENT.

What a user writes today for several labels on one encoder, in three variants:
  padded   every text padded to max_len, fp32
  dynamic  every batch padded to its longest text, fp32
  grouped  the same, in bf16, with texts of similar length in one batch
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from peft import LoraConfig, TaskType, get_peft_model
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from bench import machine
from bench.assignment import Answer, Assignment, Recipe, total
from bench.clock import Clock, wait_for_all
from loratrack.bases.base import resolve

FASTER = {"bf16": True, "train_sampling_strategy": "group_by_length"}


class Classifier(nn.Module):
    """One encoder with LoRA, and a linear head for each task on the mean of its states."""

    def __init__(self, base: Path, recipe: Recipe, classes: dict[str, int]) -> None:
        super().__init__()
        lora = LoraConfig(
            task_type=TaskType.FEATURE_EXTRACTION,
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=["query", "value"],
        )
        encoder = AutoModel.from_pretrained(base)
        self.encoder = get_peft_model(encoder, lora)
        size = encoder.config.hidden_size
        self.heads = nn.ModuleList([nn.Linear(size, count) for count in classes.values()])

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, labels: Tensor
    ) -> dict[str, Any]:
        states = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state
        mask = attention_mask.unsqueeze(-1)
        pooled = (states * mask).sum(dim=1) / mask.sum(dim=1)
        logits = [head(pooled) for head in self.heads]
        losses = [F.cross_entropy(part, labels[:, task]) for task, part in enumerate(logits)]
        return {"loss": sum(losses) / len(losses), "logits": tuple(logits)}


class Texts(torch.utils.data.Dataset[dict[str, Any]]):
    def __init__(self, file: str, assignment: Assignment, labels: dict[str, list[str]]) -> None:
        rows = pd.read_csv(file, dtype=str, keep_default_na=False)
        base = resolve(assignment.workload.base).folder
        self.tokens = AutoTokenizer.from_pretrained(base)(
            list(rows["text"]),
            truncation=True,
            max_length=assignment.workload.max_len,
            padding="max_length" if assignment.variant == "padded" else False,
        )
        columns = assignment.workload.columns
        ids = {task: {label: number for number, label in enumerate(names)} for task, names in labels.items()}
        self.labels = [
            [ids[task][label] for task, label in zip(columns, row, strict=True)]
            for row in rows[list(columns.values())].itertuples(index=False)
        ]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {**{name: values[row] for name, values in self.tokens.items()}, "labels": self.labels[row]}


class Timing(TrainerCallback):  # type: ignore[misc]
    """The only part that a user would not write: it counts real tokens and reads the clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.last: tuple[int, Tensor] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        model.register_forward_pre_hook(self._note, with_kwargs=True)

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.clock.resume()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.last is not None, "a step has a forward pass"
        self.clock.step(*self.last)
        control.should_training_stop |= self.clock.is_over

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.clock.pause()

    def _note(self, model: nn.Module, positional: Any, inputs: dict[str, Any]) -> None:
        mask = inputs["attention_mask"]
        self.last = len(mask), mask.sum()


def measure(assignment: Assignment, recipe: Recipe, labels: dict[str, list[str]], texts: Texts) -> Answer:
    set_seed(recipe.seed)
    base = resolve(assignment.workload.base).folder
    model = Classifier(base, recipe, {task: len(names) for task, names in labels.items()})
    clock = Clock(
        assignment.warm_up_steps,
        assignment.steps,
        at_start=lambda: wait_for_all(assignment.gate),
        settle=machine.settle,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=arguments(recipe, assignment.variant, folder),
            train_dataset=texts,
            data_collator=DataCollatorWithPadding(AutoTokenizer.from_pretrained(base)),
            callbacks=[Timing(clock)],
        )
        trainer.train()
        metrics = scores(trainer, assignment, labels) if assignment.steps is None else {}
    return Answer(
        seconds=clock.seconds,
        examples=clock.examples,
        tokens=int(clock.tokens),
        memory_bytes=machine.peak_memory_bytes(),
        linear_weights=machine.linear_weights(model.encoder),
        precision="bf16" if assignment.variant == "grouped" else "fp32",
        metrics=(metrics,),
    )


def arguments(recipe: Recipe, variant: str, folder: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        learning_rate=recipe.lr,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=128,
        lr_scheduler_type="linear",
        warmup_steps=recipe.warmup_share,
        weight_decay=recipe.weight_decay,
        seed=recipe.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        **(FASTER if variant == "grouped" else {}),
    )


def scores(trainer: Trainer, assignment: Assignment, labels: dict[str, list[str]]) -> dict[str, float]:
    assert assignment.workload.test is not None, "a whole training has a test set"
    predictions = trainer.predict(Texts(assignment.workload.test, assignment, labels))
    result = {}
    for task, name in enumerate(labels):
        prefix = "" if len(labels) == 1 else f"{name}_"
        truth, predicted = predictions.label_ids[:, task], predictions.predictions[task].argmax(axis=-1)
        result[f"test_{prefix}accuracy"] = float(accuracy_score(truth, predicted))
        result[f"test_{prefix}f1"] = float(f1_score(truth, predicted, average="macro"))
    return result


def main() -> None:
    assignment = Assignment.model_validate_json(sys.argv[1])
    columns = assignment.workload.columns
    rows = pd.read_csv(assignment.workload.train, dtype=str, keep_default_na=False)
    labels = {task: sorted(set(rows[column])) for task, column in columns.items()}
    texts = Texts(assignment.workload.train, assignment, labels)
    answers = [measure(assignment, recipe, labels, texts) for recipe in assignment.recipes]
    print(total(answers).model_dump_json())


if __name__ == "__main__":
    main()
