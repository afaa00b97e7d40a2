"""Optuna over transformers.Trainer and PEFT: python -m bench.peers.optuna_script SEARCH.

What a user writes today: ask, train with dynamic padding, evaluate after each epoch, tell.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import numpy as np
import optuna
import pandas as pd
from sklearn.metrics import f1_score
from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainerCallback, set_seed

from bench.assignment import Assignment, Frozen, Recipe, Workload
from bench.peers import trainer as peer
from loratrack.bases.base import resolve


class Search(Frozen):
    """What is searched, and where it is kept."""

    workload: Workload
    recipes: tuple[Recipe, ...]
    """The proposed trials, in order."""
    storage: str
    study: str
    prune: bool


class Report(TrainerCallback):  # type: ignore[misc]  # mypy does not read transformers
    """After each epoch: the scores, and whether the pruner still believes in the trial."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial, self.best, self.is_pruned = trial, 0.0, False

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        self.best = max(self.best, metrics["eval_avg_f1"])
        self.trial.report(metrics["eval_avg_f1"], step=round(state.epoch))
        if self.trial.should_prune():
            self.is_pruned = True
            control.should_training_stop = True


def objective(
    search: Search, trial: optuna.Trial, labels: dict[str, list[str]], texts: list[peer.Texts]
) -> float:
    recipe = search.recipes[trial.number]
    set_seed(recipe.seed)
    base = resolve(search.workload.base).folder
    model = peer.Classifier(base, recipe, {task: len(names) for task, names in labels.items()})
    report = Report(trial)
    with tempfile.TemporaryDirectory() as folder:
        arguments = peer.arguments(recipe, "dynamic", folder)
        arguments.eval_strategy = "epoch"
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=texts[0],
            eval_dataset=texts[1],
            data_collator=DataCollatorWithPadding(AutoTokenizer.from_pretrained(base)),
            compute_metrics=scores,
            callbacks=[report],
        )
        trainer.train()
    if report.is_pruned:
        raise optuna.TrialPruned
    return report.best


def scores(answers: Any) -> dict[str, float]:
    each = [
        f1_score(answers.label_ids[:, task], np.argmax(logits, axis=-1), average="macro")
        for task, logits in enumerate(answers.predictions)
    ]
    return {"avg_f1": float(np.mean(each))}


def main() -> None:
    search = Search.model_validate_json(sys.argv[1])
    workload = search.workload
    files = (workload.train, workload.validation)
    rows = pd.concat([pd.read_csv(file, dtype=str, keep_default_na=False) for file in files])
    labels = {task: sorted(set(rows[column])) for task, column in workload.columns.items()}
    plain = Assignment(
        workload=workload, recipes=search.recipes, variant="dynamic", warm_up_steps=0, steps=None
    )
    texts = [peer.Texts(file, plain, labels) for file in files]
    asha = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    study = optuna.create_study(
        storage=search.storage,
        study_name=search.study,
        direction="maximize",
        pruner=asha if search.prune else optuna.pruners.NopPruner(),
    )
    study.optimize(lambda trial: objective(search, trial, labels, texts), n_trials=len(search.recipes))


if __name__ == "__main__":
    main()
