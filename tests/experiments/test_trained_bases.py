"""`model.arch: models:/NAME@alias`: a trained model as the base of the next run, checked with PEFT itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from tests.bundles import CodedBase

import loratrack as lt
from loratrack.bases import base as bases
from loratrack.bases.base import Base
from loratrack.disk import sha256_of
from loratrack.model.merge import merged_base
from loratrack.store.client import connect

pytestmark = pytest.mark.slow


def train(*settings: str) -> lt.Training:
    return lt.train(lt.load("projects/tiny/dual.yaml", "train.epochs=1", *settings))


@pytest.fixture(scope="module")
def first(tiny_project: Path) -> lt.Training:
    result = train("exp_id=first")
    assert result.version == "tiny/1"
    lt.promote("tiny/1")
    return result


def states(network: Any) -> torch.Tensor:
    ids = torch.tensor([[2, 5, 6, 9, 3]])
    with torch.inference_mode():
        hidden: torch.Tensor = network(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return hidden


def check_merged(run: lt.Training, base: Base, sample: Any) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    assert run.folder is not None
    plain = AutoModel.from_pretrained(sample.base, add_pooling_layer=False).eval()
    before = states(plain)
    with_adapter = PeftModel.from_pretrained(plain, str(run.folder / "lora_adapter")).eval()
    merged = AutoModel.from_pretrained(base.folder, add_pooling_layer=False).eval()
    assert (states(merged) - states(with_adapter)).abs().max() < 1e-5
    assert (states(merged) - before).abs().max() > 1e-3  # the adapter does something


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # asked by PEFT
def test_an_adapter_merged_into_its_base_is_what_peft_makes_of_them(first: lt.Training, sample: Any) -> None:
    base = bases.resolve("models:/tiny@champion")
    assert (base.name, base.origin) == ("models:/tiny/1", "run")
    assert base.origin_note.startswith("its adapter merged into ")
    check_merged(first, base, sample)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # asked by PEFT
def test_so_is_one_of_another_kind(first: lt.Training, sample: Any) -> None:
    lora = "model.lora={rank: 4, use_dora: true, use_rslora: true, init: orthogonal, layers: [1]}"
    run = train("exp_id=dora", lora, "train.precision=bf16", "register=false")
    check_merged(run, bases.resolve(f"runs:/{run.run_id}"), sample)


def test_the_next_run_pins_its_version_serves_and_is_reproduced(
    first: lt.Training, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    second = train("exp_id=second", "model.arch=models:/tiny@champion")
    assert any(line.startswith("base models:/tiny/1: its adapter merged into ") for line in second.notices)
    run = MlflowClient().get_run(second.run_id)
    assert run.data.params["model.arch"] == "models:/tiny/1"
    monkeypatch.setenv("LORATRACK_CACHE", str(tmp_path / "empty"))  # deleting the cache loses time alone
    rows = lt.Classifier(second)(["calm take", "loud leave"])
    assert {row["risk"].label for row in rows} <= {"低风险", "中风险", "高风险"}
    assert lt.promote(second.version or "").after == 2
    again = lt.reproduce("second", check=True)
    assert again.check is not None
    assert again.check.is_equal


def test_a_fully_trained_network_is_a_base_as_it_is(first: lt.Training) -> None:
    from safetensors.torch import load_file

    whole = train("exp_id=whole", "model.use_lora=false", "train.lr=1e-4")
    assert whole.folder is not None
    base = bases.resolve(f"runs:/{whole.run_id}")
    assert (base.name, base.origin_note) == (f"runs:/{whole.run_id}", "its whole network")
    saved = load_file(whole.folder / "model" / "model.safetensors")
    mine = load_file(base.folder / "model.safetensors")
    assert saved.keys() == mine.keys()
    assert all(torch.equal(saved[name], mine[name]) for name in saved)
    assert train("exp_id=after", f"model.arch=runs:/{whole.run_id}").status == "FINISHED"


def test_a_missing_version_is_one_message(first: lt.Training) -> None:
    with pytest.raises(lt.UserError, match="models:/tiny/99: no such version"):
        train("model.arch=models:/tiny/99")
    with pytest.raises(lt.UserError, match="did you mean 'tiny'"):
        train("model.arch=models:/tinny@champion")


def test_a_changed_adapter_is_refused(first: lt.Training) -> None:
    damaged = train("exp_id=damaged")
    uri = connect().get_model_version_download_uri(*str(damaged.version).split("/"))
    (file,) = Path(uri.removeprefix("file://")).rglob("bundle.json")
    content = json.loads(file.read_text("utf-8"))
    content["files"]["lora_adapter/adapter_config.json"] = "0" * 64
    file.write_text(json.dumps(content), "utf-8")
    with pytest.raises(lt.UserError, match="changed since the model was saved"):
        bases.resolve(f"models:/{damaged.version}")


def test_a_model_that_is_its_own_base_is_refused(first: lt.Training) -> None:
    loop = train("exp_id=loop")
    uri = connect().get_model_version_download_uri(*str(loop.version).split("/"))
    (file,) = Path(uri.removeprefix("file://")).rglob("bundle.json")
    content = json.loads(file.read_text("utf-8"))
    content["base"] |= {"name": f"models:/{loop.version}", "origin": "run"}
    file.write_text(json.dumps(content), "utf-8")
    with pytest.raises(lt.UserError, match="its base is the model itself"):
        bases.resolve(f"models:/{loop.version}")


def test_a_foreign_adapter_config_asks_for_nothing_but_names(first: lt.Training, tmp_path: Path) -> None:
    """A pattern that never ends, another method of PEFT, a rank of a billion: who seals may write it."""
    assert first.folder is not None
    folder = tmp_path / "model"
    shutil.copytree(first.folder / "pyfunc" / "data" / "artifacts", folder)
    merged = merged_base(folder, "the model", trust=False)
    file = folder / "lora_adapter" / "adapter_config.json"
    plain = json.loads(file.read_text("utf-8"))

    def sealed_with(**changes: Any) -> None:
        file.write_text(json.dumps({**plain, **changes}), "utf-8")
        manifest = json.loads((folder / "bundle.json").read_text("utf-8"))
        manifest["files"]["lora_adapter/adapter_config.json"] = sha256_of(file)
        (folder / "bundle.json").write_text(json.dumps(manifest), "utf-8")

    sealed_with(rank_pattern={"(([a-z.0-9])*)*!": 3}, r=10**9, use_dora=True, bias="all")
    again = merged_base(folder, "the model", trust=False)
    weights = [sha256_of(base.folder / "model.safetensors") for base in (merged, again)]
    assert again.folder != merged.folder
    assert weights[0] == weights[1]
    sealed_with(target_modules="(([a-z.0-9])*)*!")
    with pytest.raises(lt.UserError, match="target_modules must be a list of names, got str"):
        merged_base(folder, "the model", trust=False)


@pytest.mark.slow
@pytest.mark.parametrize("use_lora", [True, False])
def test_a_base_that_brings_code_keeps_it(first: lt.Training, coded_base: CodedBase, use_lora: bool) -> None:
    settings = ("model.trust_remote_code=true", f"model.use_lora={str(use_lora).lower()}", "register=false")
    trained = train("exp_id=coded", f"model.arch={coded_base.folder}", *settings)
    again = train("exp_id=coded_again", f"model.arch={trained.model}", *settings)
    assert again.status == "FINISHED"
    base = bases.resolve(trained.model, trust=True)
    assert {path.name for path in base.folder.glob("*.py")} == {"acme.py", "words.py"}
    coded_base.has_run()
    with pytest.raises(lt.UserError, match=r"was trained with code of its base; read the code of .*/coded"):
        train("exp_id=untrusted", f"model.arch={trained.model}", "register=false")
    with pytest.raises(lt.UserError, match=f"give --trust-remote-code {base.sha256} "):
        lt.Classifier(again)
    assert not coded_base.has_run()
    assert lt.Classifier(again, trust_remote_code=base.sha256).classify("calm take")


def test_an_untrusted_trained_base_runs_no_code_while_it_is_merged(
    first: lt.Training, coded_base: CodedBase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A model that claims the trusted sha256 for its base, which is a trained one with code."""
    settings = ("model.trust_remote_code=true", "register=false")
    trained = train("exp_id=below", f"model.arch={coded_base.folder}", *settings)
    above = train("exp_id=above", f"model.arch={trained.model}", *settings)
    assert above.folder is not None
    evil = Path(shutil.copytree(above.folder, tmp_path / "evil"))
    content = json.loads((evil / "bundle.json").read_text("utf-8"))
    content["base"]["sha256"] = "a" * 64
    (evil / "bundle.json").write_text(json.dumps(content), "utf-8")
    monkeypatch.setenv("LORATRACK_CACHE", str(tmp_path / "empty"))
    coded_base.has_run()
    with pytest.raises(lt.UserError, match="was trained with code of its base"):
        lt.Classifier(evil, trust_remote_code="a" * 64)
    assert not coded_base.has_run()
