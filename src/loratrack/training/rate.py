"""The learning rate that `train.lr: auto` comes to: by what is trained, the width of the base and its family.

    LoRA                2e-3 * (384 / hidden size)^2, at most 2e-3, at least 1e-4; in a causal base 2e-4
    the whole network   2e-5

    hidden size          384     768     1024     1536    4096
    encoder             2e-3    5e-4   2.8e-4   1.3e-4    1e-4
    causal base         2e-3    5e-4   2.8e-4     2e-4    2e-4

384 was measured here (docs/log.md). The others are published: LoRA's paper trains RoBERTa-base (768) at 4e-4
to 5e-4, RoBERTa-large (1024) at 2e-4 to 4e-4, DeBERTa-XXL (1536) at 6e-5 to 2e-4 and GPT-2 (1024) at 2e-4;
QLoRA's trains LLaMA of 4096 and 5120 at 2e-4.
"""

from __future__ import annotations

from loratrack.config.train import Train

MEASURED_RATE, MEASURED_HIDDEN_SIZE = 2e-3, 384
LOWEST_FOR_ENCODERS, LOWEST_FOR_CAUSAL = 1e-4, 2e-4
FULL_FINE_TUNING = 2e-5
LION_SHARE = 1 / 3
"""Lion moves every number by the whole rate; its paper has a third to a tenth of AdamW's."""
LOW_FOR_LORA = 1e-4
"""Below it LoRA hardly moves: matrices that begin at zero need ten times the rate of a whole network."""


def auto_rate(hidden_size: int, optimizer: str, *, use_lora: bool, is_causal: bool) -> float:
    rate = FULL_FINE_TUNING
    if use_lora:
        lowest = LOWEST_FOR_CAUSAL if is_causal else LOWEST_FOR_ENCODERS
        by_width = MEASURED_RATE * (MEASURED_HIDDEN_SIZE / hidden_size) ** 2
        rate = min(MEASURED_RATE, max(lowest, round(by_width, 5)))
    return float(f"{rate * LION_SHARE:.2g}") if optimizer == "lion" else rate


def chosen_rate(train: Train, auto: float, *, use_lora: bool) -> tuple[float, str | None]:
    """The peak rate of a training whose `auto` would be this; and what there is to say of it."""
    if not isinstance(train.lr, float):
        return auto, f"train.lr: auto is {auto:g} {'for LoRA on' if use_lora else 'for'} this base"
    if use_lora and train.lr < LOW_FOR_LORA and train.optimizer != "lion":
        return (
            train.lr,
            f"train.lr: {train.lr:g} is low for LoRA, which may learn nothing; try {auto:g}, or auto",
        )
    return train.lr, None
