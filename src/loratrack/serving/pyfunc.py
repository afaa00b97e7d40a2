"""The model as MLflow knows it: a pyfunc of this package and a bundle, with no code and no pickle inside.

`mlflow models serve` and `mlflow.pyfunc.load_model` find `_load_pyfunc` here, by the name of this module.
"""

from __future__ import annotations

import logging
import numbers
import reprlib
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.environment_variables import _MLFLOW_IS_IN_SERVING_ENVIRONMENT
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array

from loratrack.bases.trust import said_by_loader
from loratrack.config import RunConfig
from loratrack.config.schema import probability_column
from loratrack.errors import DataError, UserError
from loratrack.serving.classifier import Classifier

MAX_ROWS = 10_000
MAX_CHARACTERS = 1_000_000
"""Of a request to MLflow's server; a program that loads the model may pass more."""
REQUIREMENTS = ("loratrack", "torch", "transformers", "peft", "mlflow")


def save(bundle: Path, folder: Path, config: RunConfig) -> None:
    """Write the MLflow model of a bundle to `folder`."""
    inputs = [ColSpec("string", name) for name in config.text_columns]
    several = config.multi_label_tasks
    labels = [ColSpec(Array("string") if task in several else "string", task) for task in config.tasks]
    probabilities = [
        ColSpec(Array("double") if task in several else "double", probability_column(task))
        for task in config.tasks
    ]
    log = logging.getLogger("mlflow.pyfunc")
    level = log.level
    log.setLevel(logging.WARNING)  # MLflow reports each time that it looks at the example
    try:
        mlflow.pyfunc.save_model(
            path=str(folder),
            loader_module=__name__,
            data_path=str(bundle),
            signature=ModelSignature(Schema(inputs), Schema(labels + probabilities)),
            input_example=pd.DataFrame({name: ["…"] for name in config.text_columns}),
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        )
    finally:
        log.setLevel(level)


class InputError(MlflowException, DataError):  # type: ignore[misc]  # MLflow has no types
    """A request that cannot be answered, in our words alone.

    MLflow's server gives what is no MlflowException a stack trace. Before the message of one that is it puts
    the texts that were sent: it assigns `message` anew, which is not heeded here.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        MlflowException.__init__(self, text, error_code=INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        return self.text

    @message.setter
    def message(self, value: str) -> None:
        pass


class ServedClassifier:
    """What MLflow calls: a frame of text columns in, a label and a probability for each task out.

    Of a multi-label task both are lists.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def predict(self, model_input: Any, params: dict[str, object] | None = None) -> pd.DataFrame:
        """Columns that the model does not read are ignored; the rows keep their index."""
        try:
            frame = pd.DataFrame(model_input)
            names = [name for name in self.classifier.config.text_columns if name in frame.columns]
            columns = {name: [_text(cell, name) for cell in frame[name]] for name in names}
            if _MLFLOW_IS_IN_SERVING_ENVIRONMENT.get():
                _check_size(columns)
            return table(self.classifier, columns).set_index(frame.index)
        except UserError as error:
            raise InputError(str(error)) from error


def table(classifier: Classifier, columns: dict[str, list[str]]) -> pd.DataFrame:
    """One line for each row: the label of each task, then the probabilities."""
    predictions, config = classifier.answer(columns), classifier.config
    labels: dict[str, pd.Series] = {}
    probabilities: dict[str, pd.Series] = {}
    for task in config.tasks:
        each = [row[task] for row in predictions]
        if task in config.multi_label_tasks:
            labels[task] = pd.Series([list(one.labels) for one in each], dtype=object)
            numbers = [[one.probabilities[label] for label in one.labels] for one in each]
            probabilities[probability_column(task)] = pd.Series(numbers, dtype=object)
        else:
            labels[task] = pd.Series([one.label for one in each], dtype=str)
            probabilities[probability_column(task)] = pd.Series(
                [one.probability for one in each], dtype=float
            )
    return pd.DataFrame(labels | probabilities)


def _check_size(columns: dict[str, list[str]]) -> None:
    """One request must not hold a server's memory, or the others' answers back."""
    for name, texts in columns.items():
        if len(texts) > MAX_ROWS:
            raise DataError(
                f"must have at most {MAX_ROWS:,} rows in one request, got {len(texts):,}; send several"
            )
        row, length = max(enumerate(map(len, texts)), key=itemgetter(1), default=(0, 0))
        if length > MAX_CHARACTERS:
            raise DataError(
                f"{name}: must have at most {MAX_CHARACTERS:,} characters, got {length:,} in row {row}"
                " (counted from 0); the model reads the beginning alone, so send that"
            )


def _text(cell: object, column: str) -> str:
    """A number becomes the text it is written as, a missing cell an empty text."""
    if isinstance(cell, str):
        return cell
    if cell is None or cell is pd.NA or cell != cell:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, numbers.Number):
        return str(cell)
    raise DataError(
        f"{column}: must be text, got {type(cell).__name__} {reprlib.repr(cell)}; pass a DataFrame"
    )


def _load_pyfunc(path: str) -> ServedClassifier:
    return ServedClassifier(Classifier(Path(path), trusted=said_by_loader(None)))
