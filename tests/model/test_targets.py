"""LoRA targets on small random networks of many architectures, and on what users mistype."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from peft import LoraConfig, TaskType, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D

from loratrack.errors import UserError
from loratrack.model.targets import Coverage, find_targets

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "pad_token_id": 0,
}
OWN_NAMES: dict[str, dict[str, Any]] = {
    "deberta": {"pos_att_type": ["c2p", "p2c"], "relative_attention": True},
    "gemma3_text": {"head_dim": 8, "num_key_value_heads": 2},
    "gemma": {"head_dim": 8, "num_key_value_heads": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_key_value_heads": 2, "num_experts": 2},
    "mamba": {"state_size": 4},
    "qwen3": {"head_dim": 8, "num_key_value_heads": 2},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4},
    "xlnet": {"d_model": 32, "d_inner": 48, "n_head": 4, "n_layer": 2},
}


def network_of(model_type: str) -> nn.Module:
    config = CONFIG_MAPPING[model_type](**{**SMALL, **OWN_NAMES.get(model_type, {})})
    with torch.device("meta"):  # names and types are all that counts
        network = AutoModel.from_config(config)
    assert isinstance(network, nn.Module)
    return network


def adapted_by_peft(coverage: Coverage, network: nn.Module) -> set[str]:
    """The modules that PEFT adapts when it is given these names."""
    config = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=2,
        target_modules=list(coverage.modules),
        fan_in_fan_out=isinstance(network.get_submodule(coverage.modules[0]), Conv1D),
    )
    inject_adapter_in_model(config, network, low_cpu_mem_usage=True)
    return {name for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)}


class Attention(nn.Module):
    """The projections of an architecture whose code does not come with transformers."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, nn.Linear(8, 8))


class Layer(nn.Module):
    def __init__(self, *names: str) -> None:
        super().__init__()
        self.attn = Attention(*names)
        self.mlp = Attention("w1", "w2")
        self.ln_1 = nn.LayerNorm(8)


class Stack(nn.Module):
    """A stand-in: an embedding, layers, and the kinds of module that no adapter may touch."""

    def __init__(self, *layers: tuple[str, ...]) -> None:
        super().__init__()
        self.wte = nn.Embedding(8, 8)
        self.h = nn.ModuleList(Layer(*names) for names in layers)
        self.pooler = Attention("dense", "query")
        self.score_heads = nn.ModuleList([Attention("query"), Attention("query")])
        self.lm_head = nn.Linear(8, 8)


QUERY_VALUE, PROJECTIONS = ("query", "value"), ("q_proj", "v_proj")


@pytest.mark.parametrize(
    ("model_type", "suffixes", "how"),
    [
        ("bert", QUERY_VALUE, "default for bert"),
        ("roberta", QUERY_VALUE, "default for roberta"),
        ("xlm-roberta", QUERY_VALUE, "default for xlm-roberta"),
        ("electra", QUERY_VALUE, "default for electra"),
        ("ernie", ("query", "key", "value"), "default for ernie"),
        ("distilbert", ("q_lin", "v_lin"), "default for distilbert"),
        ("deberta", ("in_proj",), "default for deberta"),
        ("deberta-v2", ("query_proj", "value_proj"), "default for deberta-v2"),
        ("modernbert", ("Wqkv",), "default for modernbert"),
        ("llama", PROJECTIONS, "default for llama"),
        ("mistral", PROJECTIONS, "default for mistral"),
        ("qwen2", PROJECTIONS, "default for qwen2"),
        ("qwen3", PROJECTIONS, "default for qwen3"),
        ("gemma", PROJECTIONS, "default for gemma"),
        ("gemma3_text", PROJECTIONS, "default for gemma3_text"),
        ("phi", PROJECTIONS, "default for phi"),
        ("phi3", ("qkv_proj",), "default for phi3"),
        ("gpt2", ("c_attn",), "default for gpt2"),
        ("gpt_neox", ("query_key_value",), "default for gpt_neox"),
        ("bloom", ("query_key_value",), "default for bloom"),
        ("falcon", ("query_key_value",), "default for falcon"),
        ("mpnet", ("q", "v"), "detected"),
        ("camembert", QUERY_VALUE, "detected"),
        ("roformer", QUERY_VALUE, "detected"),
        ("xlm", ("q_lin", "v_lin"), "detected"),
        ("glm", PROJECTIONS, "detected"),
    ],
)
def test_auto_adapts_the_attention_of_every_layer_and_nothing_else(
    model_type: str, suffixes: tuple[str, ...], how: str
) -> None:
    network = network_of(model_type)
    coverage = find_targets(network, model_type, "auto", allow_partial=False)
    assert (coverage.suffixes, coverage.how) == (suffixes, how)
    assert (coverage.layers, coverage.total_layers) == (2, 2)
    assert len(coverage.modules) == 2 * len(suffixes)
    assert all(name.rpartition(".")[2] in suffixes for name in coverage.modules)
    assert adapted_by_peft(coverage, network) == set(coverage.modules)


def test_t5_counts_the_layers_of_both_halves() -> None:
    coverage = find_targets(network_of("t5"), "t5", "auto", allow_partial=False)
    assert coverage.describe() == "q, v: 12 modules in 4 of 4 layers (default for t5)"


def test_layers_that_share_their_weights_count_once() -> None:
    coverage = find_targets(network_of("albert"), "albert", "auto", allow_partial=False)
    assert coverage.describe() == "query, value: 2 modules in 1 of 1 layers (detected)"


@pytest.mark.parametrize(
    ("model_type", "projection", "how"),
    [
        ("qwen", "c_attn", "default for qwen"),
        ("chatglm", "query_key_value", "default for chatglm"),
        ("baichuan", "W_pack", "default for baichuan"),
        ("somebody_new", "linear_qkv", "detected"),
        ("qwen", "wqkv", "detected"),  # the default fits nothing here
    ],
)
def test_networks_with_code_of_their_own(model_type: str, projection: str, how: str) -> None:
    network = Stack((projection, "c_proj"), (projection, "c_proj"))
    coverage = find_targets(network, model_type, "auto", allow_partial=False)
    assert coverage.modules == (f"h.0.attn.{projection}", f"h.1.attn.{projection}")
    assert coverage.how == how


def test_all_linear_stays_inside_the_layers() -> None:
    network = network_of("bert")
    coverage = find_targets(network, "bert", "all-linear", allow_partial=False)
    assert coverage.describe() == (
        "query, key, value, dense: 12 modules in 2 of 2 layers (named in the config)"
    )
    assert not any("pooler" in name for name in coverage.modules)
    assert adapted_by_peft(coverage, network) == set(coverage.modules)


def test_a_named_target_never_reaches_a_head_or_the_pooler() -> None:
    coverage = find_targets(Stack(("query", "dense")), "x", ("query", "dense"), allow_partial=False)
    assert coverage.modules == ("h.0.attn.query", "h.0.attn.dense")


def test_a_name_may_be_longer_than_its_last_word() -> None:
    network = network_of("bert")
    coverage = find_targets(network, "bert", ("attention.output.dense",), allow_partial=False)
    assert coverage.describe() == ("attention.output.dense: 2 modules in 2 of 2 layers (named in the config)")


def test_a_network_that_has_adapters_gives_the_same_answer() -> None:
    network = network_of("bert")
    for wanted in ("auto", "all-linear", ("query", "dense")):
        plain = find_targets(network, "bert", wanted, allow_partial=False)
        adapted = network_of("bert")
        adapted_by_peft(plain, adapted)
        assert find_targets(adapted, "bert", wanted, allow_partial=False) == plain


def test_the_attention_of_torch_itself_is_left_alone() -> None:
    """nn.MultiheadAttention multiplies by weights of its own, past any adapter."""

    class TorchLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn = nn.MultiheadAttention(8, 2)
            self.linear1 = nn.Linear(8, 8)

    network = nn.Module()
    network.layers = nn.ModuleList([TorchLayer(), TorchLayer()])
    coverage = find_targets(network, "x", "all-linear", allow_partial=False)
    assert coverage.modules == ("layers.0.linear1", "layers.1.linear1")


def test_only_the_chosen_layers_are_adapted() -> None:
    network = network_of("bert")
    coverage = find_targets(network, "bert", ("query",), allow_partial=False, only=(1,))
    assert coverage.modules == ("encoder.layer.1.attention.self.query",)
    assert coverage.describe() == "query: 1 modules in 1 of 2 layers (named in the config)"


# --- what users get wrong


def test_a_layer_that_there_is_not_is_told() -> None:
    with pytest.raises(UserError) as raised:
        find_targets(network_of("bert"), "bert", "auto", allow_partial=False, only=(1, 2, 7))
    words = "model.lora.layers: must be numbers from 0 to 1, the layers of this base, got 2, 7"
    assert str(raised.value) == words


def test_every_name_that_fits_nothing_is_told_at_once() -> None:
    with pytest.raises(UserError) as raised:
        find_targets(
            network_of("bert"), "bert", ("quary", "LayerNorm", "word_embeddings", "pooler.dense"),
            allow_partial=True,
        )  # fmt: skip
    assert str(raised.value) == (
        "model.lora.target_modules: 4 problems\n"
        "  'quary' fits no module; did you mean 'query'? the linear modules are query, key, value, dense\n"
        "  'LayerNorm' is embeddings.LayerNorm (LayerNorm), not a linear module of a layer\n"
        "  'word_embeddings' is embeddings.word_embeddings (Embedding), not a linear module of a layer\n"
        "  'pooler.dense' is pooler.dense, outside the layers, where LoRA never goes"
    )


PARTIAL = Stack(("query", "value"), ("query", "value"), ("qkv",))


def test_a_partial_match_shows_the_layers_that_lack_it() -> None:
    with pytest.raises(UserError) as raised:
        find_targets(PARTIAL, "x", ("query", "w1"), allow_partial=False)
    assert str(raised.value) == (
        "model.lora.target_modules: 1 problem\n"
        "  query: in 2 of 3 layers; missing in h.2, which have qkv, w1, w2; choose modules that all layers"
        " have, or --set model.lora.allow_partial=true"
    )


def test_a_partial_match_is_taken_when_asked_for() -> None:
    coverage = find_targets(PARTIAL, "x", ("query",), allow_partial=True)
    assert coverage.describe() == "query: 2 modules in 2 of 3 layers (named in the config)"


def test_layers_of_two_kinds_are_covered_by_two_names() -> None:
    coverage = find_targets(PARTIAL, "x", "auto", allow_partial=False)
    assert coverage.describe() == "query, value, qkv: 5 modules in 3 of 3 layers (detected)"


def test_a_hybrid_network_without_attention_in_some_layers_is_a_partial_match() -> None:
    network = network_of("jamba")
    with pytest.raises(UserError, match=re.escape("q_proj, v_proj: in 1 of 2 layers; missing in layers.0")):
        find_targets(network, "jamba", "auto", allow_partial=False)
    assert find_targets(network, "jamba", "auto", allow_partial=True).layers == 1


@pytest.mark.parametrize(
    ("model_type", "linears"), [("mamba", "in_proj, x_proj"), ("xlnet", "layer_1, layer_2")]
)
def test_an_architecture_without_attention_projections_says_what_it_has(
    model_type: str, linears: str
) -> None:
    with pytest.raises(UserError) as raised:
        find_targets(network_of(model_type), model_type, "auto", allow_partial=True)
    assert f"{model_type!r} has no attention projection that LoRA could adapt" in str(raised.value)
    assert f"or all-linear: {linears}" in str(raised.value)


def test_a_network_without_layers_has_no_target() -> None:
    flat = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    with pytest.raises(UserError, match="'flat' has no linear module in repeated layers to adapt"):
        find_targets(flat, "flat", "auto", allow_partial=True)
