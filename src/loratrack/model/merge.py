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
from pathlib import Path

import torch
from peft import PeftModel

from loratrack import manifest as manifests
from loratrack.bases import base as bases
from loratrack.bases.base import Base, quiet
from loratrack.bases.files import code_files, tokenizer_files, tokenizer_sha256
from loratrack.bases.trust import Trust, covers, refusal
from loratrack.disk import whole_folder
from loratrack.errors import UserError
from loratrack.model import bundle
from loratrack.places import ADAPTER, FULL, cache_folder


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
    origin = bundle.base_of(folder, recorded, frozenset({recorded.sha256}))
    target = cache_folder() / "bases" / key
    if not target.is_dir():
        with whole_folder(target) as draft:
            if is_lora:
                encoder = bases.load_encoder(origin, dtype=torch.float32)
                with warnings.catch_warnings():  # PEFT asks transformers by a name that will go in v6
                    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is dep", FutureWarning)
                    with bases.load_faults(folder / top, "the adapter"):
                        merged = PeftModel.from_pretrained(encoder, str(folder / top)).merge_and_unload()
                with quiet():
                    merged.save_pretrained(draft)
            else:
                shutil.copytree(folder / top, draft, dirs_exist_ok=True)
            code = code_files(origin.folder) if origin.runs_code else []
            for file in [*tokenizer_files(origin.folder), *code]:
                shutil.copy2(origin.folder / file, draft / file)
    note = f"its adapter merged into {origin.name}" if is_lora else "its whole network"
    return Base(name, target, "run", key, tokenizer_sha256(target), origin.runs_code, note)
