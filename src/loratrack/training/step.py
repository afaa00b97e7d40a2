"""One step of a cohort, from the next rows of every member to its optimizer's update.

next batches -> arrange -> forward -> objective.loss -> backward -> update
                |------- once for every micro-batch -------|
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from loratrack.model.batch import send_together
from loratrack.model.dropout import Dropout
from loratrack.model.network import Network
from loratrack.model.out_of_memory import MEMORY_ERRORS, is_out_of_memory
from loratrack.training.cuda_graphs import GraphCache
from loratrack.training.member import Member
from loratrack.training.memory import Memory
from loratrack.training.objectives.objective import MicroBatch, Objective


def take_step(
    members: Sequence[Member], network: Network, objective: Objective, graphs: GraphCache, memory: Memory
) -> None:
    """Let every member learn from one batch of its own.

    A step either happens or does not: when memory runs out in the middle, the gradients so far are dropped
    and the whole step is begun again in smaller passes. Random numbers are pure functions of the step, so
    the second try draws the same ones.
    """
    batches = [(member, member.next_batch()) for member in members]

    while batches:
        losses: dict[str, Tensor] = {}
        parts: list[MicroBatch] = []
        try:
            for parts in memory.divide(batches):
                for part, sums in zip(parts, run_pass(parts, network, objective, graphs), strict=True):
                    name = part.member.name
                    losses[name] = losses[name] + sums if name in losses else sums
            break
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
        is_alone = sum(member.is_training for member in members) == 1
        memory.make_room(batches, parts, is_alone=is_alone)
        batches = [(member, rows) for member, rows in batches if member.is_training]

    for member, rows in batches:
        member.update(losses[member.name], num_rows=len(rows), num_targets=objective.num_targets(rows))
    # Reading losses waits for the device, so it is done now and then: NaN is found a few steps late.
    for member, _ in batches:
        if member.step % member.config.train.log_steps == 0:
            member.check_losses()


def run_pass(
    parts: Sequence[MicroBatch], network: Network, objective: Objective, graphs: GraphCache
) -> Tensor:
    """Add the gradients of these micro-batches to their members'; returns [members, parts of the loss]."""
    names = [part.member.name for part in parts]
    dropout = [Dropout(part.member.config.train.seed, part.member.step, part.number) for part in parts]

    # Arrange everything in numpy first: it then travels to the device in one transfer that nobody waits for.
    batch_layout = network.arrange(objective.dataset.train, [part.rows for part in parts], names, dropout)
    batch_layout.arrays.update(objective.arrays(batch_layout, parts))

    # One callable from the arrays to the gradients: a CUDA graph captures all of it or nothing.
    def forward_and_backward(sent: Mapping[str, Tensor]) -> Tensor:
        batch = batch_layout.batch(sent, network.device)
        with network.routed(batch, names, dropout):
            loss, reported = objective.loss(network, batch, parts)
            loss.backward()  # type: ignore[no-untyped-call]
        return reported

    # Replayed where a pass does the same for all batches of one shape; eager on CPUs and for other bases.
    if network.can_be_captured:
        trained = tuple(part.member.flat_parameters for part in parts)
        return graphs.run(batch_layout, trained, forward_and_backward)
    return forward_and_backward(send_together(batch_layout.arrays, network.device))
