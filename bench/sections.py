"""What is measured: the contenders of each section, who is compared with whom, and what is aimed at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import workloads
from bench.assignment import Assignment, Gate, Recipe, Workload
from bench.report import Pair

NAMES = ("short", "labels", "uniform", "long", "cohort", "metrics")
"""In the order in which they run and stand on the page."""
OURS, TRAINER = "bench.ours", "bench.peers.trainer"
COHORT = tuple(
    Recipe(seed=seed, lr=lr, rank=rank)
    for seed, (rank, lr) in enumerate(((r, lr) for r in (8, 16) for lr in (5e-4, 1e-3, 2e-3, 4e-3)), start=42)
)
"""Eight trainings as somebody would try them: four rates, two ranks, a seed for each."""


GPU_FACTOR = 10
"""Steps on a GPU are that many times as many: they are short, and the first ones build and run."""


@dataclass(frozen=True)
class Contender:
    title: str
    module: str
    variant: str
    steps: int | None
    """Measured steps of each training; None: whole trainings."""
    recipes: tuple[Recipe, ...] = (Recipe(),)
    together: bool = False
    at_once: bool = False
    """One process for each recipe, all at the same time."""
    warm_up_steps: int = 5
    workload: Workload | None = None
    """Where it is another than the section's."""

    def assignments(
        self, workload: Workload, base: str, round_number: int, gate_folder: Path
    ) -> list[Assignment]:
        """Every round has seeds of its own, the same for all contenders."""
        recipes = [each.model_copy(update={"seed": each.seed + round_number}) for each in self.recipes]
        groups = [[each] for each in recipes] if self.at_once else [recipes]
        gate = Gate(folder=str(gate_folder), parties=len(recipes)) if self.at_once else None
        factor = GPU_FACTOR if torch.cuda.is_available() else 1
        return [
            Assignment(
                workload=(self.workload or workload).model_copy(update={"base": base}),
                recipes=tuple(group),
                variant=self.variant,
                together=self.together,
                warm_up_steps=factor * self.warm_up_steps,
                steps=None if self.steps is None else factor * self.steps,
                gate=gate,
            )
            for group in groups
        ]


@dataclass(frozen=True)
class Section:
    name: str
    title: str
    note: str
    workload: Workload
    contenders: dict[str, Contender]
    pairs: tuple[Pair, ...]
    round_seconds: float
    """About how long one round takes on 2 quiet cores."""


def section_named(name: str, folder: Path) -> Section | None:
    """One of NAMES; None where its data is not at hand. Files made for it lie in `folder`."""
    match name:
        case "short":
            return short()
        case "labels":
            return labels()
        case "uniform":
            return uniform(workloads.uniform(folder))
        case "long":
            shopping = workloads.shopping()
            return None if shopping is None else long(shopping)
        case "cohort":
            return cohort()
        case "metrics":
            return metrics()
    raise ValueError(f"no section {name!r}")


def short() -> Section:
    return Section(
        "short",
        "Short texts: CLINC150, domain and intent",
        "11 tokens a text on average. *grouped* is measured over 50 steps, since it sorts texts by length"
        " within each 50 batches.",
        workloads.clinc(),
        {
            "ours": Contender("ours", OURS, "auto", steps=100),
            "padded": Contender("padded", TRAINER, "padded", steps=3, warm_up_steps=1),
            "dynamic": Contender("dynamic", TRAINER, "dynamic", steps=25),
            "grouped": Contender("grouped", TRAINER, "grouped", steps=50),
            "cohort": Contender("ours, cohort of 8", OURS, "auto", 20, COHORT, together=True),
        },
        (
            *_against(("padded",), None),
            *_against(("dynamic",), 3),
            *_against(("grouped",), 2),
            Pair(of="cohort", against="ours", aim=1.9),
        ),
        round_seconds=70,
    )


def long(workload: Workload) -> Section:
    return Section(
        "long",
        "Longer texts: online_shopping_10_cats, category and sentiment",
        "Chinese reviews, 45 tokens on average, cut at 128; the base's vocabulary splits them into"
        " characters.",
        workload,
        {
            "ours": Contender("ours", OURS, "auto", steps=20),
            "padded": Contender("padded", TRAINER, "padded", steps=3, warm_up_steps=1),
            "dynamic": Contender("dynamic", TRAINER, "dynamic", steps=8, warm_up_steps=2),
            "grouped": Contender("grouped", TRAINER, "grouped", steps=50, warm_up_steps=2),
            "cohort": Contender("ours, cohort of 8", OURS, "auto", 4, COHORT, together=True, warm_up_steps=2),
        },
        (*_against(("padded", "dynamic", "grouped"), None), Pair(of="cohort", against="ours")),
        round_seconds=85,
    )


def uniform(workload: Workload) -> Section:
    return Section(
        "uniform",
        "The trap: texts of one length",
        "The requests of CLINC150 with exactly 10 tokens. There is no padding to save, so nothing may be"
        " lost: *ours, plain batches* is our own engine told to batch as everybody does.",
        workload,
        {
            "ours": Contender("ours", OURS, "auto", steps=50),
            "plain": Contender("ours, plain batches", OURS, "padded", steps=50),
            "dynamic": Contender("dynamic", TRAINER, "dynamic", steps=20),
            "grouped": Contender("grouped", TRAINER, "grouped", steps=40),
        },
        (*_against(("plain",), 1), *_against(("dynamic", "grouped"), None)),
        round_seconds=55,
    )


def cohort() -> Section:
    """The same eight trainings in four ways, each in one process but for the last."""
    after, at_once = "one after the other", "8 processes at once"
    return Section(
        "cohort",
        "Eight trainings: one cohort, one after the other, all at once",
        "CLINC150; four rates, two ranks, a seed for each. Examples count once for each training. At once,"
        " each process gets its share of the cores, all start together, and their rates and peaks are added."
        " The aim for the cohort's share of the matrix rate is 70 %.",
        workloads.clinc(),
        {
            "cohort": Contender("ours, cohort of 8", OURS, "auto", 20, COHORT, together=True),
            "ours": Contender(f"ours, {after}", OURS, "auto", 20, COHORT),
            "dynamic": Contender(f"dynamic, {after}", TRAINER, "dynamic", 8, COHORT, warm_up_steps=2),
            "at_once": Contender(
                f"dynamic, {at_once}", TRAINER, "dynamic", 8, COHORT, at_once=True, warm_up_steps=2
            ),
        },
        (
            Pair(of="cohort", against="ours", aim=1.9),
            Pair(of="cohort", against="dynamic", aim=4.5),
            Pair(of="cohort", against="at_once"),
            Pair(of="cohort", against="at_once", measure="memory"),
        ),
        round_seconds=150,
    )


def labels() -> Section:
    """The promise: a second label costs at most 5 % more time and memory."""
    single = workloads.clinc({"label": "label_intent"})
    return Section(
        "labels",
        "Two labels against one",
        "CLINC150, the same rows: domain and intent against intent alone.",
        workloads.clinc(),
        {
            "dual": Contender("two labels", OURS, "packed", steps=100),
            "single": Contender("one label", OURS, "packed", steps=100, workload=single),
        },
        (
            Pair(of="dual", against="single", measure="time", aim=1.05),
            Pair(of="dual", against="single", measure="memory", aim=1.05),
        ),
        round_seconds=28,
    )


def metrics() -> Section:
    return Section(
        "metrics",
        "Whole trainings: is anything lost?",
        "CLINC150, 2 epochs, the last epoch's weights, test set of 4,500; each round another seed. The aim is"
        " a mean gap of at least −0.3 points.",
        workloads.clinc(),
        {
            "ours": Contender("ours", OURS, "auto", None, (Recipe(epochs=2),)),
            "fp32": Contender("ours in fp32", OURS, "auto", None, (Recipe(epochs=2, precision="fp32"),)),
            "dynamic": Contender("dynamic", TRAINER, "dynamic", None, (Recipe(epochs=2),)),
        },
        (*_against(("dynamic",), 3), *_against(("fp32",), None)),
        round_seconds=440,
    )


def _against(others: Sequence[str], aim: float | None) -> tuple[Pair, ...]:
    return tuple(Pair(of="ours", against=other, aim=aim) for other in others)
