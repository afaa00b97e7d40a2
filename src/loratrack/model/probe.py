"""A model's probe: a few rows and the logits it gave for them, kept with it so that anybody can check it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from loratrack.errors import UserError
from loratrack.model.batch import Sequences


@dataclass(frozen=True)
class Probe:
    """Rows, as `Sequences`, and what came of them."""

    tokens: NDArray[Any]
    offsets: NDArray[Any]
    token_types: NDArray[Any] | None
    logits: Tensor
    """[rows, classes of all tasks]."""
    computed_on: str
    """Where the logits were computed; the same place gives the same bits again."""


def probe_of(rows: Sequences, logits: Tensor, device: torch.device) -> Probe:
    return Probe(rows.tokens, rows.offsets, rows.token_types, logits, computing_place(device))


def computing_place(device: torch.device) -> str:
    """Whatever may change the order of a sum."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"cpu {instructions}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def save(probe: Probe, file: Path) -> None:
    arrays = {"tokens": probe.tokens, "offsets": probe.offsets}
    if probe.token_types is not None:
        arrays["token_types"] = probe.token_types
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    tensors["logits"] = probe.logits.contiguous()
    save_file(tensors, file, metadata={"computed_on": probe.computed_on})


def load(file: Path) -> Probe:
    """What `save` wrote; UserError for anything else."""
    try:
        with safe_open(file, framework="pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118  no mapping
            place = content.metadata()["computed_on"]
        tokens, offsets, logits = tensors["tokens"], tensors["offsets"], tensors["logits"]
    except (OSError, KeyError, TypeError, SafetensorError) as error:
        raise _unfit(file, str(error)) from None
    types = tensors.get("token_types")
    if (tokens.dtype, offsets.dtype, logits.dtype) != (torch.int32, torch.int64, torch.float32):
        raise _unfit(file, "tensors of other types")
    if types is not None and (types.dtype, types.shape) != (torch.uint8, tokens.shape):
        raise _unfit(file, "token types that do not belong to its tokens")
    is_rows = (
        offsets.dim() == 1 and len(offsets) > 1 and int(offsets[0]) == 0 and bool((offsets.diff() > 0).all())
    )
    if not is_rows or tokens.shape != (int(offsets[-1]),) or logits.shape[:1] != (len(offsets) - 1,):
        raise _unfit(file, "offsets that are not those of its rows")
    return Probe(
        tokens=tokens.numpy(),
        offsets=offsets.numpy(),
        token_types=None if types is None else types.numpy(),
        logits=logits,
        computed_on=place,
    )


def _unfit(file: Path, fault: str) -> UserError:
    return UserError(f"{file}: must hold rows and their logits, got {fault}; restore the run's artifacts")
