"""Out of memory in a cohort: the member that is too large pays for it, its neighbours do not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cohorts import DATASET

from loratrack.config import RunConfig, load
from loratrack.errors import UserError
from loratrack.model.network import Network
from loratrack.model.passes import predict
from loratrack.training import session
from loratrack.training.cohort import Cohort
from loratrack.training.log import ListLog
from loratrack.training.member import Member

NewCohort = Callable[..., Cohort]
ConfigOf = Callable[..., RunConfig]
Seat = Callable[[Cohort, RunConfig, Path], Member]


def trained_weights(cohort: Cohort, member: Member, count: int) -> list[Any]:
    for _ in range(count):
        cohort.step()
    return [parameter.detach().clone() for parameter in cohort.network.parameters(member.name)]


def refuse(cohort: Cohort, name: str, most_tokens: int) -> None:
    """Passes of this member with more tokens do not fit."""

    def look(module: torch.nn.Module, inputs: Any) -> None:
        if name in cohort.network.router.route.members and inputs[0].numel() > most_tokens * 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    cohort.network.encoder.encoder.layer[0].attention.self.key.register_forward_pre_hook(look)


def test_a_member_that_is_too_large_fails_and_leaves_its_neighbours_as_they_were(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    alone = new_cohort([])
    expected = trained_weights(alone, seat(alone, config_of("small"), tmp_path / "alone"), 4)
    notices: list[str] = []
    cohort = new_cohort(notices)
    small, greedy = (seat(cohort, config_of(name), tmp_path) for name in ("small", "greedy"))
    refuse(cohort, greedy.name, most_tokens=0)
    learned = trained_weights(cohort, small, 4)
    assert (greedy.status, greedy.reason) == (
        "failed",
        "out of memory with a micro-batch of 1 example; lower data.max_len, set"
        " train.gradient_checkpointing=true, or take a smaller base",
    )
    assert small.is_training
    assert small.step == 4
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(learned, expected, strict=True))


def test_only_the_large_members_micro_batches_are_halved(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    cohort = new_cohort([])
    small, large = (seat(cohort, config_of(name), tmp_path) for name in ("small", "large"))
    refuse(cohort, large.name, most_tokens=40)
    cohort.step()
    assert cohort.memory.micro_batch_limits.keys() == {large.name}
    assert (small.step, large.step) == (1, 1)


@contextmanager
def room_without_gradients(network: Network, most_tokens: int) -> Iterator[None]:
    """Passes without gradients do not fit when they have more tokens."""

    def look(module: torch.nn.Module, inputs: Any) -> None:
        if not torch.is_grad_enabled() and inputs[0].shape[:-1].numel() > most_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    handle = network.encoder.encoder.layer[0].attention.self.key.register_forward_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize(("most_tokens", "rows"), [(80, 6), (40, 2), (20, 1)])
def test_a_prediction_that_does_not_fit_is_made_in_smaller_passes(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path, most_tokens: int, rows: int
) -> None:
    """Down to one row of one member, which is all that 20 tokens hold."""
    cohort = new_cohort([])
    names = [seat(cohort, config_of(name), tmp_path).name for name in ("one", "two")]
    expected = predict(cohort.network, DATASET.validation, names)
    with room_without_gradients(cohort.network, most_tokens):
        found = predict(cohort.network, DATASET.validation, names)
    assert cohort.network.rows_in_a_pass == rows
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in names)


def test_a_single_text_that_does_not_fit_is_told(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    cohort = new_cohort([])
    member = seat(cohort, config_of(), tmp_path)
    with (
        room_without_gradients(cohort.network, 1),
        pytest.raises(UserError, match=r"^out of memory with a single text; lower data\.max_len"),
    ):
        predict(cohort.network, DATASET.validation, [member.name])


def test_an_evaluation_that_does_not_fit_costs_no_epoch(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    histories = []
    for most_tokens in (10**6, 40):
        cohort = new_cohort([])
        member = seat(cohort, config_of(), tmp_path / f"{most_tokens}")
        with room_without_gradients(cohort.network, most_tokens):
            while cohort.training:
                cohort.end_epochs(cohort.step())
        histories.append([epoch["avg_f1"] for epoch in member.history])
    assert len(histories[0]) == 2
    assert histories[0] == histories[1]


@pytest.fixture
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_two_threads")
def test_what_is_measured_at_the_start_takes_fewer_rows_when_memory_runs_out(
    sample: Any, tmp_path: Path
) -> None:
    config = load(sample.config, ["train.layout=auto", "train.epochs=1"])
    log = ListLog()
    prepared = session.set_up(config, log.notice)

    def look(module: torch.nn.Module, inputs: Any) -> None:
        if inputs[0].shape[:-1].numel() > 48:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    layer = prepared.network.encoder.encoder.layer[0].attention.self.key
    layer.register_forward_pre_hook(look)
    member = session.enter(prepared, config, log, tmp_path)
    [told] = [text for text in log.notices if text.startswith("layout: ")]
    assert re.search(r"\(a step of [1-4] examples: ", told)
    assert not prepared.network.flat_parameters(member.name).gradients.any()
    while prepared.cohort.training:
        prepared.cohort.end_epochs(prepared.cohort.step())
    assert member.status == "finished"


def test_max_len_above_the_positions_of_the_base_is_refused_at_the_start(sample: Any) -> None:
    config = load(sample.config, ["data.max_len=65"])
    with pytest.raises(UserError) as caught:
        session.set_up(config, lambda text: None)
    assert str(caught.value) == (
        f"data.max_len: must be at most 64, the positions of the base {sample.base}, got 65"
    )
