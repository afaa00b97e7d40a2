"""A bundle in use: its answers, the texts it refuses, and the faults of files that a load finds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from loratrack.config import load
from loratrack.data import encode_texts
from loratrack.errors import DataError, UserError
from loratrack.model.bundle import MEMBER
from loratrack.serving.classifier import Classifier, Prediction, Predictions, check_reload
from loratrack.training import session
from loratrack.training.log import ListLog

TEXTS = ["calm take note", "loud leave", "mild the the the the take day", "客 户", "calm"]


@pytest.fixture(scope="module")
def classifier(untrained: Path) -> Classifier:
    return Classifier(untrained)


@pytest.fixture
def copy(untrained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untrained, tmp_path / "copy"))


def test_each_row_has_an_answer_for_each_task(classifier: Classifier) -> None:
    answers = classifier.answer({"text": TEXTS})
    assert [list(row) for row in answers] == [["risk", "adopt"]] * 5
    assert {row["risk"].label for row in answers} <= {"低风险", "中风险", "高风险"}
    assert all(1 / 3 <= row["risk"].probability <= 1 for row in answers)


def test_the_order_of_the_rows_is_the_order_of_the_answers(classifier: Classifier) -> None:
    together = classifier.answer({"text": TEXTS})
    alone = [classifier.answer({"text": [text]})[0] for text in TEXTS]
    assert [row["risk"].label for row in together] == [row["risk"].label for row in alone]
    assert len({row["risk"].probability for row in together}) == len(TEXTS)
    for row, single in zip(together, alone, strict=True):
        assert row["risk"].probability == pytest.approx(single["risk"].probability, abs=1e-6)


def test_no_rows_have_no_answers(classifier: Classifier) -> None:
    assert classifier.answer({"text": []}) == []


def test_a_text_longer_than_the_base_has_positions_is_cut(untrained: Path) -> None:
    classifier = Classifier(untrained)
    classifier.network.max_tokens = 6  # as of a model that was trained before this was looked at
    texts = ["calm take note the of day", "calm take note the loud leave loud"]
    first, second = classifier(texts)
    assert first == second


def test_a_model_that_reads_the_last_token_comes_back(sample: Any, tmp_path: Path) -> None:
    config = load(sample.config, ["model.pooling=last"])
    prepared = session.set_up(config, lambda text: None)
    member = session.enter(prepared, config, ListLog(), tmp_path)
    member.end_epoch({"avg_f1": 0.5, "validation/loss": 1.0, **dict.fromkeys(config.metric_names, 0.5)}, 1)
    outcome = session.conclude(prepared, member)
    session.write(prepared, member, outcome, tmp_path / "bundle")
    check_reload(tmp_path / "bundle", prepared.base.sha256, outcome.probe, outcome.probe.logits)
    classifier = Classifier(tmp_path / "bundle")
    one, other = classifier(["calm take note", "loud take note"])
    assert one["risk"].probability != other["risk"].probability


def test_threads_do_not_disturb_each_other(classifier: Classifier) -> None:
    alone = [classifier.answer({"text": [text] * 40})[0] for text in TEXTS]
    with ThreadPoolExecutor(8) as threads:
        asked = threads.map(lambda n: classifier.answer({"text": [TEXTS[n % 5]] * 40}), range(80))
    assert all(answer == alone[number % 5] for number, rows in enumerate(asked) for answer in rows)


def test_a_row_without_text_is_refused(classifier: Classifier) -> None:
    with pytest.raises(DataError) as caught:
        classifier.answer({"text": ["calm", " ", "", *["take"] * 9, *[""] * 12]})
    shown = "1, 2, 12, 13, 14, 15, 16, 17, 18, 19, …"
    assert str(caught.value) == f"a text is needed in each row, got none in 14 (counted from 0: {shown})"


def test_a_missing_column_is_named(classifier: Classifier) -> None:
    with pytest.raises(DataError) as caught:
        classifier.answer({"Text": ["calm"]})
    assert str(caught.value) == "must have the text columns ['text'], missing ['text'], got ['Text']"


def test_a_list_of_texts_or_a_single_one(classifier: Classifier) -> None:
    rows = classifier(TEXTS)
    assert rows == classifier.answer({"text": TEXTS}) == classifier({"text": TEXTS})
    assert classifier(tuple(TEXTS)) == rows
    row = classifier.classify(TEXTS[0])
    assert row == classifier([TEXTS[0]])[0] == classifier.classify({"text": TEXTS[0]})
    assert row["risk"].label in {"低风险", "中风险", "高风险"}


def test_one_text_is_no_list_of_letters(classifier: Classifier) -> None:
    with pytest.raises(DataError, match=r"got one text 'calm'; classify\(\) takes a single one"):
        classifier("calm")


def test_the_label_of_the_only_task(classifier: Classifier) -> None:
    row = Predictions(question=Prediction("数据", 0.9))
    assert (row.label, row.probability) == ("数据", 0.9)
    with pytest.raises(AttributeError, match=r"one of the tasks \['risk', 'adopt'\], such as \['risk'\]"):
        _ = classifier.classify("calm").label


def test_a_table_of_what_was_trained(classifier: Classifier, untrained: Path) -> None:
    parameters = classifier.parameters()
    saved = load_file(untrained / "lora_adapter" / "adapter_model.safetensors")
    adapter = [each for each in parameters.trainable if "lora_" in each.name]
    assert sorted(each.shape for each in adapter) == sorted(tuple(value.shape) for value in saved.values())
    assert all(any(name.endswith(each.name) for name in saved) for each in adapter)
    assert parameters.num_trainable == classifier.network.parameter_counts(MEMBER)[0]
    *rows, last = str(parameters).splitlines()
    assert len(rows) == len(parameters.trainable)
    assert last.startswith(
        f"trainable: {parameters.num_trainable:,} of {parameters.num_total:,} parameters ("
    )


def test_a_load_that_gives_other_logits_is_refused(classifier: Classifier, untrained: Path) -> None:
    rows = encode_texts([TEXTS], classifier._tokenizer, 32)
    logits = classifier.logits(rows)
    check_reload(untrained, "", rows, logits)
    with pytest.raises(UserError, match="does not give the logits of the trained one"):
        check_reload(untrained, "", rows, logits + 1e-6)
    with pytest.raises(UserError, match="does not give the logits of the trained one"):
        check_reload(untrained, "", rows, torch.full_like(logits, float("nan")))


@pytest.mark.parametrize(
    "name",
    ["lora_adapter/adapter_model.safetensors", "heads.safetensors", "label_map.json", "config_copy.yaml"],
)
def test_a_changed_byte_is_refused(copy: Path, name: str) -> None:
    file = copy / name
    file.chmod(0o644)
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        Classifier(copy)
    assert str(caught.value) == (
        f"{copy}: 1 problem\n  {name}: changed since the model was saved\n"
        "  not the model that was saved; restore the run's artifacts"
    )


def test_a_lost_file_is_refused(copy: Path) -> None:
    (copy / "heads.safetensors").unlink()
    with pytest.raises(UserError, match=r"  heads\.safetensors: missing from the model\n"):
        Classifier(copy)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a model of ours, since it has no file bundle\.json"):
        Classifier(tmp_path)


def test_a_bundle_of_a_later_format_is_refused(copy: Path) -> None:
    _change(copy, format=2)
    with pytest.raises(UserError, match="format must be 1, got 2; update loratrack"):
        Classifier(copy)


@pytest.mark.parametrize(
    ("part", "name", "change"),
    [
        ("base", "config.json", lambda content: content + b"\n"),
        ("base", "model.safetensors", lambda content: content[:-1] + bytes([content[-1] ^ 1])),
        ("tokenizer", "vocab.txt", lambda content: content.replace(b"calm\nmild", b"mild\ncalm")),
    ],
)
def test_another_base_or_tokenizer_is_refused(
    copy: Path, sample: Any, tmp_path: Path, part: str, name: str, change: Callable[[bytes], bytes]
) -> None:
    other = Path(shutil.copytree(sample.base, tmp_path / "other"))
    (other / name).write_bytes(change((other / name).read_bytes()))
    base = json.loads((copy / "bundle.json").read_text("utf-8"))["base"]
    _change(copy, base={**base, "name": str(other)})
    with pytest.raises(UserError, match=rf"{copy}: was trained on another {part} than '{other}'"):
        Classifier(copy)


def test_a_base_that_moved_along_with_the_project_is_found(
    copy: Path, sample: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "new"
    shutil.copytree(sample.base, project / "bases" / "tiny")
    (project / "MLproject").write_text("name: loratrack\n")
    base = json.loads((copy / "bundle.json").read_text("utf-8"))["base"]
    _change(copy, base={**base, "name": str(tmp_path / "old" / "bases" / "tiny")})
    with pytest.raises(UserError, match="no such folder"):
        Classifier(copy)
    monkeypatch.chdir(project / "bases")
    assert len(Classifier(copy).answer({"text": ["calm"]})) == 1


def _change(folder: Path, **values: Any) -> None:
    file = folder / "bundle.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | values), "utf-8")
