"""Which trials can share a base: those that differ in nothing but what each member has for itself."""

from __future__ import annotations

import json

from loratrack.config import RunConfig, flat, plain

MEMBER_SETTINGS = (
    "exp_id",
    "description",
    "register",
    "project",
    "base_config",
    "resources.",
    "model.lora.",
    "train.batch_size",
    "train.micro_batch_size",
    "train.lr",
    "train.optimizer",
    "train.epochs",
    "train.max_steps",
    "train.eval_steps",
    "train.schedule",
    "train.warmup_share",
    "train.weight_decay",
    "train.max_grad_norm",
    "train.loss_weight",
    "train.class_weight",
    "train.label_smoothing",
    "train.focal_gamma",
    "train.save_strategy",
    "train.early_stopping_epochs",
    "train.log_steps",
    "train.seed",
)
"""What a member of a cohort has for itself; all other settings belong to the base and the data."""


def group(config: RunConfig) -> str:
    """The same for trials that can be members of one cohort."""
    shared = {key: value for key, value in flat(plain(config)).items() if not is_own(key)}
    return json.dumps(shared, sort_keys=True)


def is_own(setting: str) -> bool:
    return setting.startswith(MEMBER_SETTINGS)
