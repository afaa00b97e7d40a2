"""The first trials of a sweep, where nothing is known yet: points spread evenly over the whole space.

Independent draws leave holes and repeat themselves: of five ranks, eight draws often miss one. The points of
a Sobol sequence fill each axis as evenly as their number allows, however many are drawn. Whichever process
asks, a trial's point follows from the seed and its number alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from scipy.stats import qmc


class SpreadSampler(BaseSampler):
    """Gives one trial its point: a number from 0 to 1 for each parameter, by its name."""

    def __init__(self, names: Sequence[str], seed: int, number: int) -> None:
        sequence = qmc.Sobol(len(names), scramble=True, rng=seed)
        if number:
            sequence.fast_forward(number)
        [point] = sequence.random(1)
        self._point = {name: float(share) for name, share in zip(names, point, strict=True)}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return value_at(param_distribution, self._point[param_name])


def value_at(distribution: BaseDistribution, share: float) -> Any:
    """What lies at this share of the way from the low end to the high one, or among the choices."""
    match distribution:
        case CategoricalDistribution():
            return distribution.choices[int(share * len(distribution.choices))]
        case IntDistribution():
            return distribution.low + int(share * (distribution.high - distribution.low + 1))
        case FloatDistribution(log=True):
            low, high = math.log(distribution.low), math.log(distribution.high)
            return min(distribution.high, max(distribution.low, math.exp(low + share * (high - low))))
        case FloatDistribution():
            return distribution.low + share * (distribution.high - distribution.low)
    raise AssertionError(f"a space has no {distribution}")
