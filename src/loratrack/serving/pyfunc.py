"""The model as MLflow knows it: a pyfunc of this package and a bundle, with no code and no pickle inside.

`mlflow models serve` and `mlflow.pyfunc.load_model` find `_load_pyfunc` here, by the name of this module.
"""

from __future__ import annotations

import logging
import numbers
import reprlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

from loratrack.bases.trust import said_by_loader
from loratrack.config import RunConfig
from loratrack.errors import DataError
from loratrack.serving.classifier import Classifier

PROBABILITY = "_probability"
REQUIREMENTS = ("loratrack", "torch", "transformers", "peft", "mlflow")


def save(bundle: Path, folder: Path, config: RunConfig) -> None:
    """Write the MLflow model of a bundle to `folder`."""
    inputs = [ColSpec("string", name) for name in config.text_columns]
    labels = [ColSpec("string", task) for task in config.tasks]
    probabilities = [ColSpec("double", f"{task}{PROBABILITY}") for task in config.tasks]
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


class ServedClassifier:
    """What MLflow calls: a frame of text columns in, a label and a probability for each task out."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def predict(self, model_input: Any, params: dict[str, object] | None = None) -> pd.DataFrame:
        """Columns that the model does not read are ignored; the rows keep their index."""
        frame = pd.DataFrame(model_input)
        names = [name for name in self.classifier.config.text_columns if name in frame.columns]
        columns = {name: [_text(cell, name) for cell in frame[name]] for name in names}
        return table(self.classifier, columns).set_index(frame.index)


def table(classifier: Classifier, columns: dict[str, list[str]]) -> pd.DataFrame:
    """One line for each row: the label of each task, then the probabilities."""
    predictions, tasks = classifier.answer(columns), classifier.config.tasks
    labels = {task: pd.Series([row[task].label for row in predictions], dtype=str) for task in tasks}
    probabilities = {
        f"{task}{PROBABILITY}": pd.Series([row[task].probability for row in predictions], dtype=float)
        for task in tasks
    }
    return pd.DataFrame(labels | probabilities)


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
