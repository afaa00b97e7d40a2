"""A trained model in use, by the name that MLflow knows it by.

classify = Classifier("models:/clinc@champion")
classify(["will it rain tomorrow"])
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from loratrack.bases.trust import said_by_loader
from loratrack.experiments.result import Result
from loratrack.registry import uri
from loratrack.serving import classifier


class Classifier(classifier.Classifier):
    """A trained model in use; any number of threads may ask.

    `model`: models:/NAME@alias, models:/NAME/3, models:/NAME/Production, runs:/RUN_ID, a folder, or what
    `train` gave. `trust_remote_code`: the sha256 of the base, where the model needs code that the base brings
    and you trust that code; the refusal without it prints the sha256.
    """

    def __init__(
        self,
        model: str | Path | Result,
        notice: Callable[[str], None] = lambda text: None,
        *,
        trust_remote_code: str | None = None,
    ) -> None:
        trusted = said_by_loader(trust_remote_code)
        super().__init__(uri.fetch(model.model if isinstance(model, Result) else str(model)), notice, trusted)
