"""What training says while it runs; a test passes a list, the command line passes a tracked run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class RunLog(Protocol):
    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """All metrics of one evaluation in one call. Never blocks on a network.

        `step`: the number of the epoch; of `eval/…`, which is within an epoch too, that of the step.
        """

    def notice(self, text: str) -> None:
        """One line for the person who watches, and for the record."""


class ListLog:
    """Keeps what it is told; the stand-in for a tracked run."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, dict[str, float]]] = []
        self.notices: list[str] = []

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.calls.append((step, dict(values)))

    def notice(self, text: str) -> None:
        self.notices.append(text)
