"""A member's training once more with nothing of ours: PEFT's model, padded rows, torch's autograd."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peft import (
    LoraConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from tests.cohorts import BASES, CLASSES, DATASET
from torch import Tensor, nn
from transformers import PreTrainedModel

from loratrack.training.member import Member

Groups = list[dict[str, Any]]


def peft_of(encoder: PreTrainedModel, adapter: LoraConfig | Path) -> Any:
    """A new adapter, or the one in a folder."""
    with warnings.catch_warnings():  # PEFT asks transformers by a name that will go in v6
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        if isinstance(adapter, Path):
            return PeftModel.from_pretrained(encoder, adapter)
        return get_peft_model(encoder, adapter)


class Plain:
    """Begins with the weights that `member` has now."""

    def __init__(self, member: Member, new_optimizer: Callable[[Groups], Any], **lora: Any) -> None:
        network, config = member.network, member.config
        assert network.peft is not None
        self.config, self.num_steps = config, member.total_steps
        torch.manual_seed(0)
        encoder = BASES["bert"]().eval()
        settings = LoraConfig(
            task_type=TaskType.FEATURE_EXTRACTION,
            r=config.model.lora.rank,
            lora_alpha=config.model.lora.alpha,
            target_modules=list(network.coverage[member.name].modules),
            **lora,
        )
        self.peft = peft_of(encoder, settings)
        state = get_peft_model_state_dict(network.peft, adapter_name=member.name)
        set_peft_model_state_dict(self.peft, {name: value.clone() for name, value in state.items()})
        heads = network.heads[member.name]
        self.head = nn.Linear(encoder.config.hidden_size, sum(CLASSES.values()))
        self.head.load_state_dict({"weight": heads.weight.clone(), "bias": heads.bias.clone()})
        self.trained = [p for p in self.peft.parameters() if p.requires_grad] + [*self.head.parameters()]
        self.optimizer = new_optimizer(
            [
                {
                    "params": [p for p in self.trained if p.ndim > 1],
                    "weight_decay": config.train.weight_decay,
                },
                {"params": [p for p in self.trained if p.ndim == 1], "weight_decay": 0.0},
            ]
        )

    def logits(self, rows: Any) -> Tensor:
        data = DATASET.train
        widths = [data.offsets[row + 1] - data.offsets[row] for row in rows]
        ids = torch.zeros(len(rows), max(widths), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, (row, width) in enumerate(zip(rows, widths, strict=True)):
            start = data.offsets[row]
            ids[place, :width] = torch.from_numpy(data.tokens[start : start + width].astype(np.int64))
            mask[place, :width] = 1
        states = self.peft(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
        return self.head(states.sum(dim=1) / mask.sum(dim=1, keepdim=True))  # type: ignore[no-any-return]

    def train(self) -> None:
        """A linear schedule with its warm-up, all steps of all epochs."""
        train, step = self.config.train, 0
        warmup = int(np.ceil(train.warmup_share * self.num_steps))
        for epoch in range(1, train.epochs + 1):
            order = np.random.default_rng([train.seed, epoch]).permutation(len(DATASET.train))
            for start in range(0, len(order), train.batch_size):
                if step == self.num_steps:
                    return
                rows = order[start : start + train.batch_size]
                parts = torch.split(self.logits(rows), list(CLASSES.values()), dim=1)
                labels = torch.from_numpy(DATASET.train.labels[rows])
                losses = [F.cross_entropy(part, labels[:, task]) for task, part in enumerate(parts)]
                weights = self.config.loss_weights.values()
                sum(w * loss for w, loss in zip(weights, losses, strict=True)).backward()  # type: ignore[union-attr]
                torch.nn.utils.clip_grad_norm_(self.trained, train.max_grad_norm or 1e9)
                share = (
                    (step + 1) / warmup if step < warmup else 1 - (step - warmup) / (self.num_steps - warmup)
                )
                for group in self.optimizer.param_groups:
                    group["lr"] = train.peak_rate * share
                self.optimizer.step()
                self.optimizer.zero_grad()
                step += 1

    def largest_difference(self, member: Member) -> float:
        """Of any number of the adapter and the heads."""
        assert member.network.peft is not None
        mine = get_peft_model_state_dict(member.network.peft, adapter_name=member.name)
        heads = member.network.heads[member.name]
        pairs = [(mine[name], value) for name, value in get_peft_model_state_dict(self.peft).items()]
        pairs += [(heads.weight, self.head.weight), (heads.bias, self.head.bias)]
        return max(float((a - b).detach().abs().max()) for a, b in pairs)
