"""What checkpoints cost, as figures and as their part of the page."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.assignment import Frozen
from bench.machine import BUSY
from bench.report import spread, table

DEFAULT_SECONDS = 300
"""Between two saves, by `train.checkpoint_minutes`."""
BYTES_OF_A_NUMBER = 3 * 4
"""Itself and the two moments of AdamW, in fp32."""


class Loop(Frozen):
    """One training without checkpoints and the same one with many, right after it."""

    seconds: float
    seconds_with: float
    saves: int
    lost_ms: float
    """What the loop waits for one save: for its copy, and for the one before it to be on the disk."""
    slowed_ms: float
    """By how much the steps beside one save take longer than the others."""

    @property
    def share(self) -> float:
        """Of the wall time, with the default interval."""
        return (self.lost_ms + max(0.0, self.slowed_ms)) / (1000 * DEFAULT_SECONDS)


class Saves(Frozen):
    """Some checkpoints of one training in one round: medians in milliseconds, and sizes."""

    first_ms: float
    """What the loop waits for the first one."""
    loop_ms: float
    """What the loop waits for each of the others."""
    whole_ms: float
    """From the beginning of its copy until it is there."""
    back_ms: float
    """Until it is checked, where somebody checks it, and restored."""
    trained: int
    """Numbers that are trained."""
    files: dict[str, int]
    """Bytes by name."""


class Checkpoints(Frozen):
    machine: dict[str, Any]
    loops: tuple[Loop, ...]
    rounds: tuple[dict[str, Saves], ...]
    """By contender."""
    damages: dict[str, dict[str, str]]
    """By contender what was done to the newest checkpoint, and what came of going on from it."""


CONTENDERS = {
    "ours": "ours, MiniLM r16",
    "trainer": "transformers.Trainer, MiniLM r16",
    "accelerate": "accelerate.save_state, MiniLM r16",
    "large": "ours, 40 million numbers",
}


def section_page(results: Checkpoints) -> str:
    machine = results.machine
    versions = ", ".join(
        f"{name} {machine[name]}" for name in ("torch", "transformers", "peft", "accelerate")
    )
    return "\n\n".join(
        [
            "### Checkpoints",
            NOTE,
            saves_table(results.rounds),
            loop_table(results.loops),
            sizes_table(results.rounds[-1]),
            damages_table(results.damages),
            f"{len(results.rounds)} round(s) on {machine['date']}, load {machine['load_at_start']} at the"
            f" start{' (a busy machine)' if machine['load_at_start'] > BUSY else ''},"
            f" {machine['threads']} thread(s), {versions}.",
        ]
    )


def saves_table(rounds: Sequence[Mapping[str, Saves]]) -> str:
    rows = []
    for key, title in CONTENDERS.items():
        saves = [each[key] for each in rounds]
        columns = [
            [each.first_ms for each in saves],
            [each.loop_ms for each in saves],
            [each.whole_ms for each in saves],
            [each.back_ms for each in saves],
        ]
        ratios = [each[key].loop_ms / each["ours"].loop_ms for each in rounds]
        cells = [spread(values, milliseconds) for values in columns]
        rows.append([title, *cells, spread(ratios, lambda value: f"{value:.1f}")])
    headings = ["one save, ms", "the loop waits, first save", "later ones", "until it is there", "restored"]
    headings.append("later ones / ours, r16")
    return table(headings, rows)


def loop_table(loops: Sequence[Loop]) -> str:
    ratios = [each.seconds_with / each.seconds for each in loops]
    saves = statistics.median(each.saves for each in loops)
    rows = [
        ["the loop waits for a save, ms", spread([each.lost_ms for each in loops], milliseconds), ""],
        [
            "steps beside a save are longer by, ms",
            spread([each.slowed_ms for each in loops], milliseconds),
            "",
        ],
        [
            f"whole training with {saves:.0f} saves / without",
            spread(ratios, lambda value: f"{value:.2f}"),
            "",
        ],
        [
            "share of wall time with a save every 5 minutes",
            spread([100 * each.share for each in loops], lambda value: f"{value:.3f} %"),
            "≤ 0.5 %",
        ],
    ]
    return table(["ours, in the step loop", "", "aim"], rows)


def sizes_table(saves: Mapping[str, Saves]) -> str:
    rows = []
    for key, title in CONTENDERS.items():
        own = saves[key]
        needed = own.trained * BYTES_OF_A_NUMBER
        linked = sum(size for name, size in own.files.items() if name.startswith("best/"))
        written = sum(own.files.values()) - linked
        rows.append(
            [
                title,
                f"{own.trained:,}",
                f"{written / 1e6:.2f}",
                f"{written / needed:.3f}",
                f"{linked / 1e6:.2f}",
            ]
        )
    headings = ["sizes", "trained numbers", "written, MB", "written / (numbers × 12 bytes)", "linked, MB"]
    return table(headings, rows)


def damages_table(damages: Mapping[str, Mapping[str, str]]) -> str:
    rows = [
        [CONTENDERS[key].partition(",")[0], what, outcome]
        for key, outcomes in damages.items()
        for what, outcome in outcomes.items()
    ]
    return table(["who goes on", "from a checkpoint with", "what comes of it"], rows)


def milliseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


NOTE = """CLINC150, intent alone, 1,200 rows; one process, all contenders in turn in each round; each figure
of a round is a median of its saves. Ours copies in the loop, and a thread writes, hashes, flushes to the disk
and renames; the others write in the loop, and flush nothing. To restore is to read from the page cache, and
for ours to check every hash first. *Linked* are the best weights so far, which take no space of their own. A
flipped bit makes one number in the middle of its file four times as large, or a fourth.

Aims of ours: the loop waits at most 30 ms for MiniLM with rank 16; 40 million numbers (rank 960 on all linear
layers) are on the disk after at most 1,500 ms, of which the loop waits at most 200; a file of at most 1.05
times 12 bytes for each trained number."""
