"""Damaged files of models and bases: an answer or one UserError, never another exception, never a hang.

The manifest is written anew after each damage: what is read behind its check must stand by itself.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from tests.bundles import save_untrained

from loratrack import config as configs
from loratrack.bases import base as bases
from loratrack.bases.files import network_sha256, tokenizer_sha256
from loratrack.disk import sha256_of
from loratrack.errors import UserError
from loratrack.model.merge import merged_base
from loratrack.serving.classifier import Classifier, check_probe

TEXTS = ["calm take note", "loud leave", "客 户"]
ODD_VALUES: tuple[object, ...] = (
    None,
    True,
    -1,
    0,
    1,
    3,
    10**9,
    10**30,
    0.5,
    float("nan"),
    "",
    "x",
    "../..",
    [],
    ["x"],
    {},
    {"x": 1},
)
DEEP = b'{"a":' * 100_000

Damage = Callable[[bytes], bytes]


@st.composite
def of_bytes(draw: st.DrawFn) -> Damage:
    places = draw(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=8))

    def damage(content: bytes) -> bytes:
        changed = bytearray(content or b"\0")
        for share, mask in places:
            changed[int(share * (len(changed) - 1))] ^= mask
        return bytes(changed)

    return damage


@st.composite
def of_json(draw: st.DrawFn) -> Damage:
    turns, value, gone = (
        draw(st.lists(st.floats(0, 1), min_size=4, max_size=4)),
        draw(st.sampled_from(ODD_VALUES)),
        draw(st.booleans()),
    )

    def damage(content: bytes) -> bytes:
        whole = node = json.loads(content)
        for turn in turns:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = keys[int(turn * (len(keys) - 1))]
            if isinstance(node[key], dict | list) and node[key] and turn < 0.9:
                node = node[key]
                continue
            if gone:
                del node[key]
            else:
                node[key] = value
            break
        return json.dumps(whole).encode()

    return damage


@st.composite
def of_tensors(draw: st.DrawFn) -> Damage:
    which, how = draw(st.floats(0, 1)), draw(st.sampled_from(TENSORS))

    def damage(content: bytes) -> bytes:
        tensors = load(content)
        name = sorted(tensors)[int(which * (len(tensors) - 1))]
        changed = how(tensors.pop(name))
        return bytes(
            save(tensors if changed is None else tensors | {name: changed.contiguous()}, {"format": "pt"})
        )

    return damage


TENSORS: tuple[Callable[[torch.Tensor], torch.Tensor | None], ...] = (
    lambda tensor: None,
    lambda tensor: tensor.to(torch.int64),
    lambda tensor: tensor.to(torch.float16),
    lambda tensor: torch.full_like(tensor, -(2**30)),
    lambda tensor: tensor.to(torch.float32) * float("nan"),
    lambda tensor: tensor[:0],
    lambda tensor: tensor[None],
    lambda tensor: tensor.repeat(*[2] * tensor.dim()),
)


def damages(name: str) -> st.SearchStrategy[Damage]:
    kinds: list[st.SearchStrategy[Damage]] = [
        of_bytes(),
        st.floats(0, 1).map(lambda share: lambda content: content[: int(share * len(content))]),
        st.just(lambda content: DEEP),
        st.binary(max_size=64).map(lambda other: lambda content: other),
    ]
    if name.endswith(".json"):
        kinds += [of_json()] * 6
    if name.endswith(".safetensors"):
        kinds += [of_tensors()] * 4
    return st.one_of(kinds)


LORA = (
    "bundle.json",
    "label_map.json",
    "config_copy.yaml",
    "heads.safetensors",
    "probe.safetensors",
    "lora_adapter/adapter_model.safetensors",
    "lora_adapter/adapter_config.json",
    "../base/config.json",
    "../base/model.safetensors",
    "../base/tokenizer_config.json",
    "../base/vocab.txt",
)
FULL = ("model/config.json", "model/model.safetensors", "../base/tokenizer.json")


def reseal(model: Path) -> None:
    file, base = model / "bundle.json", model.parent / "base"
    content = json.loads(file.read_text("utf-8"))
    content["files"] = {name: sha256_of(model / name) for name in content["files"]}
    content["base"] |= {
        "name": str(base),
        "sha256": network_sha256(base),
        "tokenizer_sha256": tokenizer_sha256(base),
    }
    file.write_text(json.dumps(content), "utf-8")


def refusal(model: Path) -> str:
    """Empty: it answered, gave its logits again, and was merged as a base."""
    try:
        rows = Classifier(model)(TEXTS)
        check_probe(model)
        merged_base(model, "models:/damaged/1", trust=False)
    except UserError as error:
        return str(error)
    assert all(0 <= row[task].probability <= 1 for row in rows for task in row)
    return ""


@pytest.fixture(scope="module")
def lora(untrained: Path, sample: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model beside its base, to be damaged and put back."""
    return beside_its_base(untrained, sample.base, tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module")
def full(sample: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after full fine-tuning, with the tokenizer as one file."""
    folder = tmp_path_factory.mktemp("full")
    config = configs.load(sample.config, ["model.use_lora=false"])
    model = beside_its_base(save_untrained(config, folder / "made"), sample.base, folder)
    base = model.parent / "base"
    bases.load_tokenizer(bases.resolve(str(base))).save_pretrained(base)
    assert (base / "tokenizer.json").is_file()
    reseal(model)
    return model


def beside_its_base(bundle: Path, base: Path, folder: Path) -> Path:
    model = Path(shutil.copytree(bundle, folder / "model"))
    shutil.copytree(base, folder / "base")
    (model / "config_copy.yaml").chmod(0o644)
    reseal(model)
    assert refusal(model) == ""
    return model


def damage_once(model: Path, name: str, damage: Damage) -> str:
    file = model / name
    manifest, whole = (model / "bundle.json").read_bytes(), file.read_bytes()
    try:
        file.write_bytes(damage(whole))
        if name != "bundle.json":
            with suppress(ValueError, AttributeError, TypeError):  # a config.json that is none has no digest
                reseal(model)
        return refusal(model)
    finally:
        file.write_bytes(whole)
        (model / "bundle.json").write_bytes(manifest)


@pytest.mark.parametrize(
    ("kind", "name"), [*(("lora", name) for name in LORA), *(("full", name) for name in FULL)]
)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_damaged_file(lora: Path, full: Path, kind: str, name: str, data: st.DataObject) -> None:
    damage_once({"lora": lora, "full": full}[kind], name, data.draw(damages(name)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"), [*(("lora", name) for name in LORA), *(("full", name) for name in FULL)]
)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_file_damaged_in_many_ways(
    lora: Path, full: Path, kind: str, name: str, data: st.DataObject
) -> None:
    damage_once({"lora": lora, "full": full}[kind], name, data.draw(damages(name)))


def with_settings(**values: object) -> Damage:
    return lambda content: json.dumps(json.loads(content) | values).encode()


def with_tensors(change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    return lambda content: bytes(
        save({key: change(value) for key, value in load(content).items()}, {"format": "pt"})
    )


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("heads.safetensors", with_tensors(lambda value: value * float("nan")), "values that are no numbers"),
        ("heads.safetensors", with_tensors(lambda value: value.to(torch.int64)), "in torch.int64, the net"),
        ("label_map.json", lambda content: b"[]", "must give each task's labels their local_id and"),
        ("label_map.json", lambda content: DEEP, "must give each task's labels their local_id and"),
        ("label_map.json", lambda content: b"{}", "must have the tasks of config_copy.yaml, ['risk', 'ad"),
        ("probe.safetensors", lambda content: content[:-9], "must hold rows and their logits"),
        ("../base/config.json", lambda content: DEEP, "is not a JSON mapping: nested too deeply"),
        ("../base/config.json", with_settings(model_type=["bert"]), "must be an architecture that"),
        ("../base/config.json", with_settings(hidden_size=0), "the network cannot be loaded"),
        ("../base/config.json", with_settings(vocab_size=10**9), "a network of 32,000"),
        ("../base/config.json", with_settings(num_hidden_layers=10**9), "must be at most 1,000, got 1,0"),
        ("../base/config.json", with_settings(num_labels=10**9), "num_labels must be at most 1,000,000"),
        ("../base/config.json", with_settings(pad_token_id=9999), "the network cannot be loaded"),
        ("../base/config.json", with_settings(output_hidden_states="a"), "the network cannot be loaded"),
        ("../base/config.json", with_settings(text_config={"num_hidden_layers": 10**8}), "must be at most 1"),
        ("../base/config.json", with_settings(inner_group_num=10**8), "group_num must be at most 1,000"),
        ("../base/config.json", with_settings(depths=[2, 10**8]), "depths must be at most 1,000"),
        ("../base/config.json", with_settings(conv_dim=[1] * 10**5), "layers must be at most 1,000"),
        ("../base/tokenizer_config.json", lambda content: b"[]", "tokenizer_config.json is not a JSON"),
        ("../base/tokenizer_config.json", with_settings(tokenizer_class=5), "the tokenizer cannot be"),
        ("../base/tokenizer_config.json", with_settings(pad_token={"\x1b[2J": 1}), "names must be printable"),
        ("../base/vocab.txt", lambda content: b"", "the tokenizer cannot be loaded"),
        ("../base/vocab.txt", lambda content: b"[PAD]\n" * 99 + content, "the tokenizer gives tokens up to"),
    ],
)  # fmt: skip
def test_a_fault_is_one_message_with_its_place(lora: Path, name: str, damage: Damage, message: str) -> None:
    refused = damage_once(lora, name, damage)
    assert message in refused
    assert str(lora.parent) in refused


def test_weights_outside_the_folder_of_a_base_are_not_read(sample: Any, tmp_path: Path) -> None:
    base = Path(shutil.copytree(sample.base, tmp_path / "base"))
    (base / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (base / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../outside.safetensors"}}')
    with pytest.raises(UserError, match=r"weight files must lie beside it, got '\.\./outside\.safetensors'"):
        bases.resolve(str(base))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer_config.json", "merges.txt"])
def test_a_named_pipe_in_a_base_is_refused(sample: Any, tmp_path: Path, name: str) -> None:
    base = Path(shutil.copytree(sample.base, tmp_path / "base"))
    (base / name).unlink(missing_ok=True)
    os.mkfifo(base / name)
    with pytest.raises(UserError, match=f"  {name}: must be a regular file"):
        bases.resolve(str(base))


@pytest.mark.parametrize(
    "name", ["bundle.json", "heads.safetensors", "lora_adapter/adapter_model.safetensors"]
)
def test_a_named_pipe_in_a_model_is_refused(untrained: Path, tmp_path: Path, name: str) -> None:
    model = Path(shutil.copytree(untrained, tmp_path / "model"))
    (model / name).unlink()
    os.mkfifo(model / name)
    with pytest.raises(UserError, match=f"{name}: missing from the model|has no file {name}"):
        Classifier(model)
