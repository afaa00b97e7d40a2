"""`thresholds.json`: what it must hold, and what is said of anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from loratrack.errors import UserError
from loratrack.model import thresholds


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    thresholds.save({"topics": 0.37}, tmp_path)
    assert thresholds.load(tmp_path, ["topics"]) == {"topics": 0.37}


def test_a_model_without_multi_label_tasks_has_no_file(tmp_path: Path) -> None:
    thresholds.save({}, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert thresholds.load(tmp_path, []) == {}
    assert thresholds.load(tmp_path, ["topics"]) == {"topics": 0.5}


def test_a_label_is_predicted_from_its_threshold_on() -> None:
    logits = torch.tensor([0.5, 1.0]).logit()
    assert thresholds.reached(logits, 0.5).tolist() == [True, True]
    assert thresholds.reached(logits, 0.51).tolist() == [False, True]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"topics": 1.5}', "must give each multi-label task a threshold between 0 and 1 (Input should be"),
        ("[]", "must give each multi-label task a threshold between 0 and 1 (Input should be an object)"),
        ('{"others": 0.5}', "must have the multi-label tasks ['topics'], got ['others']; restore the run's"),
    ],
)
def test_another_content_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "thresholds.json").write_text(content)
    with pytest.raises(UserError) as caught:
        thresholds.load(tmp_path, ["topics"])
    assert f"thresholds.json: {problem}" in str(caught.value)
