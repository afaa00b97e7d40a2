"""Tokens that a base has never been trained on: their rows of the embedding have collapsed onto each other.

LoRA leaves the embedding as it is. A stop token with such a row is learned by no adapter: the loss looks
finished, and the model never stops. The norm of a row does not show it, its nearest neighbour does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from loratrack.errors import ConfigError

SAME_ROW_COSINE = 0.99
ROWS_AT_ONCE = 64
"""Against 152,000 others in fp32 these are 39 MB of cosines."""


def never_trained(embedding: torch.Tensor, ids: Sequence[int]) -> list[int]:
    """Those of `ids` whose row is nearly another one's, or zero."""
    with torch.no_grad():
        rows = torch.nn.functional.normalize(embedding.float(), dim=1)
        unseen = []
        for start in range(0, len(ids), ROWS_AT_ONCE):
            chunk = torch.tensor(ids[start : start + ROWS_AT_ONCE], device=rows.device)
            cosines = rows[chunk] @ rows.T
            cosines[torch.arange(len(chunk)), chunk] = -1.0
            is_zero = rows[chunk].square().sum(1) < 0.5
            unseen += chunk[(cosines.amax(1) > SAME_ROW_COSINE) | is_zero].tolist()
    return unseen


def check_stop_token(embedding: torch.Tensor, stop: int, tokenizer: Any) -> None:
    """ConfigError where the base cannot learn to write `stop`, with the control tokens that it knows."""
    if not never_trained(embedding, [stop]):
        return
    others = sorted(
        each for each in tokenizer.added_tokens_decoder if each not in (stop, tokenizer.unk_token_id)
    )
    unseen = set(never_trained(embedding, others))
    known = [tokenizer.convert_ids_to_tokens(each) for each in others if each not in unseen]
    name = tokenizer.convert_ids_to_tokens(stop)
    stop_at = (
        f"stop at one that it knows (data.stop_token: {', '.join(map(repr, known[:5]))}), or "
        if known
        else ""
    )
    raise ConfigError(
        f"stop token {name!r}: this base was never trained on it (its row of the embedding is another's too) "
        f"and the model would not stop; {stop_at}train its row (model.lora.train_tokens: [{name!r}])"
    )
