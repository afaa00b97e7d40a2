from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import torch
from tests.cohorts import BASES, DATASET

from loratrack.bases.base import Base
from loratrack.config import RunConfig
from loratrack.experiments.differences import environment_differences, is_exact
from loratrack.model.network import Network
from loratrack.training.cohort import Cohort
from loratrack.training.log import ListLog
from loratrack.training.member import Member
from loratrack.training.objectives.classification import Classification
from loratrack.training.session import Prepared, _choose_threads_again, enter
from loratrack.training.threads import Pace, choose_threads


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("seconds_of_one", "expected"), [(0.1, 1), (0.39, 4), (2.0, 4)])
def test_one_thread_is_taken_where_it_is_clearly_faster(seconds_of_one: float, expected: int) -> None:
    torch.set_num_threads(4)
    notices: list[str] = []
    choose_threads(lambda: seconds_of_one if torch.get_num_threads() == 1 else 0.4, notices.append)
    assert torch.get_num_threads() == expected
    assert bool(notices) == (expected == 1)


def test_one_thread_needs_no_measuring() -> None:
    torch.set_num_threads(1)
    choose_threads(lambda: pytest.fail("measured"), print)
    assert torch.get_num_threads() == 1


def test_one_round_is_enough_where_all_threads_are_many_times_slower() -> None:
    torch.set_num_threads(4)
    measured: list[int] = []

    def step() -> float:
        measured.append(torch.get_num_threads())
        return 0.1 if measured[-1] == 1 else 2.0

    notices: list[str] = []
    choose_threads(step, notices.append)
    assert measured == [1, 1, 4]
    words = "(a step with 4: 2000 ms, 1: 100 ms); train.threads sets the number"
    assert notices == [f"threads: 1, since this machine is busy {words}"]


def test_a_pace_is_lost_when_most_of_the_last_steps_are_several_times_slower() -> None:
    pace = Pace()
    usual = [pace.slower(1.0 + 0.5 * (number % 2), rows=32) for number in range(20)]
    late = [pace.slower(20.0, rows=32) for _ in range(6)]
    assert usual == [None] * 20
    assert late[:4] == [None] * 4, "four of eight slow steps are not the rule yet"
    assert late[-1] == pytest.approx(20)


def test_small_batches_are_looked_at_together() -> None:
    pace = Pace()
    for _ in range(8 * 32):
        assert pace.slower(0.1, rows=1) is None
    texts = [0.1, 2.0, 0.1, 0.1] * 8  # one long text among short ones
    assert [pace.slower(seconds / 2, rows=1) for seconds in texts * 2].count(None) == 64


def test_a_lost_pace_is_told_once_and_the_threads_are_measured_again(
    new_cohort: Callable[..., Cohort],
    config_of: Callable[..., RunConfig],
    seat: Callable[..., Member],
    tmp_path: Path,
) -> None:
    torch.set_num_threads(2)
    notices: list[str] = []
    cohort = new_cohort(notices)
    members = [seat(cohort, config_of(), tmp_path)]
    cohort.choose_threads = lambda: torch.set_num_threads(1)
    for seconds in [0.1] * 10 + [2.1] * 30 + [0.1] * 10 + [2.1] * 30:
        cohort.watch_pace(members, seconds, rows=32)
    assert notices == [
        "steps take 21 times as long as before: something else keeps this machine busy",
        "threads: 1 instead of 2 from here on; results are no longer exact to the last bit",
    ]
    assert cohort.threads_at_start == 2


def test_a_given_number_of_threads_stays(
    new_cohort: Callable[..., Cohort],
    config_of: Callable[..., RunConfig],
    seat: Callable[..., Member],
    tmp_path: Path,
) -> None:
    torch.set_num_threads(2)
    notices: list[str] = []
    cohort = new_cohort(notices)
    members = [seat(cohort, config_of(), tmp_path)]
    for seconds in [0.1] * 10 + [2.1] * 10:
        cohort.watch_pace(members, seconds, rows=32)
    assert notices == [
        "steps take 21 times as long as before: something else keeps this machine busy;"
        " train.threads: null, in place of 2, lets the threads be measured again"
    ]
    assert (torch.get_num_threads(), cohort.threads_at_start) == (2, None)


def test_other_members_have_a_pace_of_their_own(
    new_cohort: Callable[..., Cohort],
    config_of: Callable[..., RunConfig],
    seat: Callable[..., Member],
    tmp_path: Path,
) -> None:
    notices: list[str] = []
    cohort = new_cohort(notices)
    one, two = (seat(cohort, config_of(name), tmp_path) for name in ("one", "two"))
    for members, seconds in [([one], 0.1), ([one, two], 2.1)]:
        for _ in range(20):
            cohort.watch_pace(members, seconds, rows=32)
    assert notices == []


def test_a_run_whose_threads_changed_is_not_repeated_to_the_bit() -> None:
    then = {"torch": {"threads": 1, "threads_at_start": 2}, "gpu": {"devices": []}}
    (change,) = environment_differences(then, {"torch": {"threads": 1}, "gpu": {"devices": []}})
    assert str(change) == "threads: then 2 first and 1 later, now 1"
    assert not is_exact([change], then)


def test_measuring_again_draws_no_random_number_and_leaves_no_gradient(
    config_of: Callable[..., RunConfig], tmp_path: Path
) -> None:
    torch.set_num_threads(2)
    network = Network(BASES["bert"](), "mean", torch.device("cpu"), use_lora=False)
    cohort = Cohort(network, Classification(DATASET), print)
    prepared = Prepared(cast(Base, None), DATASET, network, cohort, {}, {})
    member = enter(prepared, config_of(train={"layout": "padded", "threads": 2}), ListLog(), tmp_path)
    assert cohort.choose_threads is None, "the number was given"
    network.train()
    before = torch.get_rng_state()
    _choose_threads_again(prepared)
    assert torch.equal(torch.get_rng_state(), before)
    assert not member.flat_parameters.gradients.any()
