"""Values as a person reads them."""

from __future__ import annotations

import math
import sys

import pytest

from loratrack.views.columns import score, text_of


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("avg_f1", 0.93124, "0.9312"),
        ("avg_f1", sys.float_info.max, "inf"),  # what MLflow stores of an infinite value
        ("avg_f1", -sys.float_info.max, "-inf"),
        ("avg_f1", 1e300, "1e+300"),
        ("train/loss", sys.float_info.max, "inf"),
        ("train/loss", 12345.678, "12346"),
    ],
)
def test_a_number_is_short_however_large(name: str, value: float, shown: str) -> None:
    assert text_of(name, value) == shown


def test_a_real_infinity_is_short_too() -> None:
    assert score(math.inf) == "inf"
