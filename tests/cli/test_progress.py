from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
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
    width: int = 120,
) -> str:
    seat(cohort, config, folder)
    screen = io.StringIO()
    with ProgressBar(Console(file=screen, force_terminal=terminal, width=width, color_system=None)) as bar:
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
        r"epoch \d/2  loss \d\.\d{3}  avg_f1 \d\.\d{3}  risk_f1 \d\.\d{3}  taken_f1 \d\.\d{3}"
        r"  \d+\.\d s  \d+ examples/s"
    )
    assert first.endswith(": training, 12 steps in 2 epochs")
    assert len(lines) == 2
    assert all(re.fullmatch(shape, line) for line in lines)


@pytest.mark.parametrize(("width", "steps", "speed"), [(80, False, False), (120, True, True)])
def test_a_terminal_shows_share_and_time_left_and_the_scores_on_their_own_lines(
    width: int,
    steps: bool,
    speed: bool,
    new_cohort: Callable[[list[str]], Cohort],
    seat: Callable[[Cohort, RunConfig, Path], Member],
    config_of: Callable[..., RunConfig],
    tmp_path: Path,
) -> None:
    config = config_of("风险等级_three_classes_and_adopted")
    shown = watched(True, new_cohort([]), seat, config, tmp_path, width)
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d?]*[A-Za-z]", "", shown))
    assert max(cell_len(line) for line in lines) <= width
    [bar] = [line for line in lines if "100 %" in line][-1:]
    assert re.match(r"风险等级_three_classes_… ━+ 100 % 0:00:00 left", bar)
    assert ("12/12 steps" in bar) == steps
    [first, second] = [line for line in lines if line.startswith("epoch ")]
    assert re.match(r"epoch 2/2  loss \d\.\d{3}  avg_f1 \d\.\d{3}  risk_f1 ", second)
    assert ("examples/s" in first) == speed
