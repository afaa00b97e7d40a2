"""The samplers and pruners that a sweep can name."""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, NSGAIISampler, RandomSampler, TPESampler

from loratrack.config.sweep import SweepConfig
from loratrack.tuning import objectives, space
from loratrack.tuning.checks import most_epochs
from loratrack.tuning.spread import SpreadSampler

MAX_FIRST_TRIALS = 10
MIN_FIRST_TRIALS = 4
MAX_POPULATION = 50
REDUCTION_FACTOR = 3
"""A third of the trials passes each rung of hyperband."""
MEDIAN_STARTUP_TRIALS = 4


def sampler(config: SweepConfig, number: int) -> BaseSampler:
    """The sampler for the trial with this number: its draws are its own, whichever process asks."""
    sweep = config.sweep
    # One sampler with one seed for all trials would draw differently after a continuation.
    seed = (sweep.seed * 1_000_003 + number) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match sweep.sampler:
            case "tpe" if number < first_trials(config):
                return SpreadSampler(space.parameters(config), sweep.seed, number)
            case "tpe":  # constant_liar: running trials count as bad, so none is proposed twice
                return TPESampler(
                    multivariate=True, group=True, constant_liar=True, seed=seed, n_startup_trials=1
                )
            case "random" | "grid":
                return RandomSampler(seed=seed)
            case "nsga2":
                size = max(4, min(MAX_POPULATION, (sweep.trials or MAX_POPULATION) // 4))
                return NSGAIISampler(population_size=size, seed=seed)
            case "cmaes":
                return CmaEsSampler(seed=seed, warn_independent_sampling=False)


def first_trials(config: SweepConfig) -> int:
    """How many trials are spread over the space before the results of others have a say: half of few."""
    trials = config.sweep.trials
    return MAX_FIRST_TRIALS if trials is None else min(MAX_FIRST_TRIALS, max(MIN_FIRST_TRIALS, trials // 2))


def max_parallel(config: SweepConfig) -> int | None:
    """How many trials `parallel: auto` trains at once: whoever learns from results leaves half for them."""
    trials = config.sweep.trials
    learns = config.sweep.sampler not in ("random", "grid")
    return max(1, trials // 2) if learns and trials is not None else None


def pruner(config: SweepConfig) -> BasePruner:
    epochs, first = most_epochs(config), config.sweep.min_epochs
    match objectives.pruner_name(config.sweep):
        case "hyperband":
            return HyperbandPruner(
                min_resource=min(first, epochs), max_resource=epochs, reduction_factor=REDUCTION_FACTOR
            )
        case "asha":
            return SuccessiveHalvingPruner(min_resource=first, reduction_factor=REDUCTION_FACTOR)
        case "median":
            return MedianPruner(n_startup_trials=MEDIAN_STARTUP_TRIALS, n_warmup_steps=first - 1)
        case _:
            return NopPruner()
