"""Which labels a task has, and their two numbers: local in its head, global in the whole project."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loratrack.config.schema import Subset
from loratrack.errors import DataError, did_you_mean

GlobalIds = dict[str, int]


@dataclass(frozen=True)
class GlobalMap:
    by_task: dict[str, GlobalIds]
    is_shared: bool
    """Several tasks have their labels in one flat map, which cannot say whose is whose."""


@dataclass(frozen=True)
class TaskLabels:
    """Local ids are 0…n-1 in the order of `labels`; `global_ids` stand in the same order."""

    name: str
    labels: tuple[str, ...]
    global_ids: tuple[int, ...]

    @property
    def local_ids(self) -> dict[str, int]:
        return {label: number for number, label in enumerate(self.labels)}


@dataclass(frozen=True)
class LabelMap:
    tasks: tuple[TaskLabels, ...]

    def to_dict(self) -> dict[str, Any]:
        """What `label_map.json` holds."""
        return {task.name: _numbers(task) for task in self.tasks}

    @classmethod
    def from_dict(cls, tasks: Mapping[str, Any]) -> LabelMap:
        """Reads what `to_dict` gave; DataError when the local ids are not 0…n-1."""
        return cls(tuple(_task(name, numbers) for name, numbers in tasks.items()))

    @property
    def sha256(self) -> str:
        numbers = [[task.name, task.labels, task.global_ids] for task in self.tasks]
        return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()


def _numbers(task: TaskLabels) -> dict[str, dict[str, int]]:
    return {
        label: {"local_id": local_id, "global_id": global_id}
        for local_id, (label, global_id) in enumerate(zip(task.labels, task.global_ids, strict=True))
    }


def _task(name: str, numbers: Any) -> TaskLabels:
    try:
        ordered = sorted(numbers.items(), key=lambda item: item[1]["local_id"])
        local_ids = [int(number["local_id"]) for _, number in ordered]
        global_ids = tuple(int(number["global_id"]) for _, number in ordered)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DataError(f"label map: {name}: each label must have a local_id and a global_id") from None
    if local_ids != list(range(len(ordered))):
        raise DataError(f"label map: {name}: local ids must be 0…{len(ordered) - 1}, got {local_ids}")
    return TaskLabels(name, tuple(label for label, _ in ordered), global_ids)


def read_global_map(file: Path, tasks: tuple[str, ...], faults: list[str]) -> GlobalMap:
    """The global ids of each task's labels from `{label: id}` or `{task: {label: id}}`.

    Adds what is wrong to `faults`; what it returns then is not to be used.
    """
    content = _json_mapping(file, faults)
    nested = [name for name, value in content.items() if isinstance(value, dict)]
    if not nested:
        faults += [f"{file}: {fault}" for fault in _id_faults(content)]
        return GlobalMap(dict.fromkeys(tasks, content), is_shared=len(tasks) > 1)
    flat = [name for name in content if name not in nested]
    if flat:
        faults.append(f"{file}: must map labels to ids or tasks to such maps, not both; got {flat[:5]!r}")
    for task in tasks:
        if task not in content:
            faults.append(f"{file}: has no task {task!r}{did_you_mean(task, content)}")
        elif task in nested:
            faults += [f"{file}: {task}: {fault}" for fault in _id_faults(content[task])]
    return GlobalMap({task: content[task] for task in tasks if task in nested}, is_shared=False)


def _json_mapping(file: Path, faults: list[str]) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=_pairs_once)
    except OSError as error:
        faults.append(f"{file}: the global label map cannot be read: {error.strerror}")
        return {}
    except (ValueError, RecursionError) as error:
        faults.append(f"{file}: the global label map must be JSON in UTF-8: {error}")
        return {}
    if not isinstance(content, dict) or not content:
        faults.append(f"{file}: the global label map must map labels to ids, got {content!r:.60}")
        return {}
    return content


def _pairs_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the same key twice: {sorted({name for name in names if names.count(name) > 1})}")
    return content


def _id_faults(ids: Mapping[str, Any]) -> list[str]:
    faults = [
        f"{label!r}: the id must be a whole number from 0, got {number!r}"
        for label, number in ids.items()
        if type(number) is not int or number < 0
    ]
    owners: dict[str, list[str]] = {}
    for label, number in ids.items():
        owners.setdefault(json.dumps(number), []).append(label)
    return faults + [
        f"id {number} belongs to more than one label: {labels!r}"
        for number, labels in owners.items()
        if len(labels) > 1
    ]


def task_labels(
    task: str, subset: Subset, found: set[str], global_map: GlobalMap | None, faults: list[str]
) -> TaskLabels:
    """The labels of a task: its subset, else the global map by id, else those of the data, sorted.

    Of a shared global map `all` means the labels that the task's column holds.
    """
    from_data = {label: number for number, label in enumerate(sorted(found))}
    ids = from_data if global_map is None else global_map.by_task[task]
    is_shared = global_map is not None and global_map.is_shared
    if subset == "all":
        own = {label for label in ids if not is_shared or label in found}
        labels = tuple(sorted(own, key=lambda label: ids[label]))
    else:
        labels = subset
    faults += _subset_faults(task, labels, ids, global_map is not None)
    return TaskLabels(task, labels, tuple(ids.get(label, -1) for label in labels))


def _subset_faults(task: str, labels: tuple[str, ...], ids: GlobalIds, is_given: bool) -> list[str]:
    place, where = f"data.label_subset.{task}", "data.global_label_map" if is_given else "the data"
    faults = [
        f"{place}: label {label!r} is not in {where}{did_you_mean(label, ids)}"
        for label in labels
        if label not in ids
    ]
    if len(labels) < 2:
        faults.append(f"{place}: a task needs at least two labels, got {list(labels)!r}")
    return faults
