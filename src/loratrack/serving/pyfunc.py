"""The model as MLflow knows it: a pyfunc of this package and a bundle, with no code and no pickle inside.

`mlflow models serve` and `mlflow.pyfunc.load_model` find `_load_pyfunc` here, by the name of this module.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

from loratrack.config import RunConfig
from loratrack.serving.classifier import Classifier

PROBABILITY = "_probability"
REQUIREMENTS = ("loratrack", "torch", "transformers", "peft", "mlflow")


def save(bundle: Path, folder: Path, config: RunConfig) -> None:
    """Write the MLflow model of a bundle to `folder`."""
    inputs = Schema([ColSpec("string", name) for name in config.text_columns])
    columns = [("string", task) for task in config.tasks] + [
        ("double", f"{t}{PROBABILITY}") for t in config.tasks
    ]
    outputs = Schema([ColSpec(kind, name) for kind, name in columns])
    mlflow.pyfunc.save_model(
        path=str(folder),
        loader_module=__name__,
        data_path=str(bundle),
        signature=ModelSignature(inputs, outputs),
        input_example=pd.DataFrame({name: ["…"] for name in config.text_columns}),
        pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
    )


class ServedClassifier:
    """What MLflow calls: a frame with the text columns in, a label and a probability for each task out."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        frame = pd.DataFrame(model_input)
        columns = {str(name): frame[name].astype(str).tolist() for name in frame.columns}
        return table(self.classifier, columns)


def table(classifier: Classifier, columns: dict[str, list[str]]) -> pd.DataFrame:
    """One line for each row: the label of each task, then the probabilities."""
    answers = classifier.answer(columns)
    labels = {task: [row[task].label for row in answers] for task in classifier.config.tasks}
    probabilities = {
        f"{task}{PROBABILITY}": [row[task].probability for row in answers] for task in classifier.config.tasks
    }
    return pd.DataFrame(labels | probabilities)


def _load_pyfunc(path: str) -> ServedClassifier:
    return ServedClassifier(Classifier(Path(path)))
