from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.typing import NDArray

from loratrack.views import curves, fonts
from loratrack.views.curves import confusion_figure, draw
from loratrack.views.fonts import drawable

LATIN_ONLY = [fonts.LATIN_FONT]


def history(tasks: list[str]) -> dict[int, dict[str, float]]:
    prefixes = [f"{task}_" for task in tasks] if len(tasks) > 1 else [""]
    scores = [f"{prefix}{measure}" for prefix in prefixes for measure in ("accuracy", "f1")]
    return {
        epoch: {"train/loss": 1 / epoch, "validation/loss": 2 / epoch, **dict.fromkeys(scores, 0.9)}
        for epoch in (1, 2, 3)
    }


def answers(num_labels: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each label nine times right, and once taken for each label that makes a multiple of 7 with it."""
    right = np.repeat(np.arange(num_labels), 9)
    truth, predicted = np.nonzero(np.indices((num_labels, num_labels)).sum(axis=0) % 7 == 0)
    return np.concatenate([right, truth]), np.concatenate([right, predicted])


def test_each_task_has_its_curves_and_its_matrix(tmp_path: Path) -> None:
    labels = {"risk_level": ["低风险", "中风险", "高风险 $x$"], "is/adopt": ["采纳", "不\n采纳"]}
    given = {task: (names, *answers(len(names))) for task, names in labels.items()}
    draw(tmp_path / "plots", history(list(labels)), given, best_epoch=2)
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
        {"intent": ([f"intent_{n}" for n in range(150)], *answers(150))},
        best_epoch=None,
    )
    height, width, _ = imread(tmp_path / "confusion_intent.png").shape
    pixels_of_a_line = 7 * curves.DOTS_PER_INCH / 72
    assert min(height, width) > 150 * pixels_of_a_line


def test_a_cell_is_its_share_of_the_true_label() -> None:
    figure = confusion_figure(
        "risk", ["a", "b", "c"], np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 2, 1, 0])
    )
    [image] = figure.axes[0].images
    assert np.asarray(image.get_array()).tolist() == [[0.75, 0, 0.25], [0.5, 0.5, 0], [0, 0, 0]]
    assert [text.get_text() for text in figure.axes[0].texts] == ["3", "1", "1", "1"]


def test_the_most_frequent_confusions_are_listed() -> None:
    names = [f"intent {number}" for number in range(9)]
    figure = confusion_figure("intent", names, np.array([1, 1, 8, 2]), np.array([3, 3, 0, 2]))
    assert figure.texts[0].get_text().split("\n")[2:] == [
        "   2   intent 1 → intent 3",
        "   1   intent 8 → intent 0",
    ]


@pytest.mark.parametrize("num_labels", [201, 10_000])
def test_a_picture_of_many_labels_is_no_larger_and_has_no_names(num_labels: int) -> None:
    labels = [f"label {number}" for number in range(num_labels)]
    truth = np.arange(num_labels)
    figure = confusion_figure("intent", labels, truth, np.minimum(truth + truth % 2, num_labels - 1))
    width, height = figure.get_size_inches()
    assert max(width, height) < 16
    [image] = figure.axes[0].images
    assert np.asarray(image.get_array()).shape == (200, 200)
    assert not {tick.get_text() for tick in figure.axes[0].get_yticklabels()} & set(labels)
    assert figure.axes[0].get_xlim() == (-0.5, num_labels - 0.5)


def test_a_run_without_an_epoch_has_empty_plots(tmp_path: Path) -> None:
    draw(tmp_path, {}, {"label": (["a", "b"], *answers(0))}, best_epoch=None)
    assert (tmp_path / "loss.png").exists()


def test_letters_without_a_font_become_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And matplotlib warns of no missing glyph: warnings are errors here."""
    monkeypatch.setattr(fonts, "families", lambda: LATIN_ONLY)
    assert drawable("高 high\n") == "\\u9ad8 high\\n"
    draw(tmp_path, history(["风险"]), {"风险": (["高", "低"], *answers(2))}, best_epoch=3)


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
