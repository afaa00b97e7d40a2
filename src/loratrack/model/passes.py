"""Logits of members for any number of rows: evaluation and serving ask in this one way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from loratrack.errors import UserError
from loratrack.model.batch import Sequences
from loratrack.model.network import Network

ROWS_IN_A_PASS = 128
"""More is hardly faster, and the widest passes set the peak of memory."""


@torch.inference_mode()
def predict(network: Network, rows: Sequences, members: Sequence[str]) -> dict[str, Tensor]:
    """[rows, classes of all tasks] for each member, on the CPU, in the order of the rows.

    Rows of similar length go together, all members in one pass.
    """
    check_tokens(rows, network)
    network.eval()
    order = np.argsort(-np.diff(rows.offsets), kind="stable")
    size = max(1, ROWS_IN_A_PASS // len(members))
    parts = [
        _pass(network, rows, members, order[start : start + size]) for start in range(0, len(order), size)
    ]
    ordered = torch.cat(parts, dim=1).cpu()
    restored = torch.empty_like(ordered)
    restored[:, torch.from_numpy(order)] = ordered
    return dict(zip(members, restored, strict=True))


def check_tokens(rows: Sequences, network: Network) -> None:
    """UserError for a token that the base has no vector for; on a GPU it would end the process."""
    if len(rows.tokens) and not 0 <= int(rows.tokens.min()) <= int(rows.tokens.max()) < network.num_tokens:
        raise UserError(
            f"{network.encoder.name_or_path}: the tokenizer gives tokens up to {int(rows.tokens.max())}, the"
            f" network has vectors for {network.num_tokens}; this tokenizer and this network do not belong"
            " together"
        )


def _pass(network: Network, rows: Sequences, members: Sequence[str], wanted: np.ndarray) -> Tensor:
    batch = network.arrange(rows, [wanted] * len(members), members).on(network.device)
    with network.routed(batch, members):
        return network.logits(batch, members).view(len(members), len(wanted), -1)
