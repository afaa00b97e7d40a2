"""Which version of a registered model a new score is compared with."""

from __future__ import annotations

from mlflow import MlflowClient

from loratrack.registry.lookup import AT_ONCE, SAME_ROWS, newest_scored


def test_the_newest_version_with_a_score_on_the_same_rows_is_found_however_far_back(
    client: MlflowClient,
) -> None:
    client.create_registered_model("clinc")
    experiment = client.create_experiment("elsewhere")

    def add(rows: str, **metrics: float) -> None:
        run_id = client.create_run(experiment, tags={SAME_ROWS: rows}).info.run_id
        for name, value in metrics.items():
            client.log_metric(run_id, name, value)
        client.create_model_version("clinc", "s3://nowhere/model", run_id)

    add("a", best_f1=0.7)
    add("a", best_f1=0.9)
    add("b", best_f1=0.2)
    add("a", best_accuracy=0.8)
    for _ in range(AT_ONCE):  # of nobody's run
        client.create_model_version("clinc", "s3://nowhere/model")
    found = newest_scored("clinc", "a", "best_f1")
    assert found is not None
    assert (str(found[0]), found[1]) == ("clinc/2", 0.9)
    assert newest_scored("clinc", "a", "best_avg_f1") is None
    assert newest_scored("clinc", "c", "best_f1") is None
    assert newest_scored("other", "a", "best_f1") is None
