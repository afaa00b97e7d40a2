"""Memory that ran out: how it is told from other faults, and passes that try again with fewer rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from loratrack.errors import UserError

MEMORY_ERRORS = (torch.OutOfMemoryError, MemoryError, RuntimeError)
"""Errors that may mean that memory ran out; `is_out_of_memory` tells. torch's CPU raises RuntimeError."""
ONE_TEXT = "out of memory with a single text; lower data.max_len, or take a smaller base"

Result = TypeVar("Result")


class TooLargeError(UserError):
    """One row alone does not fit."""


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error) or "out of memory" in str(error).lower()


def halving(rows: int, work: Callable[[int], Result], too_large: str = ONE_TEXT) -> tuple[Result, int]:
    """What `work` gives for so many rows, and for how many: half of them each time that memory runs out.

    TooLargeError, which says `too_large`, when one row does not fit. For work that learns nothing, such as
    evaluation, prediction and measuring; `training.memory` divides the steps of a training.
    """
    while True:
        try:
            return work(rows), rows
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
        # Outside the `except` block: while the error lives, so do the tensors of the failed pass.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if rows == 1:
            raise TooLargeError(too_large)
        rows //= 2
