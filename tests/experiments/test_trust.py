"""A model that needs code of its base: who loads it says so, at every door, or no code runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from tests.bundles import CodedBase, change_json

import loratrack as lt
from loratrack.bases.trust import VARIABLE
from loratrack.cli import main


@pytest.fixture
def trained(tiny_project: Path, coded_base: CodedBase) -> lt.Training:
    settings = (f"model.arch={coded_base.folder}", "model.trust_remote_code=true", "train.epochs=1")
    result = lt.train(lt.load("projects/tiny/dual.yaml", "exp_id=coded", *settings))
    assert coded_base.has_run()
    return result


def sha256_of(result: lt.Training) -> str:
    assert result.folder is not None
    return str(json.loads((result.folder / "bundle.json").read_text("utf-8"))["base"]["sha256"])


def doors(result: lt.Training) -> dict[str, Callable[[str | None], object]]:
    """All that loads the model, with what the one who loads trusts."""
    version = str(result.version)
    return {
        "Classifier": lambda sha256: lt.Classifier(result, trust_remote_code=sha256),
        "folder": lambda sha256: lt.Classifier(result.folder or "", trust_remote_code=sha256),
        "reproduce": lambda sha256: lt.reproduce(result.run_id, trust_remote_code=sha256),
        "promote": lambda sha256: lt.promote(version, to="challenger", trust_remote_code=sha256),
        "rollback": lambda sha256: lt.rollback(
            "tiny", to=version.partition("/")[2], trust_remote_code=sha256
        ),
    }


def test_no_door_runs_the_code_of_a_base_that_the_loader_does_not_name(
    trained: lt.Training, coded_base: CodedBase
) -> None:
    own = sha256_of(trained)
    for name, load in doors(trained).items():
        for said in (None, "0" * 64):
            with pytest.raises(lt.UserError, match=f"give --trust-remote-code {own} "):
                load(said)
            assert not coded_base.has_run(), name
        load(own)
        assert coded_base.has_run(), name


def test_mlflow_reads_the_environment_variable(
    trained: lt.Training, coded_base: CodedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(lt.UserError, match=f"for MLflow's server {VARIABLE}={sha256_of(trained)}"):
        mlflow.pyfunc.load_model(trained.model)
    assert not coded_base.has_run()
    monkeypatch.setenv(VARIABLE, f"{'0' * 64}, {sha256_of(trained)}")
    assert len(mlflow.pyfunc.load_model(trained.model).predict([{"text": "calm take"}])) == 1


def test_the_option_of_predict(
    trained: lt.Training, coded_base: CodedBase, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", "--model", trained.model, "--text", "calm take"]
    assert main(words) == 2
    assert f"--trust-remote-code {sha256_of(trained)}" in capsys.readouterr().err
    assert not coded_base.has_run()
    assert main([*words, "--trust-remote-code", sha256_of(trained)]) == 0
    assert main([*words, "--trust-remote-code", "true"]) == 2
    assert "--trust-remote-code: must be the sha256 of a base, 64 hex digits" in capsys.readouterr().err


def test_code_that_changed_since_it_was_trusted_is_not_run(
    trained: lt.Training, coded_base: CodedBase
) -> None:
    trusted = sha256_of(trained)
    with (coded_base.folder / "words.py").open("a") as code:
        code.write("# changed\n")
    for load in doors(trained).values():
        with pytest.raises(lt.UserError):
            load(trusted)
    assert not coded_base.has_run()


def test_a_tokenizer_alone_that_brings_code_is_a_base_that_brings_code(
    tiny_project: Path, coded_base: CodedBase
) -> None:
    change_json(coded_base.folder / "config.json", model_type="bert", auto_map={})
    settings = (f"model.arch={coded_base.folder}", "model.trust_remote_code=true", "train.epochs=1")
    result = lt.train(lt.load("projects/tiny/dual.yaml", "exp_id=words", "register=false", *settings))
    assert coded_base.has_run()
    with pytest.raises(lt.UserError, match=f"give --trust-remote-code {sha256_of(result)} "):
        lt.Classifier(result)
    with (coded_base.folder / "words.py").open("a") as code:
        code.write("# changed\n")
    with pytest.raises(lt.UserError, match=r"brings its own code|was trained on another base"):
        lt.Classifier(result, trust_remote_code=sha256_of(result))
    assert not coded_base.has_run()
