"""What a training of a config would see, without training it: the page of `loratrack check`, as data.

preview(load("projects/clinc/dual.yaml"))["tokens"]["train"]["truncated"]
"""

from __future__ import annotations

import math
from typing import Any

from loratrack import data
from loratrack.bases import base as bases
from loratrack.bases.files import CONFIG
from loratrack.config import RunConfig, plain
from loratrack.config.sweep import SweepConfig
from loratrack.disk import read_json
from loratrack.experiments.checking import bases_of, check
from loratrack.training.rate import auto_rate, chosen_rate


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
    train, use_lora = config.train, config.model.use_lora
    epoch_steps = math.ceil(len(dataset.train) / train.batch_size)
    whole = epoch_steps * train.epochs
    lr: float | str = train.lr
    width = read_json(base.folder / CONFIG).get("hidden_size")
    if isinstance(width, int):
        # Whether a base is causal only its network tells; narrow ones have the same rate either way.
        encoders, causal = (
            auto_rate(width, train.optimizer, use_lora=use_lora, is_causal=is_causal)
            for is_causal in (False, True)
        )
        if encoders == causal:
            lr, note = chosen_rate(train, encoders, use_lora=use_lora)
            notices += [] if note is None else [note]
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
            "steps": min(whole, train.max_steps or whole),
            "steps_an_epoch": epoch_steps,
            "lr": lr,
            "train": plain(train),
            "model": plain(config.model),
            "version_of": config.registered_model,
            "registers_best": config.registers_best,
        },
    }
    if isinstance(config, SweepConfig):
        content["sweep"] = plain(config.sweep)
    return {**content, "notices": notices}
