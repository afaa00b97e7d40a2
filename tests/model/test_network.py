"""The promises of the network: packing changes nothing, and members do not touch each other."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    AutoModel,
    BertConfig,
    BloomConfig,
    DebertaConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ErnieConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MptConfig,
    NystromformerConfig,
    OpenAIGPTConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    RobertaConfig,
    XGLMConfig,
    XLMConfig,
    XLMModel,
)

from loratrack.config.model import Lora
from loratrack.errors import UserError
from loratrack.model.batch import Layout
from loratrack.model.dropout import Dropout
from loratrack.model.network import Network

CPU = torch.device("cpu")
VOCABULARY = 200
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
DECODER = SIZES | {"num_key_value_heads": 2, "pad_token_id": 0}
CONFIGS = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES, pad_token_id=1),
    "electra": ElectraConfig(**SIZES, embedding_size=32),
    "ernie": ErnieConfig(**SIZES),
    "distilbert": DistilBertConfig(vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4, hidden_dim=48),
    "modernbert": ModernBertConfig(
        **SIZES,
        pad_token_id=0,
        cls_token_id=1,
        sep_token_id=2,
        local_attention=8,
        global_attn_every_n_layers=2,
    ),
    "llama": LlamaConfig(**DECODER),
    "qwen2": Qwen2Config(**DECODER),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4),
}
CLASSES = {"risk": 3, "topic": 5}


@dataclass(frozen=True)
class Rows:
    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    token_types: NDArray[np.uint8] | None = None


def random_rows(count: int = 24, longest: int = 30) -> Rows:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, longest, size=count)
    tokens = rng.integers(5, VOCABULARY, size=lengths.sum()).astype(np.int32)
    return Rows(tokens, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


ROWS = random_rows()


def tiny(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModel.from_config(copy.deepcopy(CONFIGS[kind])).eval()


def network_of(kind: str = "bert", **members: Lora) -> Network:
    network = Network(tiny(kind), "mean", CPU, use_lora=True)
    for seed, (name, lora) in enumerate(members.items()):
        network.add(name, lora, CLASSES, seed)
        for key, value in network.adapter_parameters(name).items():
            if "lora_B" in key:  # PEFT starts with zeros, which would hide every fault
                torch.nn.init.normal_(value, std=0.2, generator=torch.Generator().manual_seed(seed))
    return network


def logits(
    network: Network, shares: dict[str, NDArray[np.int64]], layout: Layout = "packed", training: bool = False
) -> Tensor:
    network.layout = layout
    names = list(shares)
    dropout = [Dropout(seed=ord(name[0]), step=3, micro_batch=0) for name in names] if training else None
    network.train() if training else network.eval()
    batch = network.arrange(ROWS, list(shares.values()), names, dropout).on(CPU)
    with network.routed(batch, names, dropout):
        result = network.logits(batch, names)
        if training:
            torch.autograd.backward(result.square().sum())
    return result.detach()


def gradients(network: Network, name: str) -> list[Tensor]:
    found = [parameter.grad for parameter in network.parameters(name)]
    network_grads = [grad.clone() for grad in found if grad is not None]
    assert len(network_grads) == len(found)
    assert all(grad.any() for grad in network_grads)
    network.flat_parameters(name).zero_grad()
    return network_grads


@pytest.mark.parametrize("kind", CONFIGS)
def test_packed_rows_give_the_logits_of_padded_ones(kind: str) -> None:
    network = network_of(kind, ann=Lora(rank=4))
    assert network.layouts == ("packed", "padded")
    share = {"ann": np.arange(24)}
    assert torch.allclose(logits(network, share, "packed"), logits(network, share, "padded"), atol=1e-4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_padding_agrees_with_transformers_own_forward(kind: str) -> None:
    network = network_of(kind, ann=Lora(rank=4))
    row = np.array([5])
    ids = torch.from_numpy(ROWS.tokens[ROWS.offsets[5] : ROWS.offsets[6]].astype(np.int64))[None]
    bare = tiny(kind)
    hidden = bare(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(dim=1)
    heads = network.heads["ann"]
    for value in network.adapter_parameters("ann").values():
        torch.nn.init.zeros_(value)
    expected = hidden @ heads.weight.T + heads.bias
    assert torch.allclose(logits(network, {"ann": row}, "packed"), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_no_token_sees_another_sequence(kind: str) -> None:
    network = network_of(kind, ann=Lora(rank=4))
    alone = torch.cat([logits(network, {"ann": np.array([row])}) for row in (3, 9, 20)])
    assert torch.allclose(logits(network, {"ann": np.array([3, 9, 20])}), alone, atol=1e-5)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_member_learns_the_same_alone_and_among_others(layout: Layout) -> None:
    settings = {
        "ann": Lora(rank=4, dropout=0.3),
        "bob": Lora(rank=9, alpha=7),
        "cid": Lora(rank=2, dropout=0),
    }
    settings["bob"] = Lora(rank=9, alpha=7, dropout=0.1, target_modules=("key",))
    shares = {"ann": np.arange(7), "bob": np.arange(5, 17), "cid": np.arange(11, 14)}
    network = network_of("bert", **settings)
    together = logits(network, shares, layout, training=True)
    learned = {name: gradients(network, name) for name in shares}
    start = 0
    for name, share in shares.items():
        alone = logits(network, {name: share}, layout, training=True)
        assert torch.allclose(together[start : start + len(share)], alone, atol=1e-5)
        for mine, other in zip(learned[name], gradients(network, name), strict=True):
            assert torch.allclose(mine, other, atol=1e-4)
        start += len(share)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_members_routed_as_on_a_gpu_learn_what_each_does_alone(layout: Layout) -> None:
    """Grouped products and draws from keys, in bf16 as there; on a CPU they are slow, and the same."""
    settings = {
        "ann": Lora(rank=4, dropout=0.3),
        "bob": Lora(rank=9, alpha=7, dropout=0.1, target_modules=("key", "value")),
        "cid": Lora(rank=8, dropout=0),
    }
    shares = {"ann": np.arange(7), "bob": np.arange(5, 17), "cid": np.arange(11, 14)}

    def learned(dtype: torch.dtype, *names: str) -> dict[str, list[Tensor]]:
        network = Network(tiny("bert"), "mean", CPU, use_lora=True, dtype=dtype)
        for name in names:
            network.add(name, settings[name], CLASSES, seed=ord(name[0]))
            for value in network.adapter_parameters(name).values():
                torch.nn.init.normal_(value, std=0.05, generator=torch.Generator().manual_seed(1))
        network.layout = layout
        network.train()
        dropout = [Dropout(seed=ord(name[0]), step=3, micro_batch=0) for name in names]
        batch_layout = network.arrange(ROWS, [shares[name] for name in names], names, dropout)
        batch_layout.arrays.update(network.router.arrays(batch_layout, names, dropout))
        batch = batch_layout.on(CPU)
        with network.routed(batch, names, dropout):
            assert network.router.route.ends is not None
            assert (network.router.route.draws is None) == (names == ("cid",))
            torch.autograd.backward(network.logits(batch, names).square().sum())
        return {name: gradients(network, name) for name in names}

    together = learned(torch.bfloat16, *shares)
    for name in shares:
        for mine, exact in zip(together[name], learned(torch.float32, name)[name], strict=True):
            assert (mine - exact).norm() < 0.05 * exact.norm()


def test_dropout_is_the_same_in_both_layouts() -> None:
    network = network_of("bert", ann=Lora(rank=4, dropout=0.4))
    share = {"ann": np.arange(12)}
    packed, padded = (logits(network, share, layout, training=True) for layout in ("packed", "padded"))
    assert torch.allclose(packed, padded, atol=1e-5)
    assert not torch.allclose(packed, logits(network, share), atol=1e-3)


def test_an_adapter_is_drawn_from_its_own_seed_alone() -> None:
    first = network_of("bert", ann=Lora(rank=4))
    torch.manual_seed(123)
    second = network_of("bert", bob=Lora(rank=8), ann=Lora(rank=4))
    second.remove("ann")
    second.add("ann", Lora(rank=4), CLASSES, seed=0)
    mine, other = (
        {key: value for key, value in network.adapter_parameters("ann").items() if "lora_A" in key}
        for network in (first, second)
    )
    assert len(mine) == 4
    assert all(torch.equal(value, other[key]) for key, value in mine.items())


def test_only_adapters_and_heads_are_trained() -> None:
    network = network_of("bert", ann=Lora(rank=4), bob=Lora(rank=2))
    trained = {name for name, value in network.encoder.named_parameters() if value.requires_grad}
    assert trained == {*network.adapter_parameters("ann"), *network.adapter_parameters("bob")}
    trainable, total = network.parameter_counts("ann")
    assert trainable == 2 * 2 * (4 * 32 * 2) + 8 * 33
    assert total - trainable == sum(value.numel() for value in tiny("bert").parameters())


@pytest.mark.parametrize("kind", CONFIGS)
def test_gradient_checkpointing_changes_no_gradient(kind: str) -> None:
    plain = network_of(kind, ann=Lora(rank=4, dropout=0.3))
    logits(plain, {"ann": np.arange(9)}, training=True)
    saving = network_of(kind, ann=Lora(rank=4, dropout=0.3))
    saving.checkpoint_gradients()
    logits(saving, {"ann": np.arange(9)}, training=True)
    for mine, other in zip(gradients(plain, "ann"), gradients(saving, "ann"), strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


def test_checkpointing_computes_the_layers_of_a_frozen_base_again() -> None:
    network = network_of("bert", ann=Lora(rank=4))
    network.checkpoint_gradients()
    calls: list[int] = []
    intermediate = network.encoder.encoder.layer[0].intermediate
    intermediate.register_forward_hook(lambda *_: calls.append(1))
    logits(network, {"ann": np.arange(9)}, training=True)
    assert len(calls) == 2
    logits(network, {"ann": np.arange(9)})
    assert len(calls) == 3  # nothing is computed twice where nobody asks for gradients


def test_a_base_that_cannot_checkpoint_is_refused() -> None:
    network = Network(
        XLMModel(XLMConfig(n_words=VOCABULARY, emb_dim=32, n_layers=2, n_heads=4)), "mean", CPU, use_lora=True
    )
    with pytest.raises(UserError, match=r"^train\.gradient_checkpointing: xlm networks cannot do it"):
        network.checkpoint_gradients()


POSITIONS = SIZES | {"max_position_embeddings": 40}
TABLES: list[tuple[PretrainedConfig, int]] = [
    (BertConfig(**POSITIONS), 40),
    (RobertaConfig(**POSITIONS, pad_token_id=1), 38),
    (GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=40), 40),
    (OPTConfig(**POSITIONS, ffn_dim=48, word_embed_proj_dim=32), 40),
    (NystromformerConfig(**POSITIONS), 40),
    (XLMConfig(n_words=VOCABULARY, emb_dim=32, n_layers=2, n_heads=4, max_position_embeddings=40), 40),
]


@pytest.mark.parametrize(("config", "most"), TABLES, ids=[config.model_type for config, _ in TABLES])
def test_a_row_has_no_more_tokens_than_the_base_has_positions(config: PretrainedConfig, most: int) -> None:
    encoder = AutoModel.from_config(config)
    encoder(input_ids=torch.full((1, most), 9))
    with pytest.raises((IndexError, RuntimeError)):
        encoder(input_ids=torch.full((1, most + 1), 9))
    assert Network(encoder, "mean", CPU, use_lora=True).max_tokens == most


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**DECODER, max_position_embeddings=40),
        DebertaV2Config(**POSITIONS, relative_attention=True, position_biased_input=False),
    ],
    ids=["llama", "deberta-v2"],
)
def test_positions_that_are_computed_set_no_limit(config: PretrainedConfig) -> None:
    assert Network(AutoModel.from_config(config), "mean", CPU, use_lora=True).max_tokens is None


def test_full_fine_tuning_trains_everything() -> None:
    network = Network(tiny("bert"), "cls", CPU, use_lora=False)
    network.add("ann", Lora(), CLASSES, seed=0)
    trainable, total = network.parameter_counts("ann")
    assert trainable == total
    logits(network, {"ann": np.arange(4)}, training=True)
    assert all(p.grad is not None for n, p in network.encoder.named_parameters() if "pooler" not in n)


CAUSAL: dict[str, PretrainedConfig] = {
    "llama": CONFIGS["llama"],
    "bloom": BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
    "openai-gpt": OpenAIGPTConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4),
    "xglm": XGLMConfig(vocab_size=VOCABULARY, d_model=32, num_layers=2, attention_heads=4, ffn_dim=48),
    "mpt": MptConfig(vocab_size=VOCABULARY, d_model=32, n_layers=2, n_heads=4, max_seq_len=64),
}


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_causal_network_is_not_read_at_its_first_token(kind: str) -> None:
    """Whether its modules say that they are causal or not."""
    encoder = AutoModel.from_config(copy.deepcopy(CAUSAL[kind]))
    with pytest.raises(UserError, match=r"has seen nothing in a causal network; write .*: last or mean$"):
        Network(encoder, "cls", CPU, use_lora=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", sorted(CONFIGS.keys() - {"llama", "qwen2", "gpt2"}))
def test_other_networks_are_read_at_their_first_token(kind: str, dtype: torch.dtype) -> None:
    assert Network(tiny(kind), "cls", CPU, use_lora=True, dtype=dtype).pooling == "cls"


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_last_pooling_reads_the_last_token_of_each_row(kind: str, layout: Layout) -> None:
    network = Network(tiny(kind), "last", CPU, use_lora=True)
    network.add("ann", Lora(), CLASSES, seed=0)  # its lora_B is zero, so that the base alone speaks
    found = logits(network, {"ann": np.arange(9)}, layout)
    plain, heads = tiny(kind), network.heads["ann"]
    for row in range(9):
        tokens = ROWS.tokens[ROWS.offsets[row] : ROWS.offsets[row + 1]]
        state = plain(input_ids=torch.tensor(tokens[None], dtype=torch.int64)).last_hidden_state[0, -1]
        assert torch.allclose(found[row], state @ heads.weight.T + heads.bias, atol=1e-5)


def test_what_a_layer_gives_may_be_written_into() -> None:
    """As DeBERTa's first version does with its projected positions."""
    config = DebertaConfig(**SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"])
    network = Network(AutoModel.from_config(config).eval(), "mean", CPU, use_lora=True)
    network.add("ann", Lora(rank=4, target_modules="all-linear"), CLASSES, seed=0)
    for value in network.adapter_parameters("ann").values():
        torch.nn.init.normal_(value, std=0.2, generator=torch.Generator().manual_seed(1))
    together = logits(network, {"ann": np.array([3, 9, 20])}, "padded")
    alone = torch.cat([logits(network, {"ann": np.array([row])}, "padded") for row in (3, 9, 20)])
    assert torch.allclose(together, alone, atol=1e-5)
    logits(network, {"ann": np.arange(4)}, "padded", training=True)
    assert len(gradients(network, "ann")) == len(network.parameters("ann"))


def test_an_architecture_with_its_own_attention_is_padded() -> None:
    config = DebertaV2Config(**SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"])
    network = Network(AutoModel.from_config(config).eval(), "mean", CPU, use_lora=True)
    network.add("ann", Lora(rank=4), CLASSES, seed=0)
    assert network.layouts == ("padded",)
    assert logits(network, {"ann": np.arange(4)}, "padded").shape == (4, 8)
    with pytest.raises(UserError, match="deberta-v2 networks can only be run padded"):
        network.layout = "packed"


def test_positions_that_a_layer_adapts_too_are_one_members_own() -> None:
    shared = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
    config = DebertaV2Config(**SIZES, **shared, position_buckets=16)
    network = Network(AutoModel.from_config(config).eval(), "mean", CPU, use_lora=True)
    for seed, name in enumerate(("ann", "bob")):
        network.add(name, Lora(rank=4, dropout=0.3), CLASSES, seed)
        for value in network.adapter_parameters(name).values():
            torch.nn.init.normal_(value, std=0.2, generator=torch.Generator().manual_seed(seed))
    alone = torch.cat([logits(network, {"ann": np.array([row])}, "padded") for row in (3, 9, 20)])
    assert torch.allclose(logits(network, {"ann": np.array([3, 9, 20])}, "padded"), alone, atol=1e-5)
    logits(network, {"ann": np.arange(12)}, "padded", training=True)
    gradients(network, "ann")
    with pytest.raises(UserError, match=r"its members cannot be trained together; set sweep\.parallel=1"):
        logits(network, {"ann": np.arange(4), "bob": np.arange(4)}, "padded")


def test_bfloat16_stays_close_to_fp32() -> None:
    exact = logits(network_of("bert", ann=Lora(rank=4)), {"ann": np.arange(9)})
    network = Network(tiny("bert"), "mean", CPU, use_lora=True, dtype=torch.bfloat16)
    network.add("ann", Lora(rank=4), CLASSES, seed=0)
    for key, value in network.adapter_parameters("ann").items():
        if "lora_B" in key:
            torch.nn.init.normal_(value, std=0.2, generator=torch.Generator().manual_seed(0))
    assert all(value.dtype == torch.float32 for value in network.parameters("ann"))
    assert (logits(network, {"ann": np.arange(9)}) - exact).abs().max() < 0.05
