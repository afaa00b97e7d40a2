"""Instruction tuning on the engine against plain loops of transformers and PEFT."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel

from loratrack.config import RunConfig
from loratrack.data.conversations.dataset import Prompted
from loratrack.errors import DataError
from loratrack.experiments.watcher import Nobody
from loratrack.model import weights
from loratrack.model.network import Network
from loratrack.model.passes import predict
from loratrack.training.cohort import Cohort, train
from loratrack.training.layout import check_that_nothing_drops, choose_layout, fault_of_packing
from loratrack.training.member import Member
from loratrack.training.objectives import generation
from loratrack.training.objectives.generation import Generation, target_arrays, target_counts
from loratrack.training.objectives.objective import MicroBatch
from loratrack.training.schedule import epoch_batches

VOCABULARY, WORDS = 60, 55
STORIES = Path(__file__).parents[3] / "shared" / "data" / "stories260k"
"""A small pretrained Llama; its licence does not let us bring it along."""
SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "initializer_range": 0.2, "bos_token_id": 1}
CONFIGS = {
    "llama": LlamaConfig(
        **SIZES,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        eos_token_id=2,
    ),
    "gpt2": GPT2Config(
        **SIZES, n_embd=16, n_layer=2, n_head=2, n_positions=64, eos_token_id=2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ),
}  # fmt: skip
needs_stories = pytest.mark.skipif(not STORIES.is_dir(), reason="the pretrained base is not here")
RATES = {"llama": 1e-2, "gpt2": 1e-2, "stories": 1e-3}
BASES = ["llama", "gpt2", pytest.param("stories", marks=needs_stories)]

pytestmark = [
    # PEFT's own calls
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


def base_of(name: str, **more: Any) -> PreTrainedModel:
    if name == "stories":
        return AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32, **more)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[name]), **more)


def conversations(rows: int, seed: int, first_word: int = 5, stop: int = 2) -> Prompted:
    """A prompt and its answer in each row; in every third a second turn: its targets are two spans."""
    rng = np.random.default_rng(seed)
    tokens: list[int] = []
    is_target: list[bool] = []
    offsets = [0]
    for row in range(rows):
        for _ in range(1 + (row % 3 == 0)):
            prompt, answer = (
                rng.integers(first_word, first_word + WORDS, rng.integers(2, 9)).tolist() for _ in range(2)
            )
            tokens += [1, *prompt, *answer, stop]
            is_target += [False] * (len(prompt) + 1) + [True] * (len(answer) + 1)
        offsets.append(len(tokens))
    return Prompted(
        np.array(tokens, np.int32), np.array(offsets, np.int64), None, np.array(is_target, dtype=bool)
    )


@dataclass(frozen=True)
class Splits:
    train: Prompted
    validation: Prompted
    test: Prompted | None = None


DATASET = Splits(conversations(22, 0), conversations(9, 1), conversations(7, 2))


def config_of(name: str = "tiny", lora: dict[str, Any] | None = None, **train: Any) -> RunConfig:
    rates = {"batch_size": 6, "lr": 1e-2, "epochs": 2, "log_steps": 1000, "save_strategy": "last"}
    rates |= {"schedule": "constant", "warmup_share": 0, "weight_decay": 0.1}
    settings = {
        "exp_id": name,
        "data": {"raw_data_path": "rows.csv", "label_subset": ["a", "b"]},
        "model": {"lora": {"rank": 4, "dropout": 0} | (lora or {})},
        "train": rates | train,
    }
    return RunConfig.model_validate(settings)


def cohort_of(
    base: str = "llama",
    *,
    use_lora: bool = True,
    dataset: Splits = DATASET,
    layout: str = "packed",
    dtype: torch.dtype = torch.float32,
) -> Cohort:
    network = Network(base_of(base), None, torch.device("cpu"), use_lora=use_lora, dtype=dtype)
    network.layout = layout  # type: ignore[assignment]
    notices: list[str] = []
    return Cohort(network, Generation(dataset), notices.append)


Seat = Callable[[Cohort, RunConfig, Path], Member]


def steps(cohort: Cohort, count: int) -> None:
    """So many steps of every member within their first epoch."""
    cohort.network.train()
    for _ in range(count):
        cohort.step()


def losses_of(member: Member) -> list[float]:
    """Of each step since the last reading."""
    return [float(sums[0]) / count for sums, count in member.meter.unread]


def weights_of(member: Member) -> dict[str, Tensor]:
    named = member.network.adapter_parameters(member.name)
    return {name.replace(f".{member.name}", ""): value.detach().clone() for name, value in named.items()}


def padded(split: Prompted, rows: Sequence[int]) -> dict[str, Tensor]:
    """What a data collator makes: labels of -100 where nothing is learned."""
    ends = [(int(split.offsets[row]), int(split.offsets[row + 1])) for row in rows]
    width = max(end - start for start, end in ends)
    ids, labels, mask = torch.zeros(3, len(rows), width, dtype=torch.int64).unbind()
    labels -= 100
    for line, (start, end) in enumerate(ends):
        size = end - start
        ids[line, :size] = torch.from_numpy(split.tokens[start:end].astype(np.int64))
        mask[line, :size] = 1
        target = torch.from_numpy(split.is_target[start:end].copy())
        labels[line, :size] = torch.where(target, ids[line, :size], -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def plain_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)


def plain_loop(model: Any, config: RunConfig, split: Prompted, count: int) -> list[float]:
    """The same training as a person would write it; the loss of each step."""
    settings = config.train
    trained = [value for value in model.parameters() if value.requires_grad]
    decayed = [value for value in trained if value.ndim > 1]
    others = [value for value in trained if value.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}]
    groups += [{"params": others, "weight_decay": 0.0}] if others else []
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=settings.peak_rate)
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=settings.peak_rate, momentum=0.9)
    losses = []
    order = epoch_batches(len(split), settings.batch_size, settings.seed, 1)
    model.train()
    for _, rows in zip(range(count), order, strict=False):
        loss = plain_loss(model, padded(split, rows.tolist()))
        loss.backward()  # type: ignore[no-untyped-call]
        assert settings.max_grad_norm is not None
        torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("base", BASES)
def test_steps_are_those_of_a_plain_loop_with_peft(
    base: str, layout: str, seat: Seat, tmp_path: Path
) -> None:
    cohort, config = cohort_of(base, layout=layout), config_of(lr=RATES[base])
    member = seat(cohort, config, tmp_path)
    weights.save(cohort.network, member.name, tmp_path / "start")
    plain = PeftModel.from_pretrained(base_of(base), tmp_path / "start" / "lora_adapter", is_trainable=True)
    assert type(plain).__name__ == "PeftModelForCausalLM"
    steps(cohort, 4)
    expected = plain_loop(plain, config, DATASET.train, 4)
    assert losses_of(member) == pytest.approx(expected, abs=1e-5)
    learned = {name.replace(".default", ""): value for name, value in plain.named_parameters()}
    for name, value in weights_of(member).items():
        torch.testing.assert_close(value, learned[f"base_model.model.{name}"].detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("base", BASES)
def test_a_base_trained_whole_takes_the_steps_of_a_plain_loop(base: str, seat: Seat, tmp_path: Path) -> None:
    """Without Adam, which makes a whole step of a gradient that is nothing but rounding."""
    cohort, config = cohort_of(base, use_lora=False), config_of(optimizer="sgd", lr=RATES[base])
    member, plain = seat(cohort, config, tmp_path), base_of(base)
    steps(cohort, 4)
    assert losses_of(member) == pytest.approx(plain_loop(plain, config, DATASET.train, 4), abs=1e-5)
    for name, value in plain.named_parameters():
        torch.testing.assert_close(weights_of(member)[name], value.detach(), atol=1e-5, rtol=0)
    weights.save(cohort.network, member.name, tmp_path / "kept")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "kept" / "model", dtype=torch.float32)
    batch = padded(DATASET.validation, range(9))
    with torch.no_grad():
        assert float(plain_loss(saved, batch)) == pytest.approx(float(plain_loss(plain, batch)), abs=1e-5)
    other = cohort_of(base, use_lora=False)
    reloaded = seat(other, config, tmp_path / "other")
    weights.load(other.network, reloaded.name, tmp_path / "kept")
    assert all(torch.equal(value, weights_of(member)[name]) for name, value in weights_of(reloaded).items())


@pytest.mark.parametrize("base", BASES)
def test_layouts_and_micro_batches_change_nothing(base: str, seat: Seat, tmp_path: Path) -> None:
    """Micro-batches of 4 and 2 rows, with targets of other numbers: a mean of means would be another loss."""
    learned, losses = [], []
    for layout, size in (("packed", None), ("padded", None), ("packed", 4), ("padded", 4)):
        cohort = cohort_of(base, layout=layout)
        member = seat(cohort, config_of(micro_batch_size=size, lr=RATES[base]), tmp_path / f"{layout}{size}")
        steps(cohort, 3)
        losses.append(losses_of(member))
        learned.append(weights_of(member))
    for mine, other in zip(losses[1:], learned[1:], strict=True):
        assert mine == pytest.approx(losses[0], abs=1e-5)
        for name, value in other.items():
            torch.testing.assert_close(value, learned[0][name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("use_lora", [True, False])
@pytest.mark.parametrize("base", ["llama", "gpt2"])
def test_products_of_bf16_learn_nearly_the_same(
    base: str, use_lora: bool, seat: Seat, tmp_path: Path
) -> None:
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        cohort = cohort_of(base, use_lora=use_lora, dtype=dtype)
        member = seat(cohort, config_of(), tmp_path / str(dtype))
        steps(cohort, 4)
        losses.append(losses_of(member))
        assert all(value.dtype == torch.float32 for value in weights_of(member).values())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]


@pytest.mark.parametrize("base", ["llama", "gpt2"])
def test_what_is_asked_at_the_start_of_a_training_is_answered(base: str, seat: Seat, tmp_path: Path) -> None:
    cohort = cohort_of(base)
    network, member = cohort.network, seat(cohort, config_of(), tmp_path)
    assert fault_of_packing(network, DATASET.train, member.name, 6) is None
    notices: list[str] = []
    assert choose_layout(network, DATASET.train, member.name, 6, notices.append) in network.layouts
    assert len(notices) == 1
    check_that_nothing_drops(network, DATASET.train, member.name)
    assert not member.flat_parameters.gradients.any()


@pytest.mark.parametrize("use_lora", [True, False])
def test_recomputed_activations_change_nothing(use_lora: bool, seat: Seat, tmp_path: Path) -> None:
    losses = []
    for recomputes in (False, True):
        cohort = cohort_of(use_lora=use_lora)
        if recomputes:
            cohort.network.checkpoint_gradients()
        member = seat(cohort, config_of(lora={"dropout": 0.1}), tmp_path / str(recomputes))
        steps(cohort, 3)
        losses.append(losses_of(member))
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_cohort_of_two_learns_what_each_does_alone(layout: str, seat: Seat, tmp_path: Path) -> None:
    configs = [
        config_of("a", {"dropout": 0.1}, seed=1, lr=5e-3),
        config_of("b", {"rank": 2, "target_modules": ["q_proj"]}, seed=2, micro_batch_size=4),
    ]
    together = cohort_of(layout=layout)
    members = [seat(together, config, tmp_path / "together") for config in configs]
    steps(together, 3)
    evaluations = together.objective.evaluate(together.network, "validation", members)
    for member, config in zip(members, configs, strict=True):
        alone = cohort_of(layout=layout)
        single = seat(alone, config, tmp_path / "alone")
        steps(alone, 3)
        assert losses_of(member) == pytest.approx(losses_of(single), abs=1e-5)
        for name, value in weights_of(single).items():
            torch.testing.assert_close(weights_of(member)[name], value, atol=1e-5, rtol=0)
        expected = alone.objective.evaluate(alone.network, "validation", [single])[single.name]
        got = evaluations[member.name]
        assert got.loss == pytest.approx(expected.loss, abs=1e-5)
        assert got.scores() == pytest.approx(expected.scores(), rel=1e-5)


def test_a_member_that_breaks_does_not_touch_the_others(seat: Seat, tmp_path: Path) -> None:
    together, alone = cohort_of(), cohort_of()
    broken, member = (seat(together, config_of(name), tmp_path) for name in ("broken", "sound"))
    single = seat(alone, config_of("sound"), tmp_path / "alone")
    broken.flat_parameters.values.fill_(torch.nan)
    steps(together, 2)
    steps(alone, 2)
    assert losses_of(member) == pytest.approx(losses_of(single), abs=1e-5)
    assert all(map(math.isnan, losses_of(broken)))


@pytest.mark.parametrize("base", BASES)
def test_eight_records_are_learned_by_heart(base: str, seat: Seat, tmp_path: Path) -> None:
    few = conversations(8, 3)
    if base == "stories":  # which knows only words and its first token: all other rows are alike
        few = conversations(8, 3, first_word=400, stop=1)
    cohort = cohort_of(base, dataset=Splits(few, few))
    config = config_of(
        lora={"rank": 32}, epochs=60, batch_size=4, weight_decay=0, lr=min(4 * RATES[base], 1e-2)
    )
    member = seat(cohort, config, tmp_path)
    train(cohort, Nobody())
    last = member.history[-1]
    assert last["token_accuracy"] > 0.99
    assert last["train/token_accuracy"] > 0.99
    assert last["perplexity"] == pytest.approx(math.exp(last["validation/loss"]))
    assert last["train/loss"] < 0.5 * member.history[0]["train/loss"]


def test_an_epoch_is_averaged_over_its_targets(seat: Seat, tmp_path: Path) -> None:
    cohort = cohort_of()
    member = seat(cohort, config_of(epochs=1, lr=1e-12, max_grad_norm=1e-9), tmp_path)
    train(cohort, Nobody())
    with torch.no_grad():
        whole = float(plain_loss(base_of("llama"), padded(DATASET.train, range(len(DATASET.train)))))
    (values,) = member.history
    assert values["train/loss"] == pytest.approx(whole, abs=1e-5)
    assert set(values) == {
        *("train/loss", "train/token_accuracy", "validation/loss", "perplexity", "token_accuracy"),
        *("system/epoch_seconds", "system/examples_per_second"),
    }


def test_to_learn_the_prompts_too_is_another_training(seat: Seat, tmp_path: Path) -> None:
    everything = replace(DATASET.train, is_target=np.ones_like(DATASET.train.is_target))
    cohorts = [cohort_of(), cohort_of(dataset=Splits(everything, DATASET.validation))]
    members = [seat(cohort, config_of(), tmp_path / str(n)) for n, cohort in enumerate(cohorts)]
    for cohort in cohorts:
        steps(cohort, 3)
    first, second = map(weights_of, members)
    assert max(float((value - second[name]).abs().max()) for name, value in first.items()) > 1e-3


@contextmanager
def limited_to(tokens: int, network: Network) -> Iterator[list[int]]:
    """A base that runs out of memory with more tokens; what it was asked for."""
    asked: list[int] = []

    def look(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        asked.append(inputs["input_ids"].numel())
        if asked[-1] > tokens:
            raise torch.OutOfMemoryError

    handle = network.encoder.register_forward_pre_hook(look, with_kwargs=True)
    yield asked
    handle.remove()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_an_evaluation_is_that_of_whole_logits_whatever_fits(split: Any, seat: Seat, tmp_path: Path) -> None:
    cohort, rows = cohort_of(), getattr(DATASET, split)
    members = [seat(cohort, config_of(name, seed=seed), tmp_path) for seed, name in enumerate("ab")]
    steps(cohort, 2)
    for limit in (10_000, 100, 40):
        with limited_to(limit, cohort.network) as asked:
            found = cohort.objective.evaluate(cohort.network, split, members)
            assert min(asked) <= limit
            asked.clear()
            cohort.objective.evaluate(cohort.network, split, members)
            # what was once too large is not tried again, but for the two members in one pass
            assert sum(count > limit for count in asked) == (limit == 40)
        for member in members:
            weights.save(cohort.network, member.name, tmp_path / f"{member.name}{limit}")
            folder = tmp_path / f"{member.name}{limit}" / "lora_adapter"
            plain = PeftModel.from_pretrained(base_of("llama"), folder).eval()
            batch = padded(rows, range(len(rows)))
            labels = batch.pop("labels")[:, 1:]
            with torch.no_grad():
                logits = plain(**batch).logits[:, :-1]
            right = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
            assert found[member.name].loss == pytest.approx(float(right), abs=1e-5)
            hits = (logits.argmax(dim=-1) == labels).sum() / (labels >= 0).sum()
            assert found[member.name].scores()["token_accuracy"] == pytest.approx(float(hits), abs=1e-6)


def test_a_probe_holds_the_logits_of_the_last_targets(seat: Seat, tmp_path: Path) -> None:
    cohort = cohort_of()
    member = seat(cohort, config_of(), tmp_path)
    probe = cohort.objective.probe(cohort.network, member.name)
    assert probe.logits.shape == (generation.PROBE_ROWS, VOCABULARY)
    split, plain = DATASET.validation, base_of("llama").eval()
    for row, logits in enumerate(probe.logits):
        batch = padded(split, [row])
        last = int((batch["labels"][0] >= 0).nonzero()[-1])
        with torch.no_grad():
            right = plain(input_ids=batch["input_ids"]).logits[0, last - 1]
        torch.testing.assert_close(logits, right, atol=1e-5, rtol=1e-5)
    again = predict(cohort.network, probe, [member.name])[member.name]
    assert torch.equal(again, probe.logits)


def test_the_first_token_of_a_row_is_no_target() -> None:
    split = replace(DATASET.train, is_target=np.ones_like(DATASET.train.is_target))
    assert target_counts(split).tolist() == (DATASET.train.lengths - 1).tolist()
    rows, network = np.array([3, 0]), cohort_of().network
    arrays = target_arrays(split, network.arrange(split, [rows], ["any"]), [rows])
    third, first = split.lengths[3], split.lengths[0]
    positions = [*range(third - 1), *range(third, third + first - 1)]
    assert arrays["positions"][arrays["members"] == 0].tolist() == positions


def test_a_row_without_targets_is_refused() -> None:
    is_target = DATASET.train.is_target.copy()
    for row in (4, 7):
        is_target[DATASET.train.offsets[row] : DATASET.train.offsets[row + 1]] = False
    with pytest.raises(DataError) as error:
        Generation(Splits(replace(DATASET.train, is_target=is_target), DATASET.validation))
    assert str(error.value) == (
        "2 training rows without a token to be learned, the first is row 5; leave them out, or raise"
        " data.max_len"
    )


def test_weights_are_shares_of_the_whole_batch(seat: Seat, tmp_path: Path) -> None:
    cohort = cohort_of()
    member = seat(cohort, config_of(), tmp_path)
    objective, batch = cohort.objective, np.arange(6)
    totals = []
    for number, rows in enumerate((batch[:4], batch[4:])):
        layout = cohort.network.arrange(DATASET.train, [rows], [member.name])
        arrays = objective.arrays(layout, [MicroBatch(member, rows, batch, number)])
        real = arrays["members"] == 0
        assert real.sum() == objective.num_targets(rows)
        assert (arrays["weights"][~real] == 0).all()
        totals.append(arrays["weights"].sum())
    assert sum(totals) == pytest.approx(1)


def test_a_bundle_of_an_adapter_has_no_heads(seat: Seat, tmp_path: Path) -> None:
    cohort = cohort_of()
    member = seat(cohort, config_of(), tmp_path)
    steps(cohort, 1)
    weights.save(cohort.network, member.name, tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["lora_adapter"]
    peft = cohort.network.peft
    assert peft is not None
    saved = {
        name: value.clone()
        for name, value in get_peft_model_state_dict(peft, adapter_name=member.name).items()
    }
    member.flat_parameters.values.zero_()
    weights.load(cohort.network, member.name, tmp_path / "kept")
    now = get_peft_model_state_dict(peft, adapter_name=member.name)
    assert all(torch.equal(value, now[name]) for name, value in saved.items())
