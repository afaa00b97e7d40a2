"""The history of a registered model as data: what `history` prints, `--json` writes and a page shows."""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict

from loratrack.registry import promotion

Move = TypedDict(
    "Move",
    {
        "when": str | None,
        "event": str,
        "alias": str | None,
        "from": int | None,
        "to": int | None,
        "who": str,
        "why": str,
        "run_id": str | None,
    },
)
"""`when` and `run_id` are None for a move by hand that no event tells of yet; versions are numbers."""


class History(TypedDict):
    model: str
    aliases: dict[str, int]
    moves: list[Move]
    """The oldest first."""
    drift: list[str]
    """What is not as the aliases and the moves say; `loratrack registry reconcile` repairs it."""


def history(model: str) -> History:
    """Who was champion, since when, and why. RefusedError when there is no such registered model."""
    moves: list[Move] = [
        {
            "when": _moment(event.at_ms) if event.at_ms else None,
            "event": event.kind,
            "alias": event.alias,
            "from": event.before,
            "to": event.after,
            "who": event.who,
            "why": event.why,
            "run_id": event.run_id or None,
        }
        for event in promotion.history(model)
    ]
    return {
        "model": model,
        "aliases": promotion.aliases(model),
        "moves": moves,
        "drift": [drift.text for drift in promotion.drift(model)],
    }


def _moment(milliseconds: int) -> str:
    """Local time, as whoever moved it remembers it."""
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().isoformat(timespec="seconds")
