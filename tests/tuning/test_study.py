"""The study: continued, shared by processes, never with other settings; nothing is lost or done twice."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from loratrack.config.sweep import SweepConfig
from loratrack.errors import ConfigError, UserError
from loratrack.tuning import cohorts, space, study
from loratrack.tuning.fingerprint import BEGUN_WITH
from loratrack.tuning.study import Search

Configs = Callable[..., SweepConfig]
Opens = Callable[..., Search]


def states(search: Search) -> list[str]:
    return [trial.state.name for trial in search.trials()]


def test_trials_are_counted_over_all_continuations(sweep_config: Configs, new_search: Opens) -> None:
    config = sweep_config(trials=3)
    first = new_search(config)
    trial = first.next()
    assert trial is not None
    first.complete(trial, [0.5])
    second = new_search(config)
    taken = [second.next(), second.next(), second.next()]
    assert [trial and trial.number for trial in taken] == [1, 2, None]
    assert first.running_elsewhere() == 2


def test_open_trials_do_not_repeat_each_other(sweep_config: Configs, new_search: Opens) -> None:
    search = new_search(sweep_config(trials=8))
    trials = [search.next() for _ in range(8)]
    assert len({str(trial.values) for trial in trials if trial}) == 8


def test_the_next_proposal_does_not_depend_on_the_process(
    sweep_config: Configs, new_search: Opens, tmp_path: Path
) -> None:
    one = new_search(sweep_config(name="one"))
    values = [trial.values for trial in (one.next(), one.next()) if trial]
    other, another = new_search(sweep_config(name="two")), new_search(sweep_config(name="two"))
    assert [trial.values for trial in (other.next(), another.next()) if trial] == values


def test_what_another_process_has_taken_up_is_not_given_back(
    sweep_config: Configs, new_search: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was taken for dead, as on another machine, has lost its trials."""
    config = sweep_config(trials=1)
    first = new_search(config)
    trial = first.next()
    assert trial is not None
    first.note_run(trial, "a" * 32)
    other = new_search(config)
    monkeypatch.setattr(other, "_is_alive", lambda worker: False)
    taken = other.next()
    assert taken is not None
    assert taken.number == trial.number
    first.give_all_back()
    assert states(other) == ["RUNNING"]


def test_what_was_interrupted_waits_for_whoever_goes_on(sweep_config: Configs, new_search: Opens) -> None:
    search = new_search(sweep_config(trials=2))
    trial = search.next()
    assert trial is not None
    search.note_run(trial, "a" * 32)
    search.report(trial, 1, 0.5)
    search.give_all_back()
    assert (states(search), search.num_started()) == (["WAITING"], 0)
    again = new_search(sweep_config(trials=2)).next()
    assert again is not None
    assert (again.number, again.values, again.run_id) == (0, trial.values, "a" * 32)
    assert again.reported_epochs == 1


def test_a_changed_sweep_is_refused_with_its_differences(sweep_config: Configs, new_search: Opens) -> None:
    begun = new_search(sweep_config())
    trial = begun.next()
    assert trial is not None
    begun.complete(trial, [0.5])
    varied = {"train.lr": {"log": ["1e-4", "1e-1"]}, "train.batch_size": {"choice": ["8"]}}
    with pytest.raises(ConfigError) as caught:
        new_search(sweep_config(varied, run={"train": {"epochs": 4}}, metric="risk_f1", trials=99))
    assert str(caught.value).splitlines() == [
        "sweep 'tiny-sweep' was begun with other settings, and its trials cannot be compared with new ones;"
        " put these back, or give it another sweep.name:",
        "  model.lora.alpha: is 32.0, was not there",
        "  model.lora.dropout: is 0.05, was not there",
        "  model.lora.rank: is 16, was not there",
        '  sweep.metric: was ["maximize avg_f1"], is ["maximize risk_f1"]',
        '  sweep.space.model.lora.alpha: was {"of": "model.lora.rank", "times": [1.0, 2.0]}, is not there',
        '  sweep.space.model.lora.dropout: was {"uniform": [0.0, 0.2]}, is not there',
        '  sweep.space.model.lora.rank: was {"choice": ["2", "4", "8"]}, is not there',
        '  sweep.space.train.batch_size: is {"choice": ["8"]}, was not there',
        '  sweep.space.train.loss_weight: was {"simplex": "tasks"}, is not there',
        '  sweep.space.train.lr: was {"log": [0.0001, 0.01]}, is {"log": [0.0001, 0.1]}',
        "  train.batch_size: was 32, is not there",
        "  train.epochs: was 3, is 4",
        "  train.loss_weight: is null, was not there",
    ]


def test_a_sweep_goes_on_whatever_is_saved_on_the_way(sweep_config: Configs, new_search: Opens) -> None:
    """Also one that was begun when nothing was saved, and whose study does not know the setting."""
    begun = new_search(sweep_config())
    assert "train.checkpoint_minutes" not in json.loads(begun.attr(BEGUN_WITH))
    trial = begun.next()
    assert trial is not None
    begun.complete(trial, [0.5])
    again = new_search(sweep_config(run={"train": {"checkpoint_minutes": 1}}))
    assert len(again.trials()) == 1


def test_a_sweep_without_results_may_be_changed(sweep_config: Configs, new_search: Opens) -> None:
    begun = new_search(sweep_config())
    begun.next()
    begun.give_all_back()
    mended = new_search(sweep_config(run={"train": {"epochs": 4}}))
    assert mended.trials() == []


def test_the_same_sweep_may_have_more_trials(sweep_config: Configs, new_search: Opens) -> None:
    new_search(sweep_config(trials=1))
    more = sweep_config(trials=2, parallel=3, keep="all", pruner="none", run={"description": "more"})
    assert new_search(more).num_wanted() == 2


def test_another_sampler_or_pruner_is_told(sweep_config: Configs, new_search: Opens) -> None:
    notices: list[str] = []
    begun = new_search(sweep_config(), notices)
    trial = begun.next()
    assert trial is not None
    begun.complete(trial, [0.5])
    new_search(sweep_config(trials=9), notices)
    assert notices == []
    new_search(sweep_config(sampler="random", pruner="none"), notices)
    assert notices == [
        "sweep.sampler was tpe, is random from here on; the 1 trials so far stay",
        "sweep.pruner was hyperband, is none from here on; the 1 trials so far stay",
    ]
    new_search(sweep_config(sampler="random", pruner="none"), notices)
    assert len(notices) == 2


def test_a_trial_that_cannot_be_is_its_own_failure(sweep_config: Configs, new_search: Opens) -> None:
    varied = {"train.batch_size": {"choice": ["8", "16"]}, "train.micro_batch_size": {"choice": ["8", "16"]}}
    notices: list[str] = []
    search = new_search(sweep_config(varied, sampler="grid", trials=None, name="grid"), notices)
    batches = []
    while (trial := search.next()) is not None:
        batches.append((trial.config.train.batch_size, trial.config.train.micro_batch_size))
        search.complete(trial, [0.5])
    assert sorted(batches) == [(8, 8), (16, 8), (16, 16)]
    assert states(search).count("FAIL") == 1
    (notice,) = notices
    assert notice.endswith(
        "1 invalid setting\n  train.micro_batch_size (16) must not be larger than train.batch_size (8)"
    )


def test_bad_trials_are_pruned_by_what_is_reported(sweep_config: Configs, new_search: Opens) -> None:
    search = new_search(sweep_config(trials=9, pruner="asha"))
    trials = [trial for trial in (search.next() for _ in range(9)) if trial]
    for trial, value in zip(trials, [0.5, 0.1, 0.8, 0.2, 0.9, 0.3, 0.7, 0.4, 0.6], strict=True):
        search.report(trial, 1, value)
    # each must be in the best third of those that came this far before it
    assert [trial.number for trial in trials if search.should_prune(trial)] == [1, 3, 5, 6, 7, 8]
    search.prune(trials[1])
    assert search.trials()[1].state == TrialState.PRUNED


def test_no_trial_is_pruned_before_its_time(sweep_config: Configs, new_search: Opens) -> None:
    search = new_search(sweep_config(trials=9, pruner="asha", min_epochs=2))
    trials = [trial for trial in (search.next() for _ in range(9)) if trial]
    for trial in trials:
        search.report(trial, 1, trial.number / 10)
    assert not any(search.should_prune(trial) for trial in trials)


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "cmaes"])
@pytest.mark.parametrize("metric", ["avg_f1", ["risk_f1", "trainable_parameters"]])
def test_every_sampler_goes_on(
    sweep_config: Configs, new_search: Opens, sampler: str, metric: str | list[str]
) -> None:
    if sampler == "cmaes" and isinstance(metric, list):
        pytest.skip("one objective only; the check says so")
    search = new_search(sweep_config(trials=12, sampler=sampler, metric=metric))
    for _ in range(12):
        trial = search.next()
        assert trial is not None
        search.complete(trial, [trial.config.train.peak_rate, 100.0][: len(search.sweep.metrics)])
    assert search.next() is None
    best = search.best()
    assert best is not None
    assert best.values[0] == max(trial.values[0] for trial in search.trials())


def test_a_process_that_died_early_is_noticed_too(
    sweep_config: Configs, new_search: Opens, tmp_path: Path
) -> None:
    """Drawn, and killed before its first heartbeat."""
    search = new_search(sweep_config(trials=2, heartbeat_seconds=1))
    tables = study.storage(f"sqlite:///{tmp_path}/optuna.db", 1)
    tables.create_new_trial(tables.get_study_id_from_name("tiny-sweep"))
    deadline = time.monotonic() + 20
    numbers: list[int] = []
    while len(numbers) < 2 and time.monotonic() < deadline:
        trial = search.next()
        if trial is not None:
            numbers.append(trial.number)
        else:
            time.sleep(0.2)
    tables.engine.dispose()
    assert numbers == [1, 0]


def test_a_trial_waits_as_soon_as_its_process_is_known_to_be_gone(
    sweep_config: Configs, new_search: Opens
) -> None:
    """And not while it is known to live, however late its heartbeat is."""
    first, second = (new_search(sweep_config(trials=2, heartbeat_seconds=60)) for _ in range(2))
    gone, living = first.next(), second.next()
    assert gone is not None
    assert living is not None
    first.note_run(gone, "a" * 32)
    assert first._lease is not None
    first._lease.close()  # as its process would, however it ends
    other = new_search(sweep_config(trials=2, heartbeat_seconds=60))
    again = other.next()
    assert again is not None
    assert (again.number, again.values, again.run_id) == (gone.number, gone.values, "a" * 32)
    assert other.next() is None
    assert second.next() is None  # nor is the one taken back, whose run is not yet ours, free again


def test_a_trial_that_kills_each_process_is_given_up(
    sweep_config: Configs, new_search: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = sweep_config(trials=1, heartbeat_seconds=60)
    for _ in range(study.MAX_RETRIES + 1):
        search = new_search(config)
        monkeypatch.setattr(search, "_is_alive", lambda worker: False)
        trial = search.next()
        assert trial is not None
        search.note_run(trial, "a" * 32)
    last = new_search(config)
    monkeypatch.setattr(last, "_is_alive", lambda worker: False)
    assert last.next() is None
    assert states(last) == ["FAIL"]


def _work(url: str, lock: Path, config: SweepConfig) -> None:
    search = Search(config, url, lock, print)
    while (trial := search.next()) is not None:
        search.complete(trial, [trial.config.train.peak_rate])
    search.close()


@pytest.mark.slow
def test_processes_that_start_together_share_one_study(sweep_config: Configs, tmp_path: Path) -> None:
    config, url, lock = sweep_config(trials=20), f"sqlite:///{tmp_path}/optuna.db", tmp_path / "lock"
    context = multiprocessing.get_context("forkserver")
    workers = [context.Process(target=_work, args=(url, lock, config)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    trials = optuna.load_study(study_name="tiny-sweep", storage=url).get_trials()
    assert [trial.number for trial in trials] == list(range(20))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len({str(trial.params) for trial in trials}) == 20


def test_an_unknown_sweep_is_refused_with_the_names_there_are(
    sweep_config: Configs, new_search: Opens, tmp_path: Path
) -> None:
    new_search(sweep_config())
    with pytest.raises(UserError) as caught:
        study.existing(f"sqlite:///{tmp_path}/optuna.db", "tiny")
    assert str(caught.value) == "sweep show: no sweep named 'tiny'; there are tiny-sweep"


@pytest.mark.parametrize(
    ("changed", "mixes"),
    [
        ({"model.lora.rank": 4, "model.lora.target_modules": ["query"]}, True),
        ({"train.lr": 1, "train.epochs": 9, "train.batch_size": 4, "train.seed": 3}, True),
        ({"data.split_seed": 3}, False),
        ({"train.loss_weight": [1, 0], "train.schedule": "cosine"}, True),
        ({"model.arch": "bert-base-chinese"}, False),
        ({"model.pooling": "mean"}, False),
        ({"data.max_len": 16}, False),
        ({"train.precision": "fp32"}, False),
    ],
)
def test_what_changes_shapes_mixes_and_what_changes_the_base_does_not(
    sweep_config: Configs, changed: dict[str, object], mixes: bool
) -> None:
    config = sweep_config()
    one, other = space.trial_config(config, 0, {}), space.trial_config(config, 1, changed)
    assert (cohorts.group(one) == cohorts.group(other)) is mixes
    assert all(map(cohorts.is_own, changed)) is mixes
