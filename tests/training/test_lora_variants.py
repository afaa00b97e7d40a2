"""The variants of LoRA that PEFT has and our routing computes by itself, beside PEFT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from tests.cohorts import BASES, DATASET
from tests.plain import Plain, peft_of

from loratrack.config import RunConfig
from loratrack.experiments.watcher import Nobody
from loratrack.model import weights
from loratrack.training.cohort import Cohort, train
from loratrack.training.member import Member

VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "gaussian": {"init": "gaussian"},
    "orthogonal": {"init": "orthogonal", "layers": [1]},
    "all": {"use_rslora": True, "use_dora": True, "init": "gaussian", "layers": [0]},
}
IN_PEFT = {"init": "init_lora_weights", "layers": None}


def for_peft(variant: dict[str, Any]) -> dict[str, Any]:
    return {IN_PEFT.get(name) or name: value for name, value in variant.items() if name != "layers"}


@pytest.fixture(scope="module")
def trained(
    new_cohort: Callable[..., Cohort],
    config_of: Callable[..., RunConfig],
    seat: Callable[..., Member],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[Member, Plain, Member]]:
    """All of them in one cohort, each by itself in plain PEFT, and each alone in ours."""
    folder, cohort = tmp_path_factory.mktemp("variants"), new_cohort([])
    found = {}
    for name, variant in VARIANTS.items():
        lora = {"rank": 4, "dropout": 0, "target_modules": "all-linear", **variant}
        config = config_of(name, {"lr": 2e-3}, lora=lora)
        member = seat(cohort, config, folder)
        alone = new_cohort([])
        single = seat(alone, config, folder / "alone")
        found[name] = member, Plain(member, torch.optim.AdamW, **for_peft(variant)), single
        train(alone, Nobody())
    train(cohort, Nobody())
    for _, plain, _ in found.values():
        plain.train()
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_learns_what_plain_peft_does(
    trained: dict[str, tuple[Member, Plain, Member]], name: str
) -> None:
    member, plain, single = trained[name]
    assert (member.step, single.step) == (12, 12)
    assert plain.largest_difference(member) < 1e-5, "among the others"
    assert plain.largest_difference(single) < 1e-5, "alone"


@pytest.mark.parametrize("name", VARIANTS)
def test_its_saved_adapter_is_peft_s_own(
    trained: dict[str, tuple[Member, Plain, Member]], name: str, tmp_path: Path
) -> None:
    member, plain, _ = trained[name]
    weights.save(member.network, member.name, tmp_path / "saved")
    torch.manual_seed(0)
    loaded = plain.peft = peft_of(BASES["bert"]().eval(), tmp_path / "saved" / "lora_adapter")
    rows = [0, 1, 2, 3]
    network = member.network
    network.eval()
    batch = network.arrange(DATASET.train, [torch.tensor(rows).numpy()], [member.name]).on(network.device)
    with torch.no_grad(), network.routed(batch, [member.name]):
        assert torch.allclose(network.logits(batch, [member.name]), plain.logits(rows), atol=1e-5)
    before = [value.detach().clone() for value in network.parameters(member.name)]
    with torch.no_grad():
        for value in network.parameters(member.name):
            value.add_(1)
    weights.load(network, member.name, tmp_path / "saved")
    assert get_peft_model_state_dict(loaded).keys() == weights_of(member).keys()
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(member.name), strict=True))


def weights_of(member: Member) -> dict[str, Any]:
    assert member.network.peft is not None
    return dict(get_peft_model_state_dict(member.network.peft, adapter_name=member.name))


@pytest.mark.parametrize("name", ["gaussian", "orthogonal", "dora"])
def test_it_begins_as_peft_does(
    new_cohort: Callable[..., Cohort],
    config_of: Callable[..., RunConfig],
    seat: Callable[..., Member],
    tmp_path: Path,
    name: str,
) -> None:
    cohort = new_cohort([])
    config = config_of(name, {"seed": 7}, lora={"rank": 4, "target_modules": ["query"], **VARIANTS[name]})
    member = seat(cohort, config, tmp_path)
    modules = list(cohort.network.coverage[member.name].modules)
    settings = LoraConfig(r=4, lora_alpha=32, target_modules=modules, **for_peft(VARIANTS[name]))
    torch.manual_seed(0)
    encoder = BASES["bert"]()
    torch.manual_seed(7)
    theirs = get_peft_model_state_dict(peft_of(encoder, settings))
    ours = weights_of(member)
    assert theirs.keys() == ours.keys()
    assert all(torch.allclose(theirs[key], ours[key], atol=1e-6) for key in theirs)
