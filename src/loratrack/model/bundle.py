"""A bundle: a folder that holds all of a trained model but the base, and says which base that is.

    lora_adapter/ | model/    the weights, as PEFT or transformers write them
    heads.safetensors         the classifiers
    label_map.json            local and global id of each label
    config_copy.yaml          the frozen settings
    probe.safetensors         a few rows and the logits it gave for them
    bundle.json               base and tokenizer by sha256, precision, and the sha256 of each file above

`bundle.json` is written last and checked first: a bundle is whole, unchanged and on its own base, or refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from loratrack.bases import base as bases
from loratrack.bases.base import Base
from loratrack.bases.precision import best_device, compute_dtype, precision_name
from loratrack.config import RunConfig, files
from loratrack.disk import sha256_of
from loratrack.errors import UserError
from loratrack.model import probe as probes
from loratrack.model import weights
from loratrack.model.network import Network
from loratrack.model.probe import PROBE, Probe
from loratrack.places import BUNDLE, CONFIG_COPY, LABEL_MAP, our_project

FORMAT = 1
MEMBER = "model"
"""The only member of a network that serves."""


def build_network(base: Base, config: RunConfig, precision: str | None = None) -> Network:
    """The base of a config on the best device, without members yet."""
    device = best_device()
    dtype = compute_dtype(precision or config.train.precision, device)  # type: ignore[arg-type]
    encoder = bases.load_encoder(
        base,
        dtype=dtype if config.model.use_lora else torch.float32,
        trust_remote_code=config.model.trust_remote_code,
    )
    encoder.name_or_path = base.loadable_name
    return Network(encoder, config.model.pooling, device, use_lora=config.model.use_lora, dtype=dtype)


def save(
    folder: Path,
    kept: Path,
    network: Network,
    base: Base,
    config: RunConfig,
    labels: Mapping[str, Any],
    probe: Probe | None = None,
) -> None:
    """Make `folder` a bundle of the weights in `kept`."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in kept.iterdir():
        target = folder / part.name
        shutil.copytree(part, target) if part.is_dir() else shutil.copy2(part, target)
    (folder / LABEL_MAP).write_text(json.dumps(labels, ensure_ascii=False, indent=1), encoding="utf-8")
    files.save(config, folder / CONFIG_COPY)
    if probe is not None:
        probes.save(probe, folder / PROBE)
    content = {
        "format": FORMAT,
        "base": {
            "name": str(base.folder) if base.origin == "local" else base.name,
            "origin": base.origin,
            "sha256": base.sha256,
            "tokenizer_sha256": base.tokenizer_sha256,
        },
        "precision": precision_name(network.dtype),
        "layout": network.layout,
        "files": {path.relative_to(folder).as_posix(): sha256_of(path) for path in _parts(folder)},
    }
    (folder / BUNDLE).write_text(json.dumps(content, indent=1), encoding="utf-8")


def load(folder: Path, notice: Callable[[str], None]) -> tuple[Network, Base, RunConfig, dict[str, Any]]:
    """The network of a bundle with its weights in place, its base, settings and label map."""
    content = read_manifest(folder)
    config = files.load(folder / CONFIG_COPY)
    base = base_of(folder, content, trust_remote_code=config.model.trust_remote_code)
    if config.model.trust_remote_code:
        notice(f"running code that comes with the base {base.name} (model.trust_remote_code is on)")
    labels = json.loads((folder / LABEL_MAP).read_text(encoding="utf-8"))
    network = build_network(base, config, content["precision"])
    classes = {task: len(numbers) for task, numbers in labels.items()}
    network.add(MEMBER, config.model.lora, classes, seed=0)
    network.layout = content["layout"]
    weights.load(network, MEMBER, folder)
    return network, base, config, labels


def read_manifest(folder: Path) -> dict[str, Any]:
    """`bundle.json`, once every file it names was found unchanged."""
    file = folder / BUNDLE
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not a model of ours, since {BUNDLE} cannot be read: {error}") from None
    if content.get("format") != FORMAT:
        raise UserError(f"{file}: format must be {FORMAT}, got {content.get('format')!r}; update loratrack")
    for name, expected in content["files"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing from the model; restore the run's artifacts")
        if sha256_of(path) != expected:
            raise UserError(f"{path}: changed since the model was saved; restore the run's artifacts")
    return content


def base_of(folder: Path, manifest: Mapping[str, Any], *, trust_remote_code: bool) -> Base:
    """The base that the bundle was trained on, or UserError.

    A local folder that is gone may have moved along with our project, and is looked for there.
    """
    recorded = manifest["base"]
    name, local, project = recorded["name"], Path(recorded["name"]), our_project()
    if recorded["origin"] == "local" and not local.is_dir() and project is not None:
        below = [project.joinpath(*local.parts[start:]) for start in range(1, len(local.parts))]
        name = str(next((path for path in below if path.is_dir()), local))
    base = bases.resolve(name, trust_remote_code=trust_remote_code)
    for field, own in (("sha256", base.sha256), ("tokenizer_sha256", base.tokenizer_sha256)):
        if own != recorded[field]:
            part = "base" if field == "sha256" else "tokenizer"
            raise UserError(
                f"{folder}: was trained on another {part} than {base.name!r} in {base.folder}: {field} must"
                f" be {recorded[field][:12]}…, got {own[:12]}…; put the {part} back that it was trained on"
            )
    return base


def _parts(folder: Path) -> list[Path]:
    """The files that make up the model, in a fixed order."""
    tops = (weights.ADAPTER, weights.FULL)
    inside = [path for top in tops for path in (folder / top).rglob("*") if path.is_file()]
    probe = [path for path in [folder / PROBE] if path.is_file()]
    return sorted([*inside, folder / weights.HEADS, folder / LABEL_MAP, folder / CONFIG_COPY, *probe])
