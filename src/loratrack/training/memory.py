"""What to do when memory ran out: a step is divided into smaller passes until it fits.

1. CUDA graphs are given up: they hold memory that nothing else can use.
2. The members are spread over several passes, which changes no result.
3. Micro-batches of the one member that is too large are halved; sums are then taken in another order.
4. A member that is too large even so has failed, unless it is alone: then the run ends with a remedy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from loratrack.errors import UserError
from loratrack.model.network import Network
from loratrack.training.cuda_graphs import GraphCache
from loratrack.training.member import Member, Rows
from loratrack.training.objectives.objective import MicroBatch
from loratrack.training.schedule import micro_batches

TOO_LARGE = (
    "out of memory with a micro-batch of 1 example; lower data.max_len, set"
    " train.gradient_checkpointing=true, or take a smaller base"
)


class Memory:
    """How the steps of a cohort are divided. What was once too large is not tried again."""

    def __init__(self, network: Network, graphs: GraphCache, notice: Callable[[str], None]) -> None:
        self.network, self.graphs, self.notice = network, graphs, notice
        self.passes = 1
        """How many passes the members of a step are spread over."""
        self.micro_batch_limits: dict[str, int] = {}
        """Members whose micro-batches are no larger than this."""

    def divide(self, batches: Sequence[tuple[Member, Rows]]) -> Iterator[list[MicroBatch]]:
        """The passes of a step: each is a list with one micro-batch for every member in it."""
        size = -(-len(batches) // self.passes)
        for start in range(0, len(batches), size):
            parts_by_member = [
                [
                    MicroBatch(member, part, rows, number)
                    for number, part in enumerate(micro_batches(rows, self._micro_batch_size(member)))
                ]
                for member, rows in batches[start : start + size]
            ]
            for number in range(max(map(len, parts_by_member))):
                yield [parts[number] for parts in parts_by_member if number < len(parts)]

    def free_graphs(self) -> bool:
        """Free the memory of the CUDA graphs; True if there was any."""
        had_graphs = self.graphs.disable()
        if had_graphs:
            self.notice(
                "out of memory: CUDA graphs are off from now on, which is slower and takes less memory"
            )
        return had_graphs

    def make_room(
        self, batches: Sequence[tuple[Member, Rows]], too_large: Sequence[MicroBatch], *, is_alone: bool
    ) -> None:
        """Let the next try take less memory; `too_large` is the pass that did not fit.

        Call it outside the `except` block: while the error lives, so do the tensors of the failed pass.
        """
        for member, _ in batches:
            member.flat_parameters.zero_grad()
        if self.free_graphs():
            return
        # Members are spread before micro-batches are halved: the pass has one member when it comes to that.
        member, rows = too_large[0].member, too_large[0].batch
        size = min(len(rows), self._micro_batch_size(member) or len(rows))
        if self.passes < len(batches):
            self.passes = min(len(batches), self.passes * 2)
            self.notice(f"out of memory: {len(batches)} members now train in {self.passes} passes a step")
        elif size > 1:
            self.micro_batch_limits[member.name] = size // 2
            self.notice(
                f"out of memory: micro-batch halved from {size} to {size // 2} examples;"
                " the step is repeated and the batch stays; results are no longer exact to the last bit"
            )
        elif is_alone:
            raise UserError(TOO_LARGE)
        else:
            member.end("failed", TOO_LARGE)
        if self.network.device.type == "cuda":
            torch.cuda.empty_cache()

    def _micro_batch_size(self, member: Member) -> int | None:
        sizes = (member.config.train.micro_batch_size, self.micro_batch_limits.get(member.name))
        return min((size for size in sizes if size is not None), default=None)
