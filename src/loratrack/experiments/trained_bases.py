"""A trained model in MLflow as a base: what `model.arch: models:/NAME@ALIAS` means.

`find` is the entry point `run` in the group `loratrack.bases`: training, serving and MLflow's own processes
reach it through `bases.resolve`, without importing this room.
"""

from __future__ import annotations

from loratrack.bases.base import RUN_SCHEMES, Base
from loratrack.bases.trust import Trust
from loratrack.experiments.loading import AnyConfig
from loratrack.registry import uri


def find(arch: str, trust: Trust) -> Base:
    """The base that `models:/NAME/3`, `models:/NAME@alias` or `runs:/ID` names, made once and cached."""
    from loratrack.model.merge import merged_base

    name = uri.pinned(arch)
    return merged_base(uri.fetch(name), name, trust)


def pinned(config: AnyConfig) -> AnyConfig:
    """An alias becomes the version that it means now: the frozen copy outlives its moves."""
    arch = config.model.arch
    if not arch.startswith(RUN_SCHEMES):
        return config
    return config.model_copy(update={"model": config.model.model_copy(update={"arch": uri.pinned(arch)})})
