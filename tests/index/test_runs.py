"""What a run has under a name, and which value of a metric is its best."""

from __future__ import annotations

from collections.abc import Mapping

from loratrack.index.runs import RunSummary, StoredRun, Version

SUMMARY = RunSummary("a" * 32, "dual", "exp_v1", "FINISHED", "1", "loratrack", 1000, 3500)


def run(metrics: Mapping[str, float], extremes: Mapping[str, tuple[float, float]] | None = None) -> StoredRun:
    versions = (Version("clinc", 2, "Production", ("champion",)), Version("clinc", 1, None, ()))
    return StoredRun(SUMMARY, {"project": "risk"}, {"train.lr": "1e-4"}, metrics, versions, extremes or {})


def test_the_value_at_the_best_epoch_wins_over_extremes() -> None:
    assert run({"best_f1": 0.7, "f1": 0.6}, {"f1": (0.1, 0.8)}).best("f1") == 0.7


def test_without_a_best_epoch_the_direction_of_the_metric_says_which_extreme_is_best() -> None:
    broken_off = run({}, {"f1": (0.1, 0.8), "train/loss": (0.2, 3.0)})
    assert broken_off.best("f1") == 0.8
    assert broken_off.best("train/loss") == 0.2


def test_the_average_of_a_run_with_one_task_is_the_value_of_that_task() -> None:
    assert run({"best_f1": 0.7}).best("avg_f1") == 0.7
    assert run({"best_avg_f1": 0.7}).best("f1") is None


def test_a_name_is_an_attribute_then_a_tag_a_setting_or_a_metric() -> None:
    one = run({"best_f1": 0.7})
    assert one.values("duration") == (2.5,)
    assert one.values("project") == one.values("tags.project") == ("risk",)
    assert one.values("train.lr") == ("1e-4",)
    assert one.values("f1") == (0.7,)
    assert one.values("params.project") == ()
    assert one.values("version") == (2, 1)
    assert one.values("alias") == ("champion",)


def test_a_table_calls_the_baseline_tfidf_and_a_run_of_one_task_has_it_too() -> None:
    several = run({"baseline_avg_f1": 0.8, "baseline_f1": 0.1})
    assert several.values("tfidf") == several.values("baseline_avg_f1") == (0.8,)
    assert run({"baseline_f1": 0.7}).values("tfidf") == (0.7,)
    assert run({"majority_f1": 0.2}).values("tfidf") == ()
    assert run({"best_f1": 0.9, "baseline_f1": 0.7, "majority_f1": 0.2}).scores == ("f1",)
    broken_off = run({}, {"f1": (0.1, 0.8)})
    assert broken_off.scores == ("f1",)
