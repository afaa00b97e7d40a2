"""A run from its config to a registered model, and what can be had of it afterwards."""

from __future__ import annotations

import csv
import json
import re
import statistics
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from loratrack.config import load
from loratrack.data import encode_texts
from loratrack.serving.classifier import Classifier

MEASURES = ("accuracy", "f1")
THREE = {"channel": ["web", "shop", "007"]}

RELOAD = """
import json, sys
from pathlib import Path
import mlflow, pandas, torch
from loratrack.model import probe
from loratrack.places import PROBE
from loratrack.serving.classifier import Classifier
told = {}
for folder in sys.argv[2:]:
    kept = probe.load(Path(folder) / PROBE)
    logits = Classifier(Path(folder)).logits(kept)
    told[folder] = [len(kept.offsets) - 1, logits.shape[1], torch.equal(logits, kept.logits)]
served = mlflow.pyfunc.load_model(sys.argv[1])
texts = [row["text"] for row in map(json.loads, sys.stdin)]
print(json.dumps([told, served.predict(pandas.DataFrame({"text": texts})).to_dict("list")]))
"""


@pytest.fixture(scope="module")
def dual(loratrack_run: Any, sample: Any) -> Any:
    return loratrack_run(sample.config)


@pytest.fixture(scope="module")
def again(loratrack_run: Any, dual: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run that the frozen copy alone gives, in a folder far from all others."""
    file = tmp_path_factory.mktemp("elsewhere") / "config_copy.yaml"
    file.write_bytes((dual.artifacts / "config_copy.yaml").read_bytes())
    return loratrack_run(file)


@pytest.fixture(scope="module")
def single(loratrack_run: Any, written: Any) -> Any:
    data = {"label_subset": ["shop", "007", "web"], "label_columns": {"label": "channel"}, "test_path": None}
    config = written("single", task_type="single_cls", data=data)
    return loratrack_run(
        config, "train.precision=bf16", "train.epochs=1", "train.layout=auto", "train.lr=auto"
    )


@pytest.fixture(scope="module")
def three(loratrack_run: Any, written: Any) -> Any:
    """One key more in `label_subset`, and the word for any number of labels."""
    config = written("three", task_type="multi_cls", data={"label_subset": THREE})
    return loratrack_run(
        config, "train.epochs=1", "register=false", "train.layout=packed", "train.eval_steps=3"
    )


@pytest.fixture(scope="module")
def full(loratrack_run: Any, written: Any) -> Any:
    config = written("full", model={"use_lora": False}, train={"lr": 1e-3, "precision": "bf16"})
    return loratrack_run(config, "train.epochs=1")


@pytest.fixture(scope="module")
def reloaded(dual: Any, single: Any, three: Any, full: Any, sample: Any, tmp_path_factory: Any) -> Any:
    """What a fresh process far away makes of the saved models, and of the champion for the test rows."""
    MlflowClient().set_registered_model_alias("tiny", "champion", str(dual.version))
    folders = [str(process.artifacts) for process in (dual, single, three, full)]
    lines = "".join(json.dumps(row) + "\n" for row in rows_to_test(sample))
    process = subprocess.run(
        [sys.executable, "-c", RELOAD, "models:/tiny@champion", *folders],
        cwd=tmp_path_factory.mktemp("far"),
        input=lines,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    told, answers = json.loads(process.stdout)
    return list(told.values()), answers


def rows_to_test(sample: Any) -> list[dict[str, str]]:
    with open(sample.folder / "test.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_ends_well_and_says_what_to_do_next(dual: Any) -> None:
    assert dual.exit_code == 0, dual.output + dual.errors
    assert "Warning" not in dual.errors
    assert dual.run.info.status == "FINISHED"
    assert dual.run.info.run_name == "dual"
    tail = dual.output.splitlines()[-8:]
    metrics = dual.run.data.metrics
    assert tail[0] == f"best epoch   {metrics['best_epoch']:.0f} of 2 (by avg_f1)"
    pairs = {
        name: f"{metrics[f'best_{name}']:.3f} against {metrics[f'baseline_{name}']:.3f}"
        for name in ("avg_f1", "risk_f1", "adopt_f1")
    }
    assert tail[1] == (
        f"baseline     worse than TF-IDF: avg_f1 {pairs['avg_f1']}; worse: risk_f1 {pairs['risk_f1']},"
        f" adopt_f1 {pairs['adopt_f1']}"
    )
    assert tail[2:] == [
        f"run          {dual.run_id}",
        f"artifacts    {dual.artifacts}",
        f"model        models:/tiny/{dual.version}",
        f"view         http://127.0.0.1:5000/#/experiments/{dual.run.info.experiment_id}/runs/{dual.run_id}"
        "?workflowType=machine_learning",
        "             loratrack ui serves it",
        f'predict      loratrack predict --model models:/tiny/{dual.version} --text "…"',
    ]


def test_a_run_leaves_every_artifact(dual: Any) -> None:
    names = {
        path.relative_to(dual.artifacts).as_posix() for path in dual.artifacts.rglob("*") if path.is_file()
    }
    own = {name for name in names if not name.startswith("pyfunc/")}
    assert own == {
        "lora_adapter/adapter_config.json",
        "lora_adapter/adapter_model.safetensors",
        "heads.safetensors",
        "config_copy.yaml",
        "label_map.json",
        "metrics.json",
        "class_scores.csv",
        "answers.json",
        "env_info.json",
        "data_report.json",
        "bundle.json",
        "probe.safetensors",
        "notices.txt",
        "plots/loss.png",
        "plots/risk.png",
        "plots/adopt.png",
        "plots/confusion_risk.png",
        "plots/confusion_adopt.png",
    }
    assert "pyfunc/MLmodel" in names
    assert not (dual.artifacts / "config_copy.yaml").stat().st_mode & 0o222


def test_a_run_leaves_every_tag(dual: Any) -> None:
    tags = dual.run.data.tags
    assert tags["exp_id"] == "dual"
    assert tags["task_type"] == "double_cls"
    assert tags["project"] == "tiny"
    for name in ("config_sha256", "data_sha256", "base_sha256"):
        assert len(tags[name]) == 64, name
    for name in ("device", "git_commit", "loratrack_version"):
        assert tags[name], name


def test_a_run_says_what_it_is_in_the_list_and_on_its_page(dual: Any, single: Any) -> None:
    experiment = MlflowClient().get_experiment(dual.run.info.experiment_id)
    assert experiment.name == "tiny"
    assert experiment.tags["mlflow.note.content"] == (
        "Trainings; loratrack compare --filter experiment=tiny sets them side by side."
    )
    assert single.run.info.run_name == "single precision=bf16 epochs=1 layout=auto lr=auto"
    tags = single.run.data.tags
    assert tags["set"] == "train.precision=bf16; train.epochs=1; train.layout=auto; train.lr=auto"
    assert tags["mlflow.note.content"] == (
        f"LoRA of rank 4 on {single.run.data.params['model.arch']}: label, learned from train.csv."
    )
    assert "set" not in dual.run.data.tags
    assert [name for name in tags if name.startswith("loratrack.")] == ["loratrack.process"]


def test_a_child_names_its_parent(three: Any) -> None:
    assert three.run.data.tags["base_config"].endswith("dual.yaml")


def test_evaluations_within_an_epoch_have_the_step_of_the_training(three: Any) -> None:
    client, scores = MlflowClient(), three.run.data.metrics
    told = [each.step for each in client.get_metric_history(three.run_id, "eval/avg_f1")]
    assert len(told) > 1
    assert told[:-1] == [3 * number for number in range(1, len(told))]
    assert scores["best_step"] in told
    best = json.loads((three.artifacts / "metrics.json").read_text("utf-8"))["best"]
    assert (best["epoch"], best["step"]) == (1, scores["best_step"])
    assert f"best epoch   1, at step {scores['best_step']:.0f}, of 1 (by avg_f1)" in three.output
    assert [each.step for each in client.get_metric_history(three.run_id, "avg_f1")] == [1]


def test_a_run_leaves_every_param(dual: Any, sample: Any) -> None:
    params = dual.run.data.params
    assert params["model.lora.rank"] == "4"
    assert params["train.lr"] == "0.02"
    assert params["train.loss_weight"] == "None"
    assert params["data.raw_data_path"] == str(sample.folder / "train.csv")
    assert json.loads(params["data.label_subset.risk"]) == ["低风险", "中风险", "高风险"]
    assert int(params["trainable_parameters"]) < int(params["total_parameters"])


def test_a_run_leaves_every_metric(dual: Any) -> None:
    scored = {f"{part}_{measure}" for part in ("risk", "adopt", "avg") for measure in MEASURES}
    each_epoch = scored | {
        "train/loss",
        "train/loss_risk",
        "train/loss_adopt",
        "validation/loss",
    }
    times = {"system/epoch_seconds", "system/examples_per_second"}
    once = {f"{kind}_{name}" for kind in ("best", "test") for name in scored} | {"best_epoch"}
    found = {name for name in dual.run.data.metrics if not name.startswith("system/")}
    compared = {f"{kind}{name}" for kind in ("majority_", "baseline_", "baseline_test_") for name in scored}
    assert found == each_epoch | once | compared
    assert times <= set(dual.run.data.metrics)
    client = MlflowClient()
    for name in each_epoch | times:
        assert steps(client, dual, name) == [1, 2], name
    assert {name: steps(client, dual, name) for name in once} == {name: [2] for name in once}
    assert {name: steps(client, dual, name) for name in compared} == {name: [0] for name in compared}


def test_the_scores_of_the_labels_are_those_of_the_test_set(dual: Any, sample: Any) -> None:
    with open(dual.artifacts / "class_scores.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    truth = Counter((task, row[task]) for row in rows_to_test(sample) for task in ("risk", "adopt"))
    assert {(row["task"], row["label"]): int(row["rows"]) for row in rows if row["rows"] != "0"} == truth
    for task in ("risk", "adopt"):
        mean = statistics.mean(float(row["f1"]) for row in rows if row["task"] == task and row["rows"] != "0")
        assert mean == pytest.approx(dual.run.data.metrics[f"test_{task}_f1"], abs=1e-5)


def steps(client: MlflowClient, done: Any, metric: str) -> list[int]:
    return [found.step for found in client.get_metric_history(done.run_id, metric)]


def test_the_metrics_file_says_what_mlflow_says(dual: Any) -> None:
    content = json.loads((dual.artifacts / "metrics.json").read_text("utf-8"))
    metrics = dual.run.data.metrics
    assert list(content) == ["epoch_1", "epoch_2", "best", "test"]
    assert content["best"]["epoch"] == metrics["best_epoch"]
    assert content["best"]["avg_f1"] == metrics["best_avg_f1"]
    assert content["epoch_2"]["train/loss"] == metrics["train/loss"]
    assert content["test"] == {name: value for name, value in metrics.items() if name.startswith("test_")}


def test_the_data_is_a_dataset_of_the_run(dual: Any) -> None:
    found = {
        tag.value: (item.dataset.name, json.loads(item.dataset.profile)["num_rows"])
        for item in dual.run.inputs.dataset_inputs
        for tag in item.tags
        if tag.key == "mlflow.data.context"
    }
    assert found == {"training": ("train.csv", 144), "test": ("test.csv", 40)}


def test_a_version_tells_its_run_and_its_scores(dual: Any) -> None:
    version = MlflowClient().get_model_version("tiny", str(dual.version))
    assert version.run_id == dual.run_id
    assert version.tags["exp_id"] == "dual"
    assert float(version.tags["best_avg_f1"]) == pytest.approx(dual.scores["best_avg_f1"], abs=1e-5)


def test_a_single_task_has_short_names_and_no_test(single: Any) -> None:
    assert single.exit_code == 0, single.output + single.errors
    names = set(single.scores)
    assert {"accuracy", "f1", "best_accuracy", "best_f1", "train/loss_label"} <= names
    assert not {name for name in names if name.startswith(("avg_", "test_"))}
    labels = json.loads((single.artifacts / "label_map.json").read_text("utf-8"))["label"]
    assert list(labels) == ["shop", "007", "web"]


def test_a_frozen_copy_holds_what_was_measured_in_place_of_auto(single: Any) -> None:
    told = re.search(r"^layout: (\w+) \(", single.output, re.MULTILINE)
    assert told, single.output
    kept = load(single.artifacts / "config_copy.yaml").train
    assert (kept.layout, kept.lr) == (told[1], 2e-3)
    assert "\ntrain.lr: auto is 0.002 for LoRA on this base\n" in single.output
    assert single.run.data.params["train.lr"] == "0.002"


def test_a_third_label_is_a_key_more(three: Any) -> None:
    assert three.exit_code == 0, three.output + three.errors
    assert {"risk_f1", "adopt_f1", "channel_f1", "avg_f1", "train/loss_channel"} <= set(three.scores)
    assert f"model        runs:/{three.run_id}" in three.output


def test_full_fine_tuning_leaves_the_whole_network(full: Any) -> None:
    assert full.exit_code == 0, full.output + full.errors
    names = {path.name for path in full.artifacts.iterdir()}
    assert "lora_adapter" not in names
    assert {path.name for path in (full.artifacts / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
    }


def test_a_frozen_copy_alone_gives_the_run_again_to_the_last_bit(dual: Any, again: Any) -> None:
    assert again.exit_code == 0, again.output + again.errors
    assert again.scores == dual.scores
    assert again.run.data.tags["config_sha256"] == dual.run.data.tags["config_sha256"]
    for name in ("heads.safetensors", "lora_adapter/adapter_model.safetensors", "config_copy.yaml"):
        assert (again.artifacts / name).read_bytes() == (dual.artifacts / name).read_bytes(), name


@pytest.mark.slow
def test_a_fresh_process_gives_the_logits_of_the_end_of_the_training(reloaded: Any) -> None:
    told, _ = reloaded
    assert told == [[16, 5, True], [16, 3, True], [16, 8, True], [16, 5, True]]


def test_a_fresh_process_has_the_champions_test_scores(reloaded: Any, dual: Any, sample: Any) -> None:
    _, answers = reloaded
    rows = rows_to_test(sample)
    for task in ("risk", "adopt"):
        right = sum(row[task] == label for row, label in zip(rows, answers[task], strict=True))
        assert right / len(rows) == dual.scores[f"test_{task}_accuracy"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's, with transformers 5
def test_plain_peft_loads_the_adapter_and_gives_the_same(dual: Any, sample: Any) -> None:
    base = AutoModel.from_pretrained(sample.base, add_pooling_layer=False)
    plain = PeftModel.from_pretrained(base, dual.artifacts / "lora_adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(sample.base)
    texts = [row["text"] for row in rows_to_test(sample)]
    with torch.inference_mode():
        states = plain(**tokenizer(texts, padding=True, return_tensors="pt")).last_hidden_state[:, 0]
    heads = load_file(dual.artifacts / "heads.safetensors")
    logits = [states @ heads[f"{task}.weight"].T + heads[f"{task}.bias"] for task in ("risk", "adopt")]
    ours = Classifier(dual.artifacts)
    expected = ours.logits(encode_texts([texts], ours._tokenizer, 32))
    assert torch.allclose(torch.cat(logits, dim=1), expected, atol=1e-5)
    assert expected.std() > 0.01
