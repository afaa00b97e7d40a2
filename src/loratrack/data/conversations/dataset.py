"""Conversations as tokens, some of which are to be learned."""

from __future__ import annotations

from dataclasses import dataclass

from loratrack.data.tokens import Array, Tokens


@dataclass(frozen=True)
class Prompted(Tokens):
    """Tokens, and which of them a model has to say; the others are what it is told."""

    is_target: Array
    """bool, as long as `tokens`."""
