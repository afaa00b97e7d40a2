from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from loratrack.views import curves, fonts
from loratrack.views.curves import draw
from loratrack.views.fonts import drawable

LATIN_ONLY = [fonts.LATIN_FONT]


def history(tasks: list[str]) -> dict[int, dict[str, float]]:
    prefixes = [f"{task}_" for task in tasks] if len(tasks) > 1 else [""]
    scores = [f"{prefix}{measure}" for prefix in prefixes for measure in ("accuracy", "f1")]
    return {
        epoch: {"train/loss": 1 / epoch, "validation/loss": 2 / epoch, **dict.fromkeys(scores, 0.9)}
        for epoch in (1, 2, 3)
    }


def confusion(num_labels: int) -> np.ndarray:
    strays = np.indices((num_labels, num_labels)).sum(axis=0) % 7 == 0
    return np.asarray(np.eye(num_labels, dtype=int) * 9 + strays)


def test_each_task_has_its_curves_and_its_matrix(tmp_path: Path) -> None:
    labels = {"risk_level": ["低风险", "中风险", "高风险 $x$"], "is/adopt": ["采纳", "不\n采纳"]}
    matrices = {task: (names, confusion(len(names))) for task, names in labels.items()}
    draw(tmp_path / "plots", history(list(labels)), matrices, best_epoch=2)
    assert sorted(file.name for file in (tmp_path / "plots").iterdir()) == [
        "confusion_is_adopt.png",
        "confusion_risk_level.png",
        "is_adopt.png",
        "loss.png",
        "risk_level.png",
    ]


@pytest.mark.slow
def test_150_labels_have_room_for_their_names(tmp_path: Path) -> None:
    draw(
        tmp_path,
        history(["intent"]),
        {"intent": ([f"intent_{n}" for n in range(150)], confusion(150))},
        best_epoch=None,
    )
    height, width, _ = imread(tmp_path / "confusion_intent.png").shape
    pixels_of_a_line = 7 * curves.DOTS_PER_INCH / 72
    assert min(height, width) > 150 * pixels_of_a_line


def test_a_run_without_an_epoch_has_empty_plots(tmp_path: Path) -> None:
    draw(tmp_path, {}, {"label": (["a", "b"], np.zeros((2, 2), dtype=int))}, best_epoch=None)
    assert (tmp_path / "loss.png").exists()


def test_letters_without_a_font_become_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And matplotlib warns of no missing glyph: warnings are errors here."""
    monkeypatch.setattr(fonts, "families", lambda: LATIN_ONLY)
    assert drawable("高 high\n") == "\\u9ad8 high\\n"
    draw(tmp_path, history(["风险"]), {"风险": (["高", "低"], confusion(2))}, best_epoch=3)


def test_long_labels_lose_their_middle(tmp_path: Path) -> None:
    shown = curves._label("a" * 40 + "_end")
    assert len(shown) == curves.MAX_LABEL_CHARACTERS
    assert shown.endswith("_end")


def test_the_best_epoch_is_marked() -> None:
    axes = curves.loss_figure(history(["risk"]), best_epoch=2).axes[0]
    [line] = [line for line in axes.lines if line.get_label() == "best epoch"]
    assert np.asarray(line.get_xdata()).tolist() == [2, 2]
    axes = curves.loss_figure(history(["risk"]), best_epoch=None).axes[0]
    assert "best epoch" not in [line.get_label() for line in axes.lines]
