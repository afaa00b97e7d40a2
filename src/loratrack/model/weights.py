"""A member's weights on disk: PEFT's own two files, or the whole network, and the heads, if any.

    weights/
      lora_adapter/          adapter_config.json, adapter_model.safetensors (or model/ without LoRA)
      heads.safetensors      <task>.weight, <task>.bias

safetensors only: a pickle is neither written nor read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from loratrack.bases import base as bases
from loratrack.bases.base import quiet
from loratrack.bases.files import ADAPTER_CONFIG
from loratrack.disk import is_full, whole_folder, write_json
from loratrack.errors import UserError
from loratrack.model.network import Network
from loratrack.places import ADAPTER, FULL, HEADS

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def save(network: Network, member: str, folder: Path) -> None:
    """Write the member's weights; `folder` holds the old ones or the new ones, never half of each."""
    with _replacing(folder) as draft:
        if network.peft is not None:
            _save_adapter(network, member, draft / ADAPTER)
        else:
            with quiet():
                network.base.save_pretrained(draft / FULL, max_shard_size="1TB")
        if member in network.heads:
            save_file(_contiguous(network.heads[member].by_task()), draft / HEADS)


def load(network: Network, member: str, folder: Path) -> None:
    """The weights in `folder` into `member`; anything missing, extra or misshapen is refused."""
    if network.peft is not None:
        load_adapter(network.peft, folder / ADAPTER, member)
    else:
        saved = bases.load_weights(folder / FULL, type(network.base), network.base.config, torch.float32)
        _check_numbers(saved.state_dict(), folder / FULL)
        network.base.load_state_dict(saved.state_dict())
    heads = network.heads.get(member)
    if heads is None:
        return
    saved_heads = _read(folder / HEADS, network.device)
    _check(saved_heads, heads.by_task(), folder / HEADS)
    heads.load_by_task(saved_heads)


def load_adapter(peft: PeftModel, folder: Path, name: str = "default") -> None:
    """The adapter in `folder` into the one called `name`; anything missing, extra or misshapen is refused."""
    path = folder / ADAPTER_WEIGHTS
    own = get_peft_model_state_dict(peft, adapter_name=name)
    _copy(_read(path, next(iter(own.values())).device), own, path)


def _save_adapter(network: Network, member: str, folder: Path) -> None:
    assert network.peft is not None
    folder.mkdir()
    state = get_peft_model_state_dict(network.peft, adapter_name=member)
    save_file(_contiguous(state), folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    settings = network.peft.peft_config[member]
    settings.inference_mode = True
    settings.save_pretrained(str(folder))
    settings.inference_mode = False
    # The base is named in the file alone: of one named in memory PEFT would ask the hub. Lists of names are
    # sets to PEFT; sorted, the same run gives the same bytes.
    content = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))
    content["base_model_name_or_path"] = network.base.name_or_path or None
    for name in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(content.get(name), list):
            content[name] = sorted(content[name])
    write_json(folder / ADAPTER_CONFIG, dict(sorted(content.items())))


def _contiguous(named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in named.items()}


def _read(path: Path, device: torch.device) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path, device=str(device))
    except FileNotFoundError:
        raise UserError(f"{path}: the weights are not there; restore the run's artifacts") from None
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file: {error}") from None
    return tensors


def _copy(saved: dict[str, Tensor], own: dict[str, Tensor], path: Path) -> None:
    _check(saved, own, path)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(saved[name])


def _check(saved: dict[str, Tensor], own: dict[str, Tensor], path: Path) -> None:
    missing, extra = sorted(set(own) - set(saved)), sorted(set(saved) - set(own))
    if missing or extra:
        raise UserError(
            f"{path}: not the weights of this network: missing {missing[:3]}, unexpected {extra[:3]}"
        )
    for name, value in own.items():
        if saved[name].shape != value.shape or saved[name].dtype != value.dtype:
            raise UserError(
                f"{path}: {name} has shape {tuple(saved[name].shape)} in {saved[name].dtype}, the network"
                f" {tuple(value.shape)} in {value.dtype}; restore the run's artifacts"
            )
    _check_numbers(saved, path)


def _check_numbers(saved: dict[str, Tensor], path: Path) -> None:
    for name, value in saved.items():
        if not value.isfinite().all():
            raise UserError(f"{path}: {name} holds values that are no numbers; restore the run's artifacts")


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A draft beside `folder` that takes its place when it is whole, and is gone when it is not."""
    try:
        with whole_folder(folder) as draft:
            yield draft
    except (OSError, SafetensorError) as error:
        if not is_full(error):
            raise
        free = shutil.disk_usage(folder.parent).free // 2**20
        raise UserError(
            f"{folder}: the disk is full ({free} MiB free) while writing the weights; nothing"
            " half-written is left; free some space"
        ) from error
