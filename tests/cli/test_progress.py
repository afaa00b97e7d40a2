from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from loratrack.cli.progress import ProgressBar
from loratrack.config import RunConfig
from loratrack.training.cohort import Cohort, train
from loratrack.training.member import Member


def watched(
    terminal: bool,
    cohort: Cohort,
    seat: Callable[[Cohort, RunConfig, Path], Member],
    config: RunConfig,
    folder: Path,
) -> str:
    seat(cohort, config, folder)
    screen = io.StringIO()
    with ProgressBar(Console(file=screen, force_terminal=terminal, width=120, color_system=None)) as bar:
        train(cohort, bar)
    return screen.getvalue()


def test_without_a_terminal_there_is_a_line_at_the_start_and_one_for_each_epoch(
    new_cohort: Callable[[list[str]], Cohort],
    seat: Callable[[Cohort, RunConfig, Path], Member],
    config_of: Callable[..., RunConfig],
    tmp_path: Path,
) -> None:
    first, *lines = watched(False, new_cohort([]), seat, config_of(), tmp_path).splitlines()
    shape = (
        r"epoch \d/2  loss \d\.\d{3}  validation risk_f1 \d\.\d{3}  taken_f1 \d\.\d{3}  avg_f1 \d\.\d{3}"
        r"  \d+\.\d s  \d+ examples/s"
    )
    assert first.endswith(": training, 12 steps in 2 epochs")
    assert len(lines) == 2
    assert all(re.fullmatch(shape, line) for line in lines)


def test_a_terminal_shows_the_steps_and_the_scores(
    new_cohort: Callable[[list[str]], Cohort],
    seat: Callable[[Cohort, RunConfig, Path], Member],
    config_of: Callable[..., RunConfig],
    tmp_path: Path,
) -> None:
    shown = watched(True, new_cohort([]), seat, config_of(), tmp_path)
    assert "12/12 steps" in shown
    assert re.search(r"12/12 steps.*avg_f1 \d", shown)
