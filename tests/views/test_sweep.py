"""What came of a sweep, as tables and as one page."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from loratrack.tuning.report import report
from loratrack.views import sweep

NAME = "clinc <b>sweep</b>"


def study(num_trials: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = optuna.create_study(
        study_name=NAME, direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0)
    )

    def objective(trial: optuna.Trial) -> float:
        trial.set_user_attr("run_id", f"{trial.number:032x}")
        return trial.suggest_float("train.lr", 1e-5, 1e-3) * 100 + trial.suggest_int("rank", 4, 16) / 100

    made.optimize(objective, n_trials=num_trials)
    return made


def test_the_best_trials_come_first_and_each_setting_has_its_share() -> None:
    summary = report(study(12))
    heading, *rows = sweep.trial_rows(summary)
    assert heading == ["trial", "value", "lr", "rank", "run"]
    assert len(rows) == sweep.MAX_TRIALS
    values = [float(row[1]) for row in rows]
    assert values == sorted(values, reverse=True)
    shares = sweep.importances(summary)
    assert shares[0] == ["setting", "value"]
    assert {name for name, _ in shares[1:]} == {"train.lr", "rank"}
    assert summary.evidence == "PED-ANOVA over 12 finished trials; weak evidence, since it is fewer than 50"


@pytest.mark.parametrize(("num_trials", "pictures"), [(0, 0), (2, 3), (5, 4)])
def test_the_page_holds_its_pictures_and_escapes_names(
    num_trials: int, pictures: int, tmp_path: Path
) -> None:
    made = study(num_trials)
    page = sweep.write(made, report(made), tmp_path / "out")
    text = page.read_text("utf-8")
    assert "<h1>sweep clinc &lt;b&gt;sweep&lt;/b&gt;</h1>" in text
    assert "<b>" not in text
    assert text.count('src="data:image/png;base64,') == pictures
    assert len(list((tmp_path / "out" / "plots").iterdir())) == pictures


def test_a_sweep_without_trials_has_headings_alone() -> None:
    summary = report(study(0))
    assert sweep.trial_rows(summary) == [["trial", "value", "run"]]
    assert sweep.importances(summary) == [["setting"]]
    assert summary.evidence == "0 finished trials are too few to say what matters"


def test_a_trial_is_shown_with_what_it_trained_with() -> None:
    made = study(0)
    trial = made.ask()
    settings = {"rank": 8, "model.lora.alpha": 16.0, "train.loss_weight": {"risk": 0.25, "taken": 0.75}}
    trial.set_user_attr("settings", {**settings, "train.lr": 0.00123456})
    made.tell(trial, 0.5)
    assert sweep.trial_rows(report(made)) == [
        ["trial", "value", "rank", "alpha", "weights", "lr", "run"],
        ["0", "0.5000", "8", "16", "0.25/0.75", "0.00123", "–"],
    ]


def test_chinese_settings_are_letters_in_the_pictures(tmp_path: Path, no_cjk_fonts: None) -> None:
    """Boxes in their place would make the pictures of both sweeps alike."""
    pictures = []
    for name, choices in {"a": ("数", "据"), "b": ("训", "练")}.items():
        made = study(0)
        for choice in choices * 2:
            made.enqueue_trial({"path": choice})

        def objective(trial: optuna.Trial, choices: tuple[str, ...] = choices) -> float:
            return choices.index(trial.suggest_categorical("path", choices))

        made.optimize(objective, n_trials=4)
        sweep.draw(made, report(made), tmp_path / name)
        pictures.append((tmp_path / name / "slices.png").read_bytes())
    assert pictures[0] != pictures[1]
