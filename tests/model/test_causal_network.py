"""A network that generates: a causal LM with its own output embedding, adapted and packed."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    CohereConfig,
    FalconH1Config,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen3Config,
)

from loratrack.config.model import Lora
from loratrack.errors import UserError
from loratrack.model.network import Network
from loratrack.model.passes import predict

CPU = torch.device("cpu")
VOCABULARY = 60
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
}
DECODER = SIZES | {"num_key_value_heads": 2, "intermediate_size": 48, "pad_token_id": 0}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**DECODER, tie_word_embeddings=False),
    "tied llama": LlamaConfig(**DECODER, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**DECODER, head_dim=8),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2,
        bos_token_id=1, eos_token_id=2,
    ),
    "opt": OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32, init_std=0.2, max_position_embeddings=64),
    "gemma2": Gemma2Config(**DECODER, head_dim=8, final_logit_softcapping=2.0, attn_logit_softcapping=None),
    "cohere": CohereConfig(**DECODER, logit_scale=0.3, bos_token_id=1, eos_token_id=2),
    "granite": GraniteConfig(**DECODER, logits_scaling=3.0),
    "qwen2_moe": Qwen2MoeConfig(
        **DECODER, **EXPERTS, num_experts=4, shared_expert_intermediate_size=16, decoder_sparse_step=1
    ),
    "mixtral": MixtralConfig(**DECODER, num_local_experts=4),
}  # fmt: skip
NOT_BUILT = {("gemma2", "sdpa")}
"""An attention that transformers does not have for this architecture."""


@dataclass(frozen=True)
class Rows:
    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    token_types: NDArray[np.uint8] | None = None


LENGTHS = (3, 11, 7, 1, 9)
ROWS = Rows(
    np.random.default_rng(0).integers(1, VOCABULARY, sum(LENGTHS)).astype(np.int32),
    np.cumsum([0, *LENGTHS], dtype=np.int64),
)


def model_of(kind: str, **more: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[kind]), **more).eval()
    return model


def network_of(kind: str, **lora: Any) -> Network:
    network = Network(model_of(kind), None, CPU, use_lora=True)
    network.add("ann", Lora(rank=4, dropout=0, **lora), {}, seed=0)
    return network


def log_probabilities(network: Network, rows: Rows = ROWS) -> Tensor:
    """[tokens, vocabulary] of what comes after each token of the rows, asked for as losses of targets."""
    network.eval()
    batch_layout = network.arrange(rows, [np.arange(len(rows.offsets) - 1)], ["ann"])
    batch, lengths = batch_layout.on(CPU), np.diff(rows.offsets)
    firsts = np.repeat(batch_layout.arrays["first_tokens"], lengths)
    columns = np.concatenate([np.arange(length) for length in lengths])
    positions = torch.from_numpy(firsts + columns).repeat_interleave(VOCABULARY)
    targets = torch.arange(VOCABULARY).repeat(len(columns))
    with torch.no_grad(), network.routed(batch, ["ann"]):
        losses = network.token_loss(batch, positions, targets, torch.ones(len(targets))).losses
    return -losses.view(-1, VOCABULARY)


def expected(model: PreTrainedModel) -> Tensor:
    """The same from the architecture's own logits, row by row."""
    with torch.no_grad():
        rows = np.split(ROWS.tokens.astype(np.int64), ROWS.offsets[1:-1])
        logits = [model(input_ids=torch.from_numpy(row)[None]).logits[0] for row in rows]
    return F.log_softmax(torch.cat(logits).float(), dim=-1)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        (kind, backend)
        for kind in CONFIGS
        for backend in ("sdpa", "eager")
        if (kind, backend) not in NOT_BUILT
    ],
)
def test_logits_are_those_of_each_row_alone(kind: str, backend: str, layout: Any) -> None:
    model = model_of(kind, attn_implementation=backend)
    right = expected(model)
    network = Network(model, None, CPU, use_lora=True)
    network.add("ann", Lora(rank=4), {}, seed=0)
    assert network.layouts == ("packed", "padded")
    network.layout = layout
    torch.testing.assert_close(log_probabilities(network), right, atol=2e-5, rtol=1e-5)


def test_a_neighbour_in_the_packed_row_is_not_seen() -> None:
    """The row that is packed beside another changes, and nothing else does."""
    network = network_of("llama")
    other = ROWS.tokens.copy()
    other[: LENGTHS[0]] = (other[: LENGTHS[0]] + 7) % VOCABULARY
    before, after = log_probabilities(network), log_probabilities(network, Rows(other, ROWS.offsets))
    assert not torch.allclose(before[: LENGTHS[0]], after[: LENGTHS[0]], atol=1e-2)
    torch.testing.assert_close(before[LENGTHS[0] :], after[LENGTHS[0] :])


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_no_keys_and_values_are_kept(layout: Any) -> None:
    """With a cache transformers no longer tells packed sequences apart, and it takes memory."""
    network = network_of("llama")
    network.layout = layout
    caches: list[Any] = []
    network.encoder.register_forward_hook(lambda module, args, output: caches.append(output.past_key_values))
    log_probabilities(network)
    assert caches == [None]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "cohere"])
def test_a_prediction_is_the_logits_of_the_next_token(kind: str) -> None:
    network = network_of(kind)
    lasts = torch.from_numpy(ROWS.offsets[1:] - 1)
    right = expected(model_of(kind))[lasts]
    logits = predict(network, ROWS, ["ann"])["ann"]
    torch.testing.assert_close(F.log_softmax(logits, dim=-1), right, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "suffixes"),
    [
        ("llama", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("tied llama", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("gpt2", {"c_attn", "c_proj", "c_fc"}),
        ("qwen2_moe", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("mixtral", {"q_proj", "k_proj", "v_proj", "o_proj"}),
    ],
)
def test_all_linear_modules_are_adapted_but_outputs_embeddings_and_routers(
    kind: str, suffixes: set[str]
) -> None:
    network = network_of(kind)
    coverage = network.coverage["ann"]
    assert set(coverage.suffixes) == suffixes
    assert coverage.how == "default of a network that generates"
    assert not any("head" in name or "embed" in name or "router" in name for name in coverage.modules)
    adapted = {name.partition(".lora_")[0] for name in network.adapter_parameters("ann")}
    assert adapted == set(coverage.modules)


@pytest.mark.parametrize(
    ("kind", "target", "where"),
    [
        ("llama", "lm_head", "'lm_head' is lm_head, outside the layers, where LoRA never goes"),
        ("tied llama", "lm_head", "'lm_head' is lm_head, outside the layers, where LoRA never goes"),
        (
            "tied llama",
            "embed_tokens",
            "'embed_tokens' is model.embed_tokens (Embedding), not a linear module of a layer",
        ),
        (
            "qwen2_moe",
            "shared_expert_gate",
            "'shared_expert_gate' is model.layers.0.mlp.shared_expert_gate, which chooses among experts,"
            " where LoRA never goes",
        ),
    ],
)
def test_lora_on_an_output_an_embedding_or_a_router_is_refused(kind: str, target: str, where: str) -> None:
    with pytest.raises(UserError) as error:
        network_of(kind, target_modules=(target,))
    assert str(error.value) == f"model.lora.target_modules: 1 problem\n  {where}"


def test_a_base_that_sees_what_comes_after_is_refused() -> None:
    with pytest.raises(UserError) as error:
        Network(BertLMHeadModel(BertConfig(**SIZES)), None, CPU, use_lora=True)
    assert str(error.value) == (
        "model.arch: 'bert' sees the tokens that come after, so it cannot learn to write them; name a causal"
        " LM"
    )


@pytest.mark.parametrize("kind", ["bert", "falcon_h1"])
def test_a_base_with_logits_of_another_kind_is_refused(kind: str) -> None:
    """BERT's has a layer more between states and logits; Falcon-H1's, which is known, is taken."""
    torch.manual_seed(0)
    if kind == "falcon_h1":
        config = FalconH1Config(**DECODER, lm_head_multiplier=0.5, mamba_d_ssm=32, mamba_n_heads=4)
        falcon = AutoModelForCausalLM.from_config(config)
        assert Network(falcon, None, CPU, use_lora=True).output is not None
        return
    with pytest.raises(UserError) as error:
        Network(BertLMHeadModel(BertConfig(**SIZES, is_decoder=True)), None, CPU, use_lora=True)
    assert str(error.value).startswith(
        "model.arch: 'bert' makes its logits in another way than by one product with its last states ("
    )


def test_a_member_that_leaves_takes_its_adapter_along() -> None:
    network = network_of("tied llama")
    network.add("bob", Lora(rank=2), {}, seed=1)
    network.remove("ann")
    assert network.members == ["bob"]
    assert network.adapter_parameters("ann") == {}
    assert all(value.requires_grad for value in network.parameters("bob"))
    trained, total = network.parameter_counts("bob")
    assert trained == sum(value.numel() for value in network.parameters("bob"))
    assert total - trained == sum(value.numel() for value in model_of("tied llama").parameters())
