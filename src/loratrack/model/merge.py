"""A trained model as the base of the next one: its adapter merged into its base, or its whole network.

    base = merged_base(folder, "models:/clinc/3", trust=False)

The result lies in the cache, stored once for each pair of base and weights; deleting it costs time alone.
Heads are not carried over: the next run has labels of its own.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from transformers import PreTrainedModel

from loratrack import manifest as manifests
from loratrack.bases import base as bases
from loratrack.bases.base import Base, quiet
from loratrack.bases.files import (
    ADAPTER_CONFIG,
    CONFIG,
    code_files,
    config_faults,
    tokenizer_files,
    tokenizer_sha256,
)
from loratrack.bases.trust import Trust, covers, refusal
from loratrack.config import files
from loratrack.disk import whole_folder
from loratrack.errors import UserError
from loratrack.model import bundle, weights
from loratrack.model.network import peft_config
from loratrack.places import ADAPTER, CONFIG_COPY, FULL, cache_folder

_under_way: ContextVar[frozenset[Path]] = ContextVar(
    "models whose base is being looked for", default=frozenset()
)


def merged_base(folder: Path, name: str, trust: Trust) -> Base:
    """The bundle in `folder` as a base called `name`; merged in fp32, by PEFT itself.

    Its sha256 is over what it was made of: the base's and the weights' own. Two machines may differ in the
    last bits of a sum, and must still agree on which base this is. So whoever trusts it trusts these two, and
    the code of the base below it runs only then.
    """
    manifest = manifests.whole(folder)
    is_lora = (folder / ADAPTER).is_dir()
    top = ADAPTER if is_lora else FULL
    parts = {name: sha256 for name, sha256 in manifest.files.items() if name.startswith(f"{top}/")}
    recorded = manifest.base
    key = hashlib.sha256(json.dumps([recorded.sha256, parts], sort_keys=True).encode()).hexdigest()
    if recorded.runs_code and not covers(trust, key):
        raise UserError(f"{name}: was trained with code of its base; {refusal(trust, recorded.name, key)}")
    if folder in _under_way.get():
        raise UserError(f"{name}: its base is the model itself, by way of {recorded.name}")
    token = _under_way.set(_under_way.get() | {folder})
    try:
        origin = bundle.base_of(folder, recorded, frozenset({recorded.sha256}))
    finally:
        _under_way.reset(token)
    target = cache_folder() / "bases" / key
    if not target.is_dir():
        with whole_folder(target) as draft:
            if is_lora:
                encoder = bases.load_encoder(origin, dtype=torch.float32)
                with bases.load_faults(folder / top, "the adapter"):
                    merged = _merged(encoder, folder)
                with quiet():
                    merged.save_pretrained(draft)
            else:
                faults = config_faults(folder / top / CONFIG, trust=recorded.runs_code)
                if (folder / top / ADAPTER_CONFIG).exists():
                    faults.append(f"{ADAPTER_CONFIG} must not lie beside {CONFIG}")
                if faults:
                    raise UserError(f"{folder / top}: {'; '.join(faults)}")
                shutil.copytree(folder / top, draft, dirs_exist_ok=True)
            code = code_files(origin.folder) if origin.runs_code else []
            for file in [*tokenizer_files(origin.folder), *code]:
                shutil.copy2(origin.folder / file, draft / file)
    note = f"its adapter merged into {origin.name}" if is_lora else "its whole network"
    return Base(name, target, "run", key, tokenizer_sha256(target), origin.runs_code, note)


def _merged(encoder: PreTrainedModel, folder: Path) -> Any:
    """The encoder with the adapter of a bundle in its weights.

    The size of the adapter stands in the bundle's own config. Of PEFT's file, which may ask for any of PEFT's
    methods, patterns and modules, only the names that our runs write are read.
    """
    lora = files.load(folder / CONFIG_COPY).model.lora
    settings = json.loads((folder / ADAPTER / ADAPTER_CONFIG).read_text("utf-8"))
    names = settings["target_modules"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"target_modules must be a list of names, got {type(names).__name__}")
    config = peft_config(lora, names, fan_in_fan_out=settings.get("fan_in_fan_out") is True)
    with warnings.catch_warnings():  # PEFT asks transformers by a name that will go in v6
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is dep", FutureWarning)
        model = get_peft_model(encoder, config)
        weights.load_adapter(model, folder / ADAPTER)
        return model.merge_and_unload()
