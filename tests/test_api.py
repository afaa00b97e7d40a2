"""`import loratrack as lt`: what the command line can do, a program can do, with objects."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import loratrack as lt
from loratrack import api


@pytest.fixture(scope="module")
def trained(tiny_project: Path) -> lt.Training:
    return lt.train(lt.load("projects/tiny/dual.yaml", "train.epochs=1", "exp_id=by_hand"))


def test_the_door_is_complete() -> None:
    assert sorted(lt.__all__) == sorted(set(lt.__all__))
    assert all(hasattr(lt, name) for name in lt.__all__)
    assert set(lt.__all__) <= set(dir(lt))
    assert lt.__all__ == api.__all__
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        lt.trian  # noqa: B018


def test_docs_name_all_of_it() -> None:
    page = (Path(__file__).parents[1] / "docs" / "python.md").read_text("utf-8")
    assert [name for name in lt.__all__ if name not in page] == []


def test_no_room_hides_a_name_of_the_door() -> None:
    """A sub-package that is imported becomes an attribute of `loratrack`, over any function of its name."""
    source = Path(lt.__file__).parent
    assert set(lt.__all__) & {path.stem for path in source.iterdir()} == set()


def test_importing_it_opens_neither_torch_nor_mlflow() -> None:
    program = "import sys, loratrack; print([m for m in ('torch', 'mlflow', 'pydantic') if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_a_question_about_runs_opens_no_torch(tiny_project: Path, trained: lt.Training) -> None:
    program = "import sys, loratrack as lt; print(len(lt.runs('exp_id=by_hand')), 'torch' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "1 False"


def test_train_gives_what_mlflow_has(tiny_project: Path, trained: lt.Training) -> None:
    run = MlflowClient().get_run(trained.run_id)
    assert (trained.status, run.info.status) == ("FINISHED", "FINISHED")
    assert trained.version == "tiny/1"
    assert trained.model == "models:/tiny/1"
    assert trained.metrics["best_avg_f1"] == run.data.metrics["best_avg_f1"]
    assert len(trained.epochs) == trained.best_epoch == 1
    assert trained.folder is not None
    assert (trained.folder / "bundle.json").is_file()
    assert any(line.startswith("LoRA on") for line in trained.notices)
    assert run.data.tags["project"] == "tiny"


def test_a_word_for_resume_that_does_not_exist_begins_no_run(tiny_project: Path) -> None:
    before = len(lt.runs())
    with pytest.raises(lt.UserError, match=r"^resume: must be 'auto' or 'never', got True; a run"):
        lt.train("projects/tiny/dual.yaml", resume=True)  # type: ignore[arg-type]
    assert len(lt.runs()) == before


def test_nothing_is_printed_and_lines_hold_no_terminal_codes(
    tiny_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = lt.load("projects/tiny/dual.yaml", "train.epochs=1", "register=false", "exp_id=quiet")
    lt.train(config)
    assert capsys.readouterr().out == ""
    lt.train(config, watcher=lt.Lines())
    out = capsys.readouterr().out
    assert "epoch 1/1  loss " in out
    assert "\x1b" not in out


def test_a_run_without_a_version_keeps_its_project(tiny_project: Path) -> None:
    config = lt.load("projects/tiny/dual.yaml", "train.epochs=1", "register=false", "exp_id=unversioned")
    result = lt.train(config)
    assert (result.version, result.model) == (None, f"runs:/{result.run_id}")
    assert [run.summary.exp_id for run in lt.runs("project=tiny and exp_id=unversioned")] == ["unversioned"]


def test_runs_are_a_sequence_and_a_data_frame(tiny_project: Path, trained: lt.Training) -> None:
    runs = lt.runs("exp_id=by_hand", sort_by="avg_f1")
    assert isinstance(runs[0].best("avg_f1"), float)
    frame = runs.to_pandas()
    assert list(frame["run_id"]) == [trained.run_id]
    assert frame["metrics.avg_f1"][0] == trained.metrics["best_avg_f1"]
    assert frame["params.model.lora.rank"][0] == "4"
    assert "<table" in runs._repr_html_()
    assert len(runs[:0]) == 0


def test_a_typo_is_a_user_error_with_all_that_is_wrong(tiny_project: Path) -> None:
    with pytest.raises(lt.UserError, match=r"2 invalid settings") as error:
        lt.load("projects/tiny/dual.yaml", "train.epohs=1", "model.lora.rank=0")
    assert "did you mean train.epochs?" in str(error.value)
    with pytest.raises(lt.UserError, match=r"has no `sweep` section"):
        lt.sweep("projects/tiny/dual.yaml")


def test_promotion_goes_through_the_gate_and_back(tiny_project: Path, trained: lt.Training) -> None:
    second = lt.train(lt.load("projects/tiny/dual.yaml", "train.epochs=1", "exp_id=second"))
    assert second.version is not None
    first = lt.promote("tiny/1", if_="avg_f1>=0")
    assert (first.before, first.after) == (None, 1)
    assert first.findings[-1] == "passed: the reloaded model reproduces the training logits"
    assert lt.promote(second.version, why="newer").before == 1
    assert lt.rollback("tiny", why="worse").after == 1
    assert [(event.kind, event.after) for event in lt.history("tiny")] == [
        ("promote", 1),
        ("promote", int(second.version.partition("/")[2])),
        ("rollback", 1),
    ]


def test_a_damaged_version_is_not_promoted(tiny_project: Path) -> None:
    damaged = lt.train(lt.load("projects/tiny/dual.yaml", "train.epochs=1", "exp_id=damaged"))
    assert damaged.version is not None
    assert damaged.folder is not None
    for file in damaged.folder.rglob("heads.safetensors"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    with pytest.raises(lt.UserError, match="is not fit to serve"):
        lt.promote(damaged.version)


def test_a_run_is_reproduced_to_the_bit(tiny_project: Path, trained: lt.Training) -> None:
    again = lt.reproduce("by_hand", check=True)
    assert again.reproduces == trained.run_id
    assert again.check is not None
    assert (again.check.is_equal, again.check.is_exact) == (True, True)


def test_a_sweep_gives_its_best_trial(tiny_project: Path) -> None:
    settings = json.loads(Path("projects/tiny/dual.yaml").read_text("utf-8"))
    space = {"model.lora.rank": {"choice": [2, 4]}}
    settings |= {"sweep": {"name": "ranks", "trials": 2, "metric": "avg_f1", "space": space}}
    settings["train"]["epochs"] = 1
    Path("projects/tiny/ranks.yaml").write_text(json.dumps(settings), "utf-8")
    result = lt.sweep("projects/tiny/ranks.yaml")
    assert (result.status, result.is_concluded, result.num_done) == ("FINISHED", True, 2)
    assert set(result.best_settings) == {"model.lora.rank"}
    assert result.version is not None
    assert result.version.startswith("tiny/")
    assert result.metrics["best_avg_f1"] >= 0
    with pytest.raises(lt.UserError, match=r"start it with loratrack.sweep"):
        lt.train("projects/tiny/ranks.yaml")


QUESTIONS = {
    "数据": ["数据清洗流程是什么？", "数据怎么入库？", "数据仓库在哪里？", "数据质量怎么看？"],
    "模型": ["模型怎么训练？", "模型如何上线？", "模型的指标是什么？", "模型怎么回滚？"],
}


def test_the_question_classifier(tiny_project: Path, sample: Any) -> None:
    """The fifth seed's example as README has it: train, classify one question, classify a batch."""
    rows = [f"{question},{label}" for label, questions in QUESTIONS.items() for question in questions * 6]
    project = tiny_project / "projects" / "questions"
    project.mkdir()
    (project / "train.csv").write_text("\n".join(["text,label", *rows]), "utf-8")
    shutil.copytree(sample.base, project / "base")
    characters = sorted({character for row in rows for character in row} - {","})
    vocabulary = (project / "base" / "vocab.txt").read_text("utf-8").splitlines()
    room = len(vocabulary) - 5  # the tiny base has as many embeddings as its own words
    (project / "base" / "vocab.txt").write_text("\n".join([*vocabulary[:5], *characters[:room]]), "utf-8")
    (project / "questions.yaml").write_text(
        "exp_id: question_classifier\n"
        "data: {raw_data_path: train.csv, max_len: 32, validation_share: 0.25, split_seed: 42}\n"
        "model:\n"
        "  arch: ./base\n"
        "  lora: {rank: 8, alpha: 16, dropout: 0.1, target_modules: [query, key, value, dense]}\n"
        "train: {epochs: 6, lr: 0.02, batch_size: 8, precision: fp32, layout: padded}\n",
        "utf-8",
    )
    result = lt.train("projects/questions/questions.yaml")
    classifier = lt.Classifier(result)
    answer = classifier.classify("数据清洗流程是什么？")
    assert answer.label == "数据"
    assert 0.5 < answer.probability <= 1
    batch = classifier(["模型怎么训练？", "数据怎么入库？"])
    assert [row["label"].label for row in batch] == ["模型", "数据"]
    parameters = classifier.parameters()
    params = MlflowClient().get_run(result.run_id).data.params
    assert parameters.num_trainable == int(params["trainable_parameters"])
    names = {part for parameter in parameters.trainable for part in parameter.name.split(".")}
    assert {"lora_A", "lora_B", "heads"} <= names
    assert f"trainable: {parameters.num_trainable:,} of " in str(parameters)
