"""A run beside the run that repeats it: what is different around them, and whether the metrics are equal."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

REPRODUCES = "reproduces"
"""The tag of the second run; its value is the id of the first."""
PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "pandas", "scikit-learn")
"""Those that a training's numbers come from."""
MEASURED = ("system/", "time/")
"""Metrics that differ whenever a step is done again; earlier versions logged `time/epoch_seconds`."""
TOLERANCE = 0.02
"""Largest difference of a metric where the numbers cannot be the same to the bit."""

COMPARED_PACKAGES = (*PACKAGES, "loratrack")

Epochs = Mapping[int, Mapping[str, float]]


@dataclass(frozen=True)
class Difference:
    what: str
    then: str
    now: str
    counts: bool = True
    """Whether the numbers of a training may follow from it."""

    def __str__(self) -> str:
        return f"{self.what}: then {self.then}, now {self.now}"


def surroundings() -> dict[str, Any]:
    """As much of `env_info.json` as is compared, without the questions that take long."""
    import torch

    from loratrack.tracking import environment

    return {
        "python": platform.python_version(),
        "packages": {
            name: version for name, version in environment.packages().items() if name in COMPARED_PACKAGES
        },
        "cpu": {"model": environment.cpu_model()},
        "gpu": environment.gpu(),
        "torch": {"threads": torch.get_num_threads()},
    }


def environment_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Of two `env_info.json`."""
    pairs = [
        ("python", _python(then), _python(now), False),
        *((name, _package(then, name), _package(now, name), True) for name in PACKAGES),
        ("loratrack", _package(then, "loratrack"), _package(now, "loratrack"), False),
        ("git commit", _commit(then), _commit(now), False),
        ("processor", _cpu(then), _cpu(now), True),
        ("GPU", _gpus(then), _gpus(now), True),
        ("threads", _threads(then), _threads(now), True),
    ]
    return [Difference(what, old, new, counts) for what, old, new, counts in pairs if old != new]


def is_exact(differences: Sequence[Difference], environment: Mapping[str, Any]) -> bool:
    """Whether the metrics must be equal to the bit: nothing that counts is different, and no GPU computes."""
    return not any(each.counts for each in differences) and _gpus(environment) == "none"


def epochs_of(metrics: Mapping[str, Any]) -> dict[int, dict[str, float]]:
    """The epochs in a `metrics.json`."""
    return {
        int(name.removeprefix("epoch_")): values
        for name, values in metrics.items()
        if name.startswith("epoch_")
    }


def metric_differences(then: Epochs, now: Epochs, *, exact: bool, is_whole: bool) -> list[Difference]:
    """Every metric of every epoch that is not equal, or not within `TOLERANCE`.

    `is_whole`: the first run came to its end, so the second must not have more epochs.
    """
    differences = []
    for epoch, values in sorted(then.items()):
        for name, old in values.items():
            new = now.get(epoch, {}).get(name)
            if not name.startswith(MEASURED) and not _is_same(old, new, exact):
                shown = "none" if new is None else repr(new)
                differences.append(Difference(f"epoch {epoch} {name}", repr(old), shown))
    if is_whole and len(then) != len(now):
        differences.append(Difference("epochs", str(len(then)), str(len(now))))
    return differences


def _is_same(old: float, new: float | None, exact: bool) -> bool:
    if new is None:
        return False
    if old == new or (old != old and new != new):
        return True
    return not exact and abs(old - new) <= TOLERANCE


def _python(environment: Mapping[str, Any]) -> str:
    return str(environment.get("python", platform.python_version())).split()[0]


def _package(environment: Mapping[str, Any], name: str) -> str:
    return str(environment.get("packages", {}).get(name, "none"))


def _commit(environment: Mapping[str, Any]) -> str:
    git = environment.get("git")
    if not git:
        return "none"
    return str(git["commit"])[:12] + (" with changes" if git.get("dirty") else "")


def _cpu(environment: Mapping[str, Any]) -> str:
    return str(environment.get("cpu", {}).get("model", "unknown"))


def _gpus(environment: Mapping[str, Any]) -> str:
    devices = environment.get("gpu", {}).get("devices") or []
    return ", ".join(str(device["name"]) for device in devices) or "none"


def _threads(environment: Mapping[str, Any]) -> str:
    facts = environment.get("torch", {})
    threads, at_start = str(facts.get("threads", "unknown")), facts.get("threads_at_start")
    # a busy neighbour came in the middle: no number of threads gives the same bits again
    return threads if at_start is None else f"{at_start} first and {threads} later"
