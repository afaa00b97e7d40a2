"""A run whose rows have several labels or none, beside a task with one; checked with plain libraries."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.pyfunc import scoring_server
from peft import PeftModel
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoModel, AutoTokenizer

from loratrack.cli import main
from loratrack.errors import UserError
from loratrack.serving.classifier import Classifier

TOPICS = {"sport": "screen", "law": "counter", "art": "secret"}
"""Each topic has a word of the sample's base that gives it away."""
RISKS = {"low": "calm", "high": "loud"}


def write_rows(file: Path, count: int, seed: int) -> None:
    draw = random.Random(seed)
    with file.open("w", encoding="utf-8", newline="") as opened:
        for _ in range(count):
            topics = [
                topic for topic, chance in zip(TOPICS, (0.5, 0.4, 0.1), strict=True) if draw.random() < chance
            ]
            risk = draw.choice(list(RISKS))
            words = [
                RISKS[risk],
                *(TOPICS[topic] for topic in topics),
                *draw.choices(["the", "a", "note"], k=3),
            ]
            draw.shuffle(words)
            opened.write(json.dumps({"text": " ".join(words), "topics": topics, "risk": risk}) + "\n")


@pytest.fixture(scope="module")
def several(sample: Any, loratrack_run: Any) -> Any:
    for name, count in (("train", 160), ("validation", 60), ("test", 60)):
        write_rows(sample.folder / f"several_{name}.jsonl", count, seed=count + len(name))
    config = json.loads(sample.config.read_text("utf-8"))
    config["exp_id"] = "several"
    config["data"] |= {
        "raw_data_path": "several_train.jsonl",
        "validation_path": "several_validation.jsonl",
        "test_path": "several_test.jsonl",
        "label_subset": {"topics": list(TOPICS), "risk": list(RISKS)},
        "multi_label": ["topics"],
    }
    config["model"]["pooling"] = "mean"
    config["train"] |= {"class_weight": {"topics": "balanced"}, "lr": 0.005, "epochs": 10}
    file = sample.folder / "several.yaml"
    file.write_text(json.dumps(config), "utf-8")
    done = loratrack_run(file)
    assert done.exit_code == 0, done.output + done.errors
    return done


def rows_of(sample: Any, name: str) -> tuple[list[str], np.ndarray[Any, Any]]:
    """The texts of a file, and a column of 0 and 1 for each topic."""
    lines = (sample.folder / f"several_{name}.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    truth = np.array([[topic in row["topics"] for topic in TOPICS] for row in rows], dtype=int)
    return [row["text"] for row in rows], truth


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's, with transformers 5
def test_plain_libraries_find_the_same_threshold_and_scores(several: Any, sample: Any) -> None:
    base = AutoModel.from_pretrained(sample.base, add_pooling_layer=False)
    plain = PeftModel.from_pretrained(base, several.artifacts / "lora_adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(sample.base)
    heads = load_file(several.artifacts / "heads.safetensors")

    def probabilities(texts: list[str]) -> np.ndarray[Any, Any]:
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        mask = inputs["attention_mask"][:, :, None]
        with torch.inference_mode():
            states = (plain(**inputs).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
        logits = states @ heads["topics.weight"].T + heads["topics.bias"]
        return np.asarray(torch.sigmoid(logits))

    thresholds = json.loads((several.artifacts / "thresholds.json").read_text("utf-8"))
    assert list(thresholds) == ["topics"]
    texts, truth = rows_of(sample, "validation")
    found = probabilities(texts)
    tried = {number / 100: f1_score(truth, found >= number / 100, average="macro") for number in range(5, 96)}
    metrics = several.run.data.metrics
    assert tried[thresholds["topics"]] == pytest.approx(max(tried.values()))
    assert metrics["best_topics_f1"] == pytest.approx(max(tried.values()))

    texts, truth = rows_of(sample, "test")
    told = probabilities(texts) >= thresholds["topics"]
    assert metrics["test_topics_f1"] == pytest.approx(f1_score(truth, told, average="macro"))
    assert metrics["test_topics_f1_micro"] == pytest.approx(f1_score(truth, told, average="micro"))
    assert metrics["test_topics_accuracy"] == pytest.approx(accuracy_score(truth, told))
    assert metrics["test_topics_f1"] > 0.6
    mean = (metrics["test_topics_f1"] + metrics["test_risk_f1"]) / 2
    assert metrics["test_avg_f1"] == pytest.approx(mean)


def test_a_run_leaves_scores_of_each_label(several: Any, sample: Any) -> None:
    plots = {path.name for path in (several.artifacts / "plots").iterdir()}
    assert plots == {"loss.png", "risk.png", "topics.png", "confusion_risk.png", "label_scores_topics.png"}
    with open(several.artifacts / "class_scores.csv", encoding="utf-8", newline="") as file:
        rows = {row["label"]: row for row in csv.DictReader(file) if row["task"] == "topics"}
    counts = dict(zip(TOPICS, rows_of(sample, "test")[1].sum(axis=0), strict=True))
    assert {label: int(row["rows"]) for label, row in rows.items()} == counts
    assert "class weights of topics: sport " in (several.artifacts / "notices.txt").read_text("utf-8")


def test_answers_are_lists_of_labels(several: Any, sample: Any) -> None:
    texts = rows_of(sample, "test")[0][:20]
    predictions = Classifier(several.artifacts)(texts)
    threshold = json.loads((several.artifacts / "thresholds.json").read_text("utf-8"))["topics"]
    for row in predictions:
        answer = row["topics"]
        assert list(answer.probabilities) == list(TOPICS)
        assert answer.labels == tuple(
            label for label, probability in answer.probabilities.items() if probability >= threshold
        )
        assert answer.label == ";".join(answer.labels)
        each = [p if label in answer.labels else 1 - p for label, p in answer.probabilities.items()]
        assert answer.probability == pytest.approx(np.prod(each), rel=1e-4)
        assert row["risk"].labels == ()
    assert len({row["topics"].labels for row in predictions}) > 2

    served = mlflow.pyfunc.load_model(str(several.artifacts / "pyfunc"))
    outputs = json.loads(served.metadata.signature.outputs.to_json())
    assert outputs[0] == {"type": "array", "items": {"type": "string"}, "name": "topics", "required": True}
    answers = served.predict(pd.DataFrame({"text": texts}))
    assert answers["topics"].tolist() == [list(row["topics"].labels) for row in predictions]
    assert answers["risk"].tolist() == [row["risk"].label for row in predictions]
    sent = io.StringIO()
    scoring_server.predictions_to_json(answers, sent)
    first = json.loads(sent.getvalue())["predictions"][0]
    assert first["topics"] == list(predictions[0]["topics"].labels)
    assert len(first["topics_probability"]) == len(first["topics"])


def test_a_file_of_answers_can_be_read_as_data(
    several: Any, sample: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(sample.folder / "several_test.jsonl")
    command = ["predict", "--model", f"runs:/{several.run_id}", "--file", source, "--out"]
    for name in ("out.csv", "out.jsonl"):
        assert main([*command, str(tmp_path / name)]) == 0
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    lists = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [row["topics"] for row in cells] == [";".join(row["topics"]) for row in lists]
    for cell, row in zip(cells, lists, strict=True):
        numbers = [float(part) for part in cell["topics_probability"].split(";") if part]
        assert numbers == row["topics_probability"]
        assert len(numbers) == len(row["topics"])
    capsys.readouterr()
    both, none = (next(row for row in lists if row["topics"] == told) for told in (["sport", "law"], []))
    texts = ["--text", both["text"], "--text", none["text"]]
    assert main(["predict", "--model", f"runs:/{several.run_id}", *texts]) == 0
    sport, law = both["topics_probability"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"  topics: sport ({sport:.3f}), law ({law:.3f})  risk: ")
    assert lines[3].startswith("  topics: none  risk: ")


def test_it_is_reproduced_and_promoted(several: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", several.run_id, "--check"]) == 0
    output = capsys.readouterr().out
    assert "environment: no differences\n" in output
    assert "every metric of every epoch is equal\n" in output
    assert main(["promote", f"tiny/{several.version}"]) == 0


def test_a_changed_threshold_is_another_model(several: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(several.artifacts, tmp_path / "copy"))
    (folder / "thresholds.json").write_text('{"topics": 0.01}')
    with pytest.raises(UserError, match=r"thresholds\.json: changed since the model was saved"):
        Classifier(folder)
