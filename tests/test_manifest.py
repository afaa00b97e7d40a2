"""`bundle.json`: every file that is read is listed, and nothing else is."""

from __future__ import annotations

import json
import operator
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from loratrack import manifest
from loratrack.disk import sha256_of
from loratrack.errors import UserError
from loratrack.serving.classifier import Classifier
from loratrack.tracking import artifacts


@pytest.fixture
def copy(untrained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untrained, tmp_path / "copy"))


def change_files(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    file = folder / "bundle.json"
    content = json.loads(file.read_text("utf-8"))
    change(content["files"])
    file.write_text(json.dumps(content), "utf-8")


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as raised:
        Classifier(folder)
    return str(raised.value)


def test_a_file_that_is_read_and_not_listed_is_refused(copy: Path, untrained: Path) -> None:
    for name in manifest.read(untrained).files:
        shutil.copy(untrained / "bundle.json", copy)
        change_files(copy, operator.methodcaller("pop", name))
        message = f"{copy}: 1 problem\n  {name}: not listed in bundle.json\n  not the model that was saved;"
        assert refusal(copy).startswith(message)
        assert artifacts.changed_files(copy) == [name]


def test_all_files_that_are_not_as_they_were_are_told_at_once(copy: Path) -> None:
    change_files(copy, dict.clear)
    assert refusal(copy).startswith(f"{copy}: {len(manifest.parts(copy))} problems\n  config_copy.yaml: not")


def test_a_file_that_somebody_put_beside_the_weights_is_refused(copy: Path) -> None:
    (copy / "lora_adapter" / "adapter_model.bin").write_bytes(b"pickle")
    assert "lora_adapter/adapter_model.bin: not listed in bundle.json" in refusal(copy)


def test_settings_that_name_a_parent_elsewhere_are_refused(copy: Path) -> None:
    outside, config = copy.parent / "outside.yaml", copy / "config_copy.yaml"
    outside.write_text(config.read_text("utf-8"), "utf-8")
    config.chmod(0o644)
    config.write_text("base_config: ../outside.yaml\n")
    change_files(copy, lambda files: files.update({config.name: sha256_of(config)}))
    assert refusal(copy).startswith(f"{config}: must begin with '# the frozen settings")


@pytest.mark.parametrize(
    "place", ["../outside", "{folder}/../outside", "lora_adapter/../../outside", "plots/a"]
)
def test_a_file_outside_the_model_is_not_read(copy: Path, place: str) -> None:
    outside = copy.parent / "outside"
    outside.write_text("secret")
    name = place.format(folder=copy)
    change_files(copy, lambda files: files.update({name: sha256_of(outside)}))
    assert f"  {name}: missing from the model" in refusal(copy)
    assert artifacts.changed_files(copy) == [name]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[]", "bundle.json: Input should be an object, got []"),
        ("null", "bundle.json: Input should be an object, got None"),
        ("", "bundle.json: Invalid JSON: EOF while parsing a value"),
        ("[" * 100_000, "bundle.json: Invalid JSON: recursion limit exceeded"),
        ('{"format": 1}', "base: Field required"),
        ('{"format": "1"}', "format must be 1, got '1'; update loratrack"),
        ('{"format": 1, "files": []}', "files: Input should be an object, got []"),
        (
            '{"format": 1, "layout": ["packed"]}',
            "layout: Input should be 'packed' or 'padded', got ['packed']",
        ),
        ('{"format": 1, "base": {"sha256": "12"}}', "base.sha256: String should match pattern"),
    ],
)
def test_what_is_no_manifest_is_told_in_one_message(copy: Path, content: str, problem: str) -> None:
    (copy / "bundle.json").write_text(content)
    message = refusal(copy)
    assert message.startswith(f"{copy / 'bundle.json'}: ")
    assert problem in message
    with pytest.raises(UserError, match=r"bundle\.json"):
        artifacts.changed_files(copy)


def test_a_folder_of_the_model_is_no_link(copy: Path) -> None:
    (copy / "model").symlink_to("/usr")
    assert f"{copy}: 1 problem" in refusal(copy)
    assert "model: a link, which may lead to all files of this machine" in refusal(copy)
