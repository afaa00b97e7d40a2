from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    Gemma2Config,
    GptOssConfig,
    NemotronConfig,
    PretrainedConfig,
)

from loratrack.config import RunConfig, load
from loratrack.data import Dataset
from loratrack.errors import UserError
from loratrack.model.network import Network
from loratrack.training import layout, session
from loratrack.training.cohort import Cohort
from loratrack.training.log import ListLog
from loratrack.training.member import Member


@pytest.fixture
def network(
    new_cohort: Callable[[list[str]], Cohort],
    seat: Callable[[Cohort, RunConfig, Path], Member],
    config_of: Callable[..., RunConfig],
    tmp_path: Path,
) -> Network:
    cohort = new_cohort([])
    seat(cohort, config_of(), tmp_path)
    return cohort.network


def choose(network: Network, dataset: Dataset, notices: list[str]) -> str:
    return layout.choose_layout(network, dataset.train, "member-tiny", 8, notices.append)


@pytest.mark.parametrize(("slow", "expected"), [("packed", "padded"), ("padded", "packed")])
def test_the_faster_layout_is_taken_and_told(
    network: Network, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, slow: str, expected: str
) -> None:
    monkeypatch.setattr(layout, "step_seconds", lambda *words: 0.009 if words[3] == slow else 0.001)
    notices: list[str] = []
    assert choose(network, dataset, notices) == expected
    assert notices[0].startswith(f"layout: {expected} (a step of 8 examples: packed ")


def test_packing_that_gives_other_logits_is_refused(
    network: Network, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert layout.fault_of_packing(network, dataset.train, "member-tiny", 8) is None
    monkeypatch.setattr(layout, "_difference", lambda *_: 0.5)
    assert layout.fault_of_packing(network, dataset.train, "member-tiny", 8) == (
        "this architecture does not give the same result on packed rows (50% off)"
    )


def test_the_measuring_leaves_no_trace(network: Network, dataset: Dataset) -> None:
    before = [value.detach().clone() for value in network.parameters("member-tiny")]
    state = torch.get_rng_state()
    choose(network, dataset, [])
    after: list[Any] = network.parameters("member-tiny")
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert not network.flat_parameters("member-tiny").gradients.any()
    assert torch.equal(state, torch.get_rng_state())


SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OTHER_ATTENTION = {
    "gemma2": (
        Gemma2Config(**SIZES, attn_logit_softcapping=2.0),
        "its attention takes softcap, which packed rows do not have",
    ),
    "gpt_oss": (
        GptOssConfig(**SIZES, num_local_experts=2, num_experts_per_tok=1),
        "its attention takes s_aux, which packed rows do not have",
    ),
    "nemotron": (NemotronConfig(**SIZES), "its layers do not tell their attention how rows are packed"),
}


@pytest.fixture
def new_base(sample: Any, tmp_path: Path) -> Callable[[PretrainedConfig], Path]:
    """A folder with random weights of an architecture, and the sample's tokenizer."""

    def make(config: PretrainedConfig) -> Path:
        folder = Path(shutil.copytree(sample.base, tmp_path / "base"))
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(sample.base).save_pretrained(folder)  # with its tokenizer.json
        return folder

    return make


@pytest.mark.parametrize("kind", OTHER_ATTENTION)
def test_attention_that_packed_rows_do_not_have_is_run_padded(
    sample: Any, new_base: Callable[[PretrainedConfig], Path], tmp_path: Path, kind: str
) -> None:
    config, fault = OTHER_ATTENTION[kind]
    arch = f"model.arch={new_base(config)}"
    run = load(
        sample.config, [arch, "model.pooling=last", "model.lora.target_modules=auto", "train.epochs=1"]
    )
    auto, packed = (
        run.model_copy(update={"train": run.train.model_copy(update={"layout": name})})
        for name in ("auto", "packed")
    )
    log = ListLog()
    prepared = session.set_up(auto, log.notice)
    member = session.enter(prepared, auto, log, tmp_path)
    assert f"layout: padded, since {fault}" in log.notices
    assert member.config.train.layout == "padded"
    while prepared.cohort.training:
        prepared.cohort.end_epochs(prepared.cohort.step())
    assert member.status == "finished"

    prepared = session.set_up(packed, log.notice)
    with pytest.raises(UserError) as caught:
        session.enter(prepared, packed, log, tmp_path)
    assert str(caught.value) == (f"train.layout: must not be packed, since {fault}; write padded or auto")
