"""What a training of a config would see, without training it: the page of `loratrack check`, as data.

preview(load("projects/clinc/dual.yaml"))["tokens"]["train"]["truncated"]
"""

from __future__ import annotations

import math
from typing import Any

from loratrack import data
from loratrack.bases import base as bases
from loratrack.config import RunConfig, plain
from loratrack.config.sweep import SweepConfig
from loratrack.experiments.checking import bases_of, check


def preview(config: RunConfig) -> dict[str, Any]:
    """Rows, labels, lengths, base and steps, as JSON; one UserError reports all problems.

    No run is made and nothing is trained. Of a sweep over bases, the tokens are those of the first.
    """
    corpus = check(config)
    base = bases.resolve(bases_of(config)[0], trust=config.model.trust_remote_code)
    notices: list[str] = []
    dataset = data.encode(
        corpus, config, bases.load_tokenizer(base), bases.tokenizer_facts(base), notices.append
    )
    train = config.train
    epoch_steps = math.ceil(len(dataset.train) / train.batch_size)
    content: dict[str, Any] = {
        "exp_id": config.exp_id,
        "task_type": config.task_type,
        **{name: value for name, value in dataset.report.items() if name != "warnings"},
        "max_len": config.data.max_len,
        "base": {
            "name": base.name,
            "origin": base.origin,
            "folder": str(base.folder),
            "sha256": base.sha256,
        },
        "training": {
            "steps": epoch_steps * train.epochs,
            "steps_an_epoch": epoch_steps,
            "train": plain(train),
            "model": plain(config.model),
            "register": config.register_as,
        },
    }
    if isinstance(config, SweepConfig):
        content["sweep"] = plain(config.sweep)
    return {**content, "notices": notices}
