"""A bundle: a folder that holds all of a trained model but the base, and says which base that is.

    lora_adapter/ | model/    the weights, as PEFT or transformers write them
    heads.safetensors         the classifiers
    label_map.json            local and global id of each label
    thresholds.json           of multi-label tasks: from which probability on a label is predicted
    config_copy.yaml          the frozen settings
    probe.safetensors         a few rows and the logits it gave for them
    bundle.json               base and tokenizer by sha256, precision, and the sha256 of each file above

`bundle.json` is written last and checked first: a bundle is whole, unchanged and on its own base, or refused.
What it must say stands in `loratrack/manifest.py`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

from loratrack import manifest as manifests
from loratrack.bases import base as bases
from loratrack.bases.base import Base
from loratrack.bases.precision import best_device, compute_dtype, precision_name
from loratrack.bases.trust import Trust, covers, refusal
from loratrack.config import RunConfig, files
from loratrack.config.layers import FROZEN_MARK
from loratrack.disk import sha256_of
from loratrack.errors import UserError
from loratrack.manifest import Manifest, RecordedBase
from loratrack.model import probe as probes
from loratrack.model import thresholds, weights
from loratrack.model.network import Network
from loratrack.model.probe import Probe
from loratrack.places import BUNDLE, CONFIG_COPY, LABEL_MAP, PROBE, our_project

MEMBER = "model"
"""The only member of a network that serves."""
LABELS = TypeAdapter(
    dict[str, dict[str, dict[Literal["local_id", "global_id"], int]]], config=ConfigDict(strict=True)
)


def build_network(base: Base, config: RunConfig, precision: str | None = None) -> Network:
    """The base of a config on the best device, without members yet."""
    device = best_device()
    dtype = compute_dtype(precision or config.train.precision, device)  # type: ignore[arg-type]
    encoder = bases.load_encoder(base, dtype=dtype if config.model.use_lora else torch.float32)
    encoder.name_or_path = base.loadable_name
    with bases.load_faults(base.folder, "the network"):  # its first pass shows what its config asks for
        return Network(encoder, config.model.pooling, device, use_lora=config.model.use_lora, dtype=dtype)


def save(
    folder: Path,
    kept: Path,
    network: Network,
    base: Base,
    config: RunConfig,
    labels: Mapping[str, Any],
    probe: Probe | None = None,
    tuned_thresholds: Mapping[str, float] | None = None,
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
    thresholds.save(tuned_thresholds or {}, folder)
    manifest = Manifest(
        format=manifests.FORMAT,
        base=RecordedBase(
            name=str(base.folder) if base.origin == "local" else base.name,
            origin=base.origin,
            sha256=base.sha256,
            tokenizer_sha256=base.tokenizer_sha256,
            runs_code=base.runs_code,
        ),
        precision=precision_name(network.dtype),
        layout=network.layout,
        files={path.relative_to(folder).as_posix(): sha256_of(path) for path in manifests.parts(folder)},
    )
    (folder / BUNDLE).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    for name in manifest.files:
        if name != CONFIG_COPY:  # safetensors makes its files for their owner alone, whatever the umask says
            (folder / name).chmod((folder / BUNDLE).stat().st_mode)


def load(
    folder: Path, notice: Callable[[str], None], trusted: frozenset[str] = frozenset()
) -> tuple[Network, Base, RunConfig, dict[str, Any]]:
    """The network of a bundle with its weights in place, its base, settings and label map.

    `trusted`: the bases, by sha256, whose code may run. What the bundle itself says of that does not count.
    """
    manifest = manifests.whole(folder)
    with (folder / CONFIG_COPY).open("rb") as opened:
        if not opened.readline().startswith(FROZEN_MARK.encode()):  # else parents anywhere would be read
            raise UserError(
                f"{folder / CONFIG_COPY}: must begin with {FROZEN_MARK!r}, as a run writes it;"
                " restore the run's artifacts"
            )
    config = files.load(folder / CONFIG_COPY)
    base = base_of(folder, manifest.base, trusted)
    if base.runs_code:
        notice(f"running code that comes with the base {base.name}, which is trusted")
    labels = _labels(folder / LABEL_MAP, config)
    network = build_network(base, config, manifest.precision)
    classes = {task: len(numbers) for task, numbers in labels.items()}
    network.add(MEMBER, config.model.lora, classes, seed=0)
    network.layout = manifest.layout
    weights.load(network, MEMBER, folder)
    return network, base, config, labels


def base_of(folder: Path, recorded: RecordedBase, trust: Trust) -> Base:
    """The base that the bundle was trained on, or UserError; without trust in its code, before it is fetched.

    A local folder that is gone may have moved along with our project, and is looked for there.
    """
    name, local, project = recorded.name, Path(recorded.name), our_project()
    if recorded.origin == "local" and not local.is_dir() and project is not None:
        below = [project.joinpath(*local.parts[start:]) for start in range(1, len(local.parts))]
        name = str(next((path for path in below if path.is_dir()), local))
    if recorded.runs_code and not covers(trust, recorded.sha256):
        raise UserError(
            f"{folder}: was trained with code of its base; {refusal(trust, name, recorded.sha256)}"
        )
    base = bases.resolve(name, trust=trust if recorded.runs_code else False)
    for part, own, then in (
        ("base", base.sha256, recorded.sha256),
        ("tokenizer", base.tokenizer_sha256, recorded.tokenizer_sha256),
    ):
        if own != then:
            raise UserError(
                f"{folder}: was trained on another {part} than {base.name!r} in {base.folder}: its sha256"
                f" must be {then[:12]}…, got {own[:12]}…; put the {part} back that it was trained on"
            )
    return base


def _labels(file: Path, config: RunConfig) -> dict[str, Any]:
    """The label map, of the tasks that the config has."""
    try:
        content = LABELS.validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        first = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else error.strerror
        raise UserError(
            f"{file}: must give each task's labels their local_id and global_id ({first}); restore the run's"
            " artifacts"
        ) from None
    if list(content) != list(config.tasks):
        raise UserError(
            f"{file}: must have the tasks of {CONFIG_COPY}, {list(config.tasks)}, got {list(content)};"
            " restore the run's artifacts"
        )
    return dict(content)
