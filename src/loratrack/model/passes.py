"""Logits of members for any number of rows: evaluation and serving ask in this one way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loratrack.errors import UserError
from loratrack.model.batch import Sequences
from loratrack.model.network import Network
from loratrack.model.out_of_memory import TooLargeError, halving


@torch.inference_mode()
def predict(network: Network, rows: Sequences, members: Sequence[str]) -> dict[str, Tensor]:
    """[rows, classes of all tasks] for each member, on the CPU, in the order of the rows.

    Rows of similar length go together, all members in one pass. Where memory runs out, passes become smaller,
    and stay so: `network.rows_in_a_pass`. TooLargeError when one row of one member does not fit.
    """
    check_tokens(rows, network)
    network.eval()
    order = np.argsort(-np.diff(rows.offsets), kind="stable")
    try:
        parts = list(passes(network, order, len(members), partial(_pass, network, rows, members)))
    except TooLargeError:
        if len(members) == 1:
            raise
        half = len(members) // 2
        network.rows_in_a_pass = half
        return predict(network, rows, members[:half]) | predict(network, rows, members[half:])
    ordered = torch.cat([part.cpu() for part in parts], dim=1)
    restored = torch.empty_like(ordered)
    restored[:, torch.from_numpy(order)] = ordered
    return dict(zip(members, restored, strict=True))


def passes(
    network: Network,
    order: NDArray[np.int64],
    num_members: int,
    work: Callable[[NDArray[np.int64], int], Tensor],
    most_rows: Callable[[int], int] | None = None,
) -> Iterator[Tensor]:
    """What `work` gives for the first so many of the rows, then of the others, as many at once as fit.

    `most_rows`: of a pass, all members counted, that begins with this row. TooLargeError when one row of each
    member does not fit.
    """
    while len(order):
        most = network.rows_in_a_pass
        if most_rows is not None:
            most = min(most, most_rows(int(order[0])))
        wanted = order[: max(1, most // num_members)]
        part, count = halving(len(wanted), partial(work, wanted))
        if count < len(wanted):
            network.rows_in_a_pass = count * num_members
        yield part
        order = order[count:]


def check_tokens(rows: Sequences, network: Network) -> None:
    """UserError for a token that the base has no vector for; on a GPU it would end the process."""
    if len(rows.tokens) and not 0 <= int(rows.tokens.min()) <= int(rows.tokens.max()) < network.num_tokens:
        raise UserError(
            f"{network.base.name_or_path}: the tokenizer gives tokens up to {int(rows.tokens.max())}, the"
            f" network has vectors for {network.num_tokens}; this tokenizer and this network do not belong"
            " together"
        )


def _pass(
    network: Network, rows: Sequences, members: Sequence[str], wanted: NDArray[np.int64], count: int
) -> Tensor:
    """Of the first `count` wanted rows."""
    batch = network.arrange(rows, [wanted[:count]] * len(members), members).on(network.device)
    with network.routed(batch, members):
        return network.logits(batch, members).view(len(members), count, -1)
