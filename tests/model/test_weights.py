from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import AutoPeftModelForFeatureExtraction, PeftModel
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from loratrack.config.model import Lora
from loratrack.errors import UserError
from loratrack.model import weights
from loratrack.model.network import Network

CLASSES = {"risk": 3}
SMALL = BertConfig(
    vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
)


@dataclass(frozen=True)
class Rows:
    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    token_types: NDArray[np.uint8] | None = None


def network_of(use_lora: bool = True, seed: int = 0) -> Network:
    torch.manual_seed(1)
    encoder = BertModel(copy.deepcopy(SMALL), add_pooling_layer=False)
    network = Network(encoder, "mean", torch.device("cpu"), use_lora=use_lora)
    network.add("member", Lora(rank=4), CLASSES, seed)
    for value in network.parameters("member"):
        torch.nn.init.normal_(value, generator=torch.Generator().manual_seed(seed))
    return network


@pytest.mark.parametrize("use_lora", [True, False])
def test_saved_weights_come_back(use_lora: bool, tmp_path: Path) -> None:
    first, second = network_of(use_lora, seed=1), network_of(use_lora, seed=2)
    weights.save(first, "member", tmp_path / "kept")
    weights.load(second, "member", tmp_path / "kept")
    pairs = zip(first.parameters("member"), second.parameters("member"), strict=True)
    assert all(torch.equal(mine, other) for mine, other in pairs)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # PEFT's own call
def test_an_adapter_is_two_files_that_plain_peft_loads(tmp_path: Path) -> None:
    network = network_of(seed=1)
    weights.save(network, "member", tmp_path / "kept")
    folder = tmp_path / "kept" / "lora_adapter"
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    torch.manual_seed(1)
    loaded = PeftModel.from_pretrained(BertModel(copy.deepcopy(SMALL), add_pooling_layer=False), str(folder))
    theirs = {name: value for name, value in loaded.named_parameters() if "lora_" in name}
    mine = network.adapter_parameters("member")
    assert len(theirs) == len(mine) == 8
    for name, value in mine.items():
        key = "base_model.model." + name.replace(".member.", ".default.")
        assert torch.equal(theirs[key], value)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # PEFT's own call
def test_the_adapter_says_which_base_it_is_for(tmp_path: Path) -> None:
    network = network_of(seed=1)
    torch.manual_seed(1)
    BertModel(copy.deepcopy(SMALL), add_pooling_layer=False).save_pretrained(tmp_path / "base")
    network.encoder.name_or_path = str(tmp_path / "base")
    weights.save(network, "member", tmp_path / "kept")
    loaded = AutoPeftModelForFeatureExtraction.from_pretrained(str(tmp_path / "kept" / "lora_adapter"))
    tokens = torch.arange(3, 20)[None]
    network.layout = "padded"
    rows = Rows(tokens[0].numpy().astype(np.int32), np.array([0, 17]))
    batch = network.arrange(rows, [np.array([0])], ["member"]).on(network.device)
    with torch.no_grad(), network.routed(batch, ["member"]):
        mine = network.logits(batch, ["member"])
        state = loaded(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
    head = network.heads["member"]
    assert torch.allclose(mine, state.mean(dim=1) @ head.weight.T + head.bias, atol=1e-5)


def test_the_names_in_an_adapter_stand_in_one_order(tmp_path: Path) -> None:
    network = Network(
        BertModel(copy.deepcopy(SMALL), add_pooling_layer=False), "mean", torch.device("cpu"), use_lora=True
    )
    network.add("member", Lora(rank=4, target_modules="all-linear"), CLASSES, 0)
    weights.save(network, "member", tmp_path / "kept")
    file = tmp_path / "kept" / "lora_adapter" / "adapter_config.json"
    content = json.loads(file.read_text())
    assert len(content["target_modules"]) == 12
    assert content["target_modules"] == sorted(content["target_modules"])
    assert list(content) == sorted(content)


def test_saving_again_replaces_the_whole(tmp_path: Path) -> None:
    weights.save(network_of(seed=1), "member", tmp_path / "kept")
    weights.save(network_of(seed=2), "member", tmp_path / "kept")
    third = network_of(seed=3)
    weights.load(third, "member", tmp_path / "kept")
    assert torch.equal(third.heads["member"].weight, network_of(seed=2).heads["member"].weight)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_missing_and_misshapen_weights_are_refused(tmp_path: Path) -> None:
    network = network_of()
    weights.save(network, "member", tmp_path / "kept")
    file = tmp_path / "kept" / "lora_adapter" / "adapter_model.safetensors"
    whole = load_file(file)
    first = sorted(whole)[0]
    save_file({name: value for name, value in whole.items() if name != first}, file)
    with pytest.raises(UserError, match="not the weights of this network: missing"):
        weights.load(network, "member", tmp_path / "kept")
    save_file(whole | {first: whole[first][:1].contiguous()}, file)
    with pytest.raises(UserError, match="has shape"):
        weights.load(network, "member", tmp_path / "kept")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        weights.load(network, "member", tmp_path / "kept")
