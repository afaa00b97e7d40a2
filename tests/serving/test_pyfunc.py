"""The model as MLflow loads, calls and serves it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import mlflow
import pandas as pd
import pytest
from mlflow.environment_variables import _MLFLOW_IS_IN_SERVING_ENVIRONMENT
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

from loratrack.config import load
from loratrack.errors import DataError
from loratrack.serving import pyfunc
from loratrack.serving.classifier import Classifier

TEXTS = ["calm take note", "loud leave", "客 户"]
COLUMNS = ["risk", "adopt", "risk_probability", "adopt_probability"]


@pytest.fixture(scope="module")
def saved(untrained: Path, sample: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "pyfunc"
    pyfunc.save(untrained, folder, load(sample.config))
    return folder


@pytest.fixture(scope="module")
def expected(untrained: Path) -> list[dict[str, Any]]:
    frame = pyfunc.table(Classifier(untrained), {"text": TEXTS})
    assert list(frame.columns) == COLUMNS
    return [dict(zip(COLUMNS, row, strict=True)) for row in frame.itertuples(index=False)]


@pytest.fixture(scope="module")
def model(saved: Path) -> Any:
    return mlflow.pyfunc.load_model(str(saved))


def test_saving_and_loading_print_nothing(
    untrained: Path, sample: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pyfunc.save(untrained, tmp_path / "pyfunc", load(sample.config))
    mlflow.pyfunc.load_model(str(tmp_path / "pyfunc"))
    assert capfd.readouterr() == ("", "")


def test_no_code_and_no_pickle_is_saved(saved: Path) -> None:
    kinds = {path.suffix for path in saved.rglob("*") if path.is_file() and path.name != "MLmodel"}
    assert kinds == {".json", ".safetensors", ".txt", ".yaml"}


def test_the_signature_names_texts_labels_and_probabilities(model: Any) -> None:
    signature = model.metadata.signature
    assert signature.inputs.input_names() == ["text"]
    assert signature.outputs.input_names() == COLUMNS


def test_mlflow_gets_the_answers_of_the_bundle(model: Any, expected: list[dict[str, Any]]) -> None:
    assert model.predict(pd.DataFrame({"text": TEXTS})).to_dict("records") == expected


def test_columns_that_the_model_does_not_know_are_passed_over(model: Any) -> None:
    with_more = pd.DataFrame({"id": [1, 2, 3], "text": TEXTS}, index=[7, 8, 9])
    answers = model.predict(with_more)
    assert list(answers.columns) == COLUMNS
    assert list(answers.index) == [7, 8, 9]


def test_an_empty_frame_has_empty_answers(model: Any) -> None:
    answers = model.predict(pd.DataFrame({"text": pd.Series([], dtype=str)}))
    assert list(answers.columns) == COLUMNS
    assert len(answers) == 0


def test_numbers_are_the_text_they_are_written_as(model: Any) -> None:
    numbers = model.predict(pd.DataFrame({"text": pd.Series([7, 1.5, True], dtype=object)}))
    texts = model.predict(pd.DataFrame({"text": ["7", "1.5", "true"]}))
    assert numbers.equals(texts)


@pytest.mark.parametrize("nothing", [None, float("nan"), pd.NA, " "])
def test_a_missing_text_is_no_text_called_nan(model: Any, nothing: object) -> None:
    with pytest.raises(DataError) as caught:
        model.predict(pd.DataFrame({"text": pd.Series(["calm", nothing], dtype=object)}))
    assert str(caught.value) == "a text is needed in each row, got none in 1 (counted from 0: 1)"


def test_what_is_no_text_at_all_is_refused(model: Any) -> None:
    with pytest.raises(DataError, match=r"text: must be text, got list \['calm'\]; pass a DataFrame"):
        model.predict(pd.DataFrame({"text": pd.Series([["calm"]], dtype=object)}))


def answered(model: Any, rows: object) -> dict[str, str]:
    """What MLflow's server sends back for a request that it refuses; its own code, without its socket."""
    body = json.dumps({"dataframe_records": rows})
    with pytest.raises(MlflowException) as caught:
        scoring_server.invocations(body, "application/json", model, model.metadata.get_input_schema())
    assert caught.value.get_http_status_code() == 400
    return dict(json.loads(caught.value.serialize_as_json()))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"text": "calm"}, {"text": None}],
            "a text is needed in each row, got none in 1 (counted from 0: 1)",
        ),
        ([{"text": ["calm"]}], "text: must be text, got list ['calm']; pass a DataFrame"),
        (
            [{"text": "calm"}] * (pyfunc.MAX_ROWS + 1),
            "must have at most 10,000 rows in one request, got 10,001; send several",
        ),
        (
            [{"text": "calm"}, {"text": "x" * (pyfunc.MAX_CHARACTERS + 1)}],
            "text: must have at most 1,000,000 characters, got 1,000,001 in row 1 (counted from 0); the model"
            " reads the beginning alone, so send that",
        ),
    ],
)
def test_a_refused_request_has_our_words_alone(
    model: Any, monkeypatch: pytest.MonkeyPatch, rows: object, message: str
) -> None:
    monkeypatch.setenv(_MLFLOW_IS_IN_SERVING_ENVIRONMENT.name, "true")  # as MLflow's server sets it
    answer = answered(model, rows)
    assert (answer["error_code"], answer["message"]) == ("INVALID_PARAMETER_VALUE", message)
    assert "stack_trace" not in answer


def test_a_program_that_loads_the_model_may_pass_more(model: Any) -> None:
    assert len(model.predict(pd.DataFrame({"text": ["calm"] * (pyfunc.MAX_ROWS + 1)}))) == 10_001


def test_a_missing_column_is_named(model: Any) -> None:
    with pytest.raises(MlflowException, match=r"Model is missing inputs \['text'\]"):
        model.predict(pd.DataFrame({"Text": TEXTS}))


@pytest.fixture(scope="module")
def server(saved: Path) -> Iterator[str]:
    """The address of `mlflow models serve` on the model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = f"models serve -m {saved} --env-manager local -h 127.0.0.1 -p {port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *command.split()],
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},  # uvicorn is there
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if "Uvicorn running on" in line:  # only now the port is open
                break
        else:
            pytest.fail("".join(seen))
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate()


def ask(server: str, content: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    request = Request(f"{server}/invocations", json.dumps(content).encode(), headers)
    with urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_a_server_answers_in_each_of_mlflows_forms(server: str, expected: list[dict[str, Any]]) -> None:
    split = ask(server, {"dataframe_split": {"columns": ["text"], "data": [[text] for text in TEXTS]}})
    records = ask(server, {"dataframe_records": [{"text": text} for text in TEXTS]})
    inputs = ask(server, {"inputs": {"text": TEXTS}})
    assert split == records == inputs == {"predictions": expected}


@pytest.mark.slow
def test_a_server_tells_what_is_wrong_and_goes_on(server: str) -> None:
    with pytest.raises(HTTPError) as caught:
        ask(server, {"dataframe_records": [{"text": "calm"}, {"text": None}]})
    with caught.value as answer:
        assert answer.code == 400
        message = "a text is needed in each row, got none in 1 (counted from 0: 1)"
        assert json.load(answer)["message"] == message
    with pytest.raises(HTTPError) as caught:
        ask(server, {"dataframe_records": [{"text": "calm"}] * (pyfunc.MAX_ROWS + 1)})
    with caught.value as answer:
        assert "must have at most 10,000 rows" in json.load(answer)["message"]
    assert len(ask(server, {"dataframe_records": [{"text": "calm"}]})["predictions"]) == 1


@pytest.mark.slow
def test_mlflow_models_predict_reads_a_csv(
    saved: Path, tmp_path: Path, expected: list[dict[str, Any]]
) -> None:
    pd.DataFrame({"text": TEXTS}).to_csv(tmp_path / "in.csv", index=False)
    command = f"models predict -m {saved} --env-manager local -t csv -i in.csv -o out.json"
    subprocess.run([sys.executable, "-m", "mlflow", *command.split()], cwd=tmp_path, check=True)
    assert json.loads((tmp_path / "out.json").read_text("utf-8")) == {"predictions": expected}
