from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
from rich.cells import cell_len
from rich.console import Console

from loratrack.cli.progress import ProgressBar, SweepBar
from loratrack.config import RunConfig
from loratrack.experiments.watcher import TrialEnd, UnderWay
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


def test_the_bar_of_a_run_that_goes_on_begins_where_it_was(
    new_cohort: Callable[[list[str]], Cohort],
    seat: Callable[[Cohort, RunConfig, Path], Member],
    config_of: Callable[..., RunConfig],
    tmp_path: Path,
) -> None:
    cohort = new_cohort([])
    member = seat(cohort, config_of(), tmp_path)
    for _ in range(5):
        cohort.step()
    screen = io.StringIO()
    with ProgressBar(Console(file=screen, force_terminal=True, width=120, color_system=None)) as bar:
        bar.step([member])
    assert re.search(r" 42 % .* 5/12 steps", screen.getvalue())
    assert "0/12 steps" not in screen.getvalue()


@pytest.mark.parametrize("own", [None, "true"])
def test_the_bar_of_MLflow_is_off_while_ours_is_live(
    own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if own is None:
        monkeypatch.delenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", raising=False)
    else:
        monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", own)
    with SweepBar(Console(file=io.StringIO())):
        assert not MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.get()
    assert MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.get()
    assert os.environ.get("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR") == own


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_sweep_is_seen_before_its_first_trial_ends(
    is_terminal: bool,
    new_cohort: Callable[[list[str]], Cohort],
    seat: Callable[[Cohort, RunConfig, Path], Member],
    config_of: Callable[..., RunConfig],
    tmp_path: Path,
) -> None:
    cohort = new_cohort([])
    member = seat(cohort, config_of(), tmp_path)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=is_terminal, width=80, color_system=None, soft_wrap=True)
    with SweepBar(console) as bar:
        bar.under_way(UnderWay({}, 0, 4))
        for _ in range(6):  # one epoch of two
            cohort.end_epochs(cohort.step())
            bar.under_way(UnderWay({3: member}, 1, 4))
        bar.trial_epoch(3, member)
        bar._progress.refresh()
        before = screen.getvalue()
        scores = {"avg_f1": 0.9312, "trainable_parameters": 294912.0}
        settings = {"model.lora.rank": 8, "train.lr": 0.00123, "train.loss_weight": {"a": 0.25, "b": 0.75}}
        bar.trial(TrialEnd(3, "complete", settings, scores, "", 103.4, 2, 2, 3, scores, 2, 4))
        bar._progress.refresh()
    before, after = (
        re.sub(r"\x1b\[[\d?]*[A-Za-z]", "", text).replace("\r", "\n")
        for text in (before, screen.getvalue()[len(before) :])
    )
    assert re.search(r"^trial 3  epoch 1/2  loss \d\.\d{3}  avg_f1 ", before, re.MULTILINE)
    if is_terminal:
        assert re.search(r"1/4 trials, 1 in training ━+╸ +38 % [\d:-]+ left", before)
        ended = "trial 3  avg_f1 0.9312  trainable_parameters 294,912  103 s"
        assert f"{ended}\n  rank 8, lr 0.00123, weights 0.25/0.75\n" in re.sub(r" +\n", "\n", after)
        assert re.search(r"2/4 trials, best avg_f1 0.9312 ━+╸? +50 %", after)
    else:
        assert re.sub(r"0:\d\d left", "0:00 left", after) == (
            "trial 3  avg_f1 0.9312  trainable_parameters 294,912  103 s"
            "  (rank 8, lr 0.00123, weights 0.25/0.75)\n"
            "  best so far avg_f1 0.9312  trainable_parameters 294,912 (trial 3), 2 of 4 done,"
            " about 0:00 left\n"
        )
