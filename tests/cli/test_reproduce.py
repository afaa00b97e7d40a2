"""`loratrack reproduce` and `restore`: a run once more, and its files brought back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loratrack.store.client import connect


def test_a_run_is_repeated_to_the_bit(ask: Any, trained: Any) -> None:
    client = connect()
    first = client.get_model_version("tiny", "1").run_id
    code, out, err = ask("reproduce", "first", "--check", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["reproduces"] == first
    assert answer["check"] == {"equal": True, "exact": True, "tolerance": 0.0, "epochs": 2, "unequal": []}
    again = client.get_run(answer["run_id"])
    assert again.data.tags["reproduces"] == first
    assert again.data.tags["project"] == "tiny"
    assert (again.info.status, again.info.run_name) == ("FINISHED", "first")
    assert again.data.params["train.layout"] == "padded"
    assert len(list(client.search_model_versions("name='tiny'"))) == 3


def test_other_data_is_told_and_gives_other_metrics(ask: Any, trained: Any) -> None:
    data = trained.config.parent / "train.csv"
    lines = data.read_text("utf-8").splitlines()
    data.write_text("\n".join(lines[:60]) + "\n", "utf-8")
    code, out, _ = ask("reproduce", "first", "--check")
    assert code == 1
    assert "data.raw_data_path (" in out
    assert "check of 2 epochs, within 0.02, since what counts is different:\n  epoch 1 " in out


def test_a_run_without_files_cannot_be_repeated(ask: Any) -> None:
    client = connect()
    run_id = client.create_run("0").info.run_id
    code, _, err = ask("reproduce", run_id)
    assert code == 1
    assert "has not kept config_copy.yaml, env_info.json, metrics.json, so it cannot be repeated" in err
    assert "has kept no files" in ask("restore", run_id, "--out", "files")[2]
    assert not Path("files").exists()
    assert ask("reproduce", "nobody")[0] == 1


@pytest.mark.parametrize(
    ("name", "content", "code", "message"),
    [
        ("metrics.json", "[" * 100_000, 1, "metrics.json cannot be read: nested too deeply; so it cannot be"),
        ("env_info.json", "[]", 1, "env_info.json cannot be read: it is no JSON mapping; so it cannot be"),
        (
            "env_info.json",
            '{"gpu": "x"}',
            1,
            "env_info.json cannot be read: gpu: input should be a valid dict",
        ),
        (
            "metrics.json",
            '{"epoch_1": {"f1": "x"}}',
            1,
            "metrics.json cannot be read: epoch_1.f1: input should",
        ),
        (
            "metrics.json",
            '{"epoch_x": {}}',
            1,
            "metrics.json cannot be read: epoch_x.[key]: string should match",
        ),
        ("bundle.json", "{}", 2, "bundle.json: format must be 1; update loratrack"),
    ],
)
def test_a_damaged_file_of_a_run_is_told(ask: Any, name: str, content: str, code: int, message: str) -> None:
    client = connect()
    run_id = str(client.get_model_version("tiny", "1").run_id)
    file = Path(client.get_run(run_id).info.artifact_uri) / name
    whole = file.read_bytes()
    file.chmod(0o644)
    file.write_text(content)
    got, _, err = ask("reproduce", run_id)
    file.write_bytes(whole)
    assert got == code
    assert message in err


@pytest.mark.parametrize("content", [b"[]", b"\xff", b'{"gpu": "x"}', b'{"packages": 3}', b"[" * 100_000])
def test_a_run_whose_environment_was_changed_is_shown(ask: Any, content: bytes) -> None:
    run_id = str(connect().get_model_version("tiny", "1").run_id)
    file = Path(connect().get_run(run_id).info.artifact_uri) / "env_info.json"
    whole = file.read_bytes()
    file.write_bytes(content)
    (file.parent / "notices.txt").write_bytes(b"one\xff\n")
    code, out, err = ask("show", run_id)
    file.write_bytes(whole)
    assert code == 0, err
    assert "notice       one" in out


def test_all_files_come_back(ask: Any) -> None:
    client = connect()
    first = client.get_model_version("tiny", "1").run_id
    assert first
    kept = Path(client.get_run(first).info.artifact_uri)
    code, out, _ = ask("restore", "first", "--out", "some/files", "--json")
    assert code == 0
    names = sorted(path.relative_to(kept).as_posix() for path in kept.rglob("*") if path.is_file())
    assert sorted(json.loads(out)["files"]) == names
    for name in names:
        assert (Path("some/files") / name).read_bytes() == (kept / name).read_bytes()
    assert sorted(path.name for path in Path("some").iterdir()) == ["files"]
    code, _, err = ask("restore", "first", "--out", "some/files")
    assert code == 2
    assert "--out: must be an empty or new folder, got 'some/files'" in err


def test_the_current_folder_may_take_the_files(
    ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert ask("restore", "first", "--out", ".")[0] == 0
    assert (empty / "bundle.json").is_file()
    assert not list(tmp_path.glob(".*.draft"))


def test_files_that_changed_are_named(ask: Any) -> None:
    client = connect()
    first = client.get_model_version("tiny", "1").run_id
    assert first
    file = Path(client.get_run(first).info.artifact_uri) / "heads.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    code, _, err = ask("restore", first, "--out", "files")
    assert code == 1
    assert "not as they were saved: heads.safetensors; do not use this model" in err
