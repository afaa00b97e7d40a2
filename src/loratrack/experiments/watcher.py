"""What is shown on the way: a terminal, a web page or nobody sees a piece of work go by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from loratrack.sweep.study import Search, Trial
    from loratrack.training.member import Member


class Watcher(Protocol):
    """Everything that `experiments` has to say. It never decides anything."""

    def notice(self, text: str) -> None:
        """One line for a person."""

    def step(self, members: Sequence[Member]) -> None:
        """All members have trained on one more batch."""

    def epoch(self, member: Member) -> None:
        """A member has ended an epoch."""

    def trial(self, search: Search, trial: Trial, text: str) -> None:
        """A trial of a sweep has ended; `text` says how."""


class Nobody:
    """Watches nothing."""

    def notice(self, text: str) -> None: ...

    def step(self, members: Sequence[Member]) -> None: ...

    def epoch(self, member: Member) -> None: ...

    def trial(self, search: Search, trial: Trial, text: str) -> None: ...
