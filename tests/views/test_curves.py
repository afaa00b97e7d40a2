from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from loratrack.views import curves, fonts
from loratrack.views.curves import confusion_figure, draw


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


def test_many_labels_have_their_most_frequent_confusions_as_bars() -> None:
    """Label n is taken for label n + 1, n times: 149 -> 0 is the most frequent."""
    labels = [f"intent {number}" for number in range(150)]
    truth = np.repeat(np.arange(150), np.arange(150))
    figure = confusion_figure("intent", labels, np.append(truth, 7), np.append((truth + 1) % 150, 7))
    [axes] = figure.axes
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == ["intent 149 → intent 0", *(f"intent {n} → intent {n + 1}" for n in range(148, 129, -1))]
    assert [patch.get_width() for patch in axes.patches if isinstance(patch, Rectangle)] == [
        *range(149, 129, -1)
    ]
    assert [text.get_text() for text in figure.texts] == [
        "intent: 1 of 11,176 right (0.0%)",
        "most frequent confusions (true → predicted): 20 of 149 pairs",
    ]


def test_a_multi_label_task_has_bars_of_its_labels(tmp_path: Path) -> None:
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], dtype=np.int8)
    predicted = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]], dtype=np.int8)
    figure = curves.label_scores_figure("topics", ["sport", "law", "art"], truth, predicted)
    [axes] = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["law (2 rows)", "sport (2 rows)"]
    widths = [patch.get_width() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert widths == pytest.approx([2 / 3, 4 / 5])
    assert [text.get_text() for text in figure.texts] == [
        "topics: all labels right in 2 of 4 rows",
        "F1 of the labels, the lowest first: 2 of 3 labels",
    ]
    given: dict[str, curves.Answers] = {
        "topics": (["sport", "law", "art"], truth, predicted),
        "risk": (["a", "b"], *answers(2)),
    }
    draw(tmp_path, history(["topics", "risk"]), given, best_epoch=2)
    assert {file.name for file in tmp_path.iterdir()} == {
        *("loss.png", "risk.png", "topics.png", "confusion_risk.png", "label_scores_topics.png")
    }


@pytest.mark.parametrize("num_labels", [31, 10_000])
def test_a_picture_of_many_labels_fits_a_page(num_labels: int) -> None:
    labels = [f"{number} {'风险' * 40} {number}" for number in range(num_labels)]
    truth = np.arange(num_labels)
    with matplotlib.rc_context({"font.family": fonts.families()}):
        figure = confusion_figure("intent", labels, truth, np.roll(truth, 1))
        figure.set_dpi(curves.DOTS_PER_INCH)
        figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    assert width < 17
    assert height < 9
    names = [tick.get_window_extent() for tick in figure.axes[0].get_yticklabels()]
    assert len(names) == 20
    assert min(name.x0 for name in names) > 0
    assert all(above.y0 > below.y1 for above, below in pairwise(names))


def test_many_labels_without_a_confusion_say_so(tmp_path: Path) -> None:
    labels, right = [f"intent {number}" for number in range(40)], np.arange(40)
    figure = confusion_figure("intent", labels, right, right)
    assert [text.get_text() for text in figure.texts] == ["intent: 40 of 40 right (100.0%)", "no confusions"]
    figure.savefig(tmp_path / "right.png")


@pytest.mark.parametrize(("accuracy", "f1"), [(0.9697, 0.96965), (1.0, 1.0), (0.0, 0.0), (0.2, 0.9)])
def test_the_axes_of_one_epoch_have_plain_numbers(accuracy: float, f1: float) -> None:
    figure = curves.scores_figure("risk", {1: {"accuracy": accuracy, "f1": f1}}, "", best_epoch=1)
    [axes] = figure.axes
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    assert high <= 1.005
    assert high - low >= 0.1 - 1e-9
    assert low <= min(accuracy, f1) <= max(accuracy, f1) <= high
    left, right = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if left <= tick <= right] == [1]
    assert axes.yaxis.get_offset_text().get_text() == ""
    assert len({tick.get_text() for tick in axes.get_yticklabels()}) >= 4


def test_a_run_without_an_epoch_has_empty_plots(tmp_path: Path) -> None:
    draw(tmp_path, {}, {"label": (["a", "b"], *answers(0))}, best_epoch=None)
    assert (tmp_path / "loss.png").exists()


def test_long_labels_lose_their_middle(tmp_path: Path) -> None:
    shown = curves._label("a" * 40 + "_end")
    assert len(shown) == curves.MAX_LABEL_CHARACTERS
    assert shown.endswith("_end")


def test_the_legend_has_the_values_of_the_epoch_that_the_answers_are_of() -> None:
    scores = {1: {"f1": 0.5, "train/loss": 0.9}, 2: {"f1": 0.8, "train/loss": 0.5}, 3: {"f1": 0.7}}

    def legend(best_epoch: int | None) -> list[str]:
        drawn = curves.loss_figure(scores, best_epoch), curves.scores_figure("a", scores, "", best_epoch)
        texts = [text for figure in drawn for text in figure.axes[0].get_legend_handles_labels()[1]]
        return [text for text in texts if text != "best epoch"]

    assert legend(1) == ["train: 0.9 at epoch 1", "macro F1: 0.5 at epoch 1"]
    assert legend(2) == ["train: 0.5 at epoch 2", "macro F1: 0.8 at epoch 2"]
    assert legend(None) == ["train: 0.5 at epoch 2", "macro F1: 0.7 at epoch 3"]


def test_the_best_epoch_is_marked() -> None:
    axes = curves.loss_figure(history(["risk"]), best_epoch=2).axes[0]
    [line] = [line for line in axes.lines if line.get_label() == "best epoch"]
    assert np.asarray(line.get_xdata()).tolist() == [2, 2]
    axes = curves.loss_figure(history(["risk"]), best_epoch=None).axes[0]
    assert "best epoch" not in [line.get_label() for line in axes.lines]
