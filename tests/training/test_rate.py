"""The rate that `auto` comes to, and what is said of a rate that is too low."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loratrack.config import RunConfig
from loratrack.training.rate import auto_rate, chosen_rate


@pytest.mark.parametrize(
    ("hidden_size", "is_causal", "rate"),
    [
        (128, False, 2e-3),
        (384, False, 2e-3),
        (768, False, 5e-4),
        (1024, False, 2.8e-4),
        (4096, False, 1e-4),
        (768, True, 5e-4),
        (4096, True, 2e-4),
    ],
)
def test_a_wider_base_gets_a_lower_rate(hidden_size: int, is_causal: bool, rate: float) -> None:
    assert auto_rate(hidden_size, "adamw", use_lora=True, is_causal=is_causal) == rate
    assert auto_rate(hidden_size, "adamw", use_lora=False, is_causal=is_causal) == 2e-5


def test_lion_gets_a_third() -> None:
    assert auto_rate(384, "lion", use_lora=True, is_causal=False) == 6.7e-4
    assert auto_rate(384, "lion", use_lora=False, is_causal=False) == 6.7e-6


@pytest.mark.parametrize(
    ("lr", "use_lora", "rate", "note"),
    [
        ("auto", True, 5e-4, "train.lr: auto is 0.0005 for LoRA on this base"),
        ("auto", False, 5e-4, "train.lr: auto is 0.0005 for this base"),
        (
            2e-5,
            True,
            2e-5,
            "train.lr: 2e-05 is low for LoRA, which may learn nothing; try 0.0005, or auto",
        ),
        (2e-5, False, 2e-5, None),
        (1e-4, True, 1e-4, None),
    ],
)
def test_the_choice_and_a_rate_too_low_for_lora_are_told(
    config_of: Callable[..., RunConfig], lr: float | str, use_lora: bool, rate: float, note: str | None
) -> None:
    train = config_of(train={"lr": lr}).train
    assert chosen_rate(train, 5e-4, use_lora=use_lora) == (rate, note)
