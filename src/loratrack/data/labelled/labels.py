"""Which labels a task has, and their two numbers: local in its head, global in the whole project."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from loratrack.config.data import Subset
from loratrack.errors import DataError, closest, did_you_mean, quoted

MAX_LISTED_LABELS = 5
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
    is_multi_label: bool = False
    """A row has any number of the labels, none among them."""

    @property
    def local_ids(self) -> dict[str, int]:
        return {label: number for number, label in enumerate(self.labels)}


@dataclass(frozen=True)
class LabelMap:
    tasks: tuple[TaskLabels, ...]

    @property
    def columns(self) -> dict[str, slice]:
        """Where each task stands in the matrix of labels, one row for each example.

        One column with the local id of its label; of a multi-label task a column of 0 and 1 for each label.
        """
        sizes = [len(task.labels) if task.is_multi_label else 1 for task in self.tasks]
        ends = list(accumulate(sizes, initial=0))
        return {task.name: slice(*pair) for task, pair in zip(self.tasks, pairwise(ends), strict=True)}

    @property
    def by_name(self) -> LabelMap:
        """The same labels, those of each task in the order of their names."""
        tasks = []
        for task in self.tasks:
            labels, global_ids = zip(*sorted(zip(task.labels, task.global_ids, strict=True)), strict=True)
            tasks.append(replace(task, labels=labels, global_ids=global_ids))
        return LabelMap(tuple(tasks))

    def to_dict(self) -> dict[str, dict[str, dict[str, int]]]:
        """What `label_map.json` holds."""
        return {
            task.name: {
                label: {"local_id": local_id, "global_id": global_id}
                for local_id, (label, global_id) in enumerate(zip(task.labels, task.global_ids, strict=True))
            }
            for task in self.tasks
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], multi_label: Collection[str] = ()) -> LabelMap:
        """Reads what `to_dict` gave; DataError when the local ids are not 0…n-1.

        `multi_label`: the names of the tasks that are so, which the config says.
        """
        tasks = []
        for name, numbers in content.items():
            try:
                ordered = sorted(numbers.items(), key=lambda item: item[1]["local_id"])
                local_ids = [int(number["local_id"]) for _, number in ordered]
                global_ids = tuple(int(number["global_id"]) for _, number in ordered)
            except (AttributeError, KeyError, TypeError, ValueError):
                raise DataError(
                    f"label map: {name}: each label must have a local_id and a global_id"
                ) from None
            if local_ids != list(range(len(ordered))):
                raise DataError(f"label map: {name}: local ids must be 0…{len(ordered) - 1}, got {local_ids}")
            labels = tuple(label for label, _ in ordered)
            tasks.append(TaskLabels(name, labels, global_ids, name in multi_label))
        return cls(tuple(tasks))

    @property
    def sha256(self) -> str:
        numbers = [[task.name, task.labels, task.global_ids] for task in self.tasks]
        return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()


def labels_of_cell(cell: str | None, separator: str | None = None) -> list[str]:
    """The label that a cell holds, or with a separator any number of them; nothing in an empty one."""
    parts = [cell or ""] if separator is None else map(str.strip, (cell or "").split(separator))
    return [part for part in parts if part]


def read_global_map(file: Path, tasks: tuple[str, ...], problems: list[str]) -> GlobalMap:
    """The global ids of each task's labels from `{label: id}` or `{task: {label: id}}`.

    Adds what is wrong to `problems`; what it returns then is not to be used.
    """
    content: object = None
    if file.exists() and not file.is_file():  # a pipe may never end
        problems.append(f"{file}: the global label map must be a regular file")
        return GlobalMap({}, is_shared=False)
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique_keys)
        if not isinstance(content, dict) or not content:
            problems.append(f"{file}: the global label map must map labels to ids, got {content!r:.60}")
    except OSError as error:
        problems.append(f"{file}: the global label map cannot be read: {error.strerror}")
    except (ValueError, RecursionError) as error:
        problems.append(f"{file}: the global label map must be JSON in UTF-8: {error}")
    if not isinstance(content, dict):
        content = {}
    nested = [name for name, value in content.items() if isinstance(value, dict)]
    if not nested:
        problems += [f"{file}: {problem}" for problem in _id_problems(content)]
        return GlobalMap(dict.fromkeys(tasks, content), is_shared=len(tasks) > 1)
    flat = [name for name in content if name not in nested]
    if flat:
        problems.append(
            f"{file}: must map labels to ids or tasks to such maps, not both; got {quoted(flat[:5])}"
        )
    for task in tasks:
        if task not in content:
            problems.append(f"{file}: has no task {quoted(task)}{did_you_mean(task, content)}")
        elif task in nested:
            problems += [f"{file}: {task}: {problem}" for problem in _id_problems(content[task])]
    return GlobalMap({task: content[task] for task in tasks if task in nested}, is_shared=False)


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"the same key twice: {quoted(twice)}")
    return content


def _id_problems(ids: Mapping[str, object]) -> list[str]:
    problems = [
        f"{quoted(label)}: the id must be a whole number from 0, got {number!r}"
        for label, number in ids.items()
        if type(number) is not int or number < 0
    ]
    owners: dict[str, list[str]] = {}
    for label, number in ids.items():
        owners.setdefault(json.dumps(number), []).append(label)
    return problems + [
        f"id {number} belongs to more than one label: {quoted(labels)}"
        for number, labels in owners.items()
        if len(labels) > 1
    ]


def task_labels(
    task: str,
    subset: Subset,
    labels_in_data: Iterable[str],
    global_map: GlobalMap | None,
    problems: list[str],
    *,
    is_multi_label: bool = False,
) -> TaskLabels:
    """The labels of a task: its subset, else the global map by id, else those of the data, sorted.

    Of a shared global map `all` means the labels that the task's column holds. Adds what is wrong to
    `problems`; that labels of a subset are not in the data is said by `subset_problems`.
    """
    if global_map is None:
        ids = {label: number for number, label in enumerate(sorted(labels_in_data))}
    else:
        ids = global_map.by_task[task]
    if subset == "all":
        is_shared = global_map is not None and global_map.is_shared
        own = {label for label in ids if not is_shared or label in labels_in_data}
        labels = tuple(sorted(own, key=lambda label: ids[label]))
    else:
        labels = subset
    setting = f"data.label_subset.{task}"
    missing = [label for label in labels if label not in ids]
    if missing and global_map is not None:
        meant = probably_meant(labels, ids)
        problems.append(f"{setting}: {_not_in('data.global_label_map', missing, meant)}")
    if len(labels) < 2:
        problems.append(f"{setting}: a task needs at least two labels, got {quoted(list(labels))}")
    return TaskLabels(task, labels, tuple(ids.get(label, -1) for label in labels), is_multi_label)


def subset_problems(
    task: str, labels: Sequence[str], labels_in_data: Collection[str], *, must_be_in_data: bool
) -> list[str]:
    """What the labels of a task and those of the data say against each other: one problem for all of them."""
    setting = f"data.label_subset.{task}"
    missing = [label for label in labels if label not in labels_in_data]
    if len(missing) == len(labels):
        return [
            f"{setting}: none of its labels is in the data, which has {_listed(sorted(labels_in_data))}; the"
            f" config names {_listed(labels)}; name the labels of the data, or another column:"
            f" data.label_columns: {{{task}: COLUMN}}"
        ]
    if not missing or not must_be_in_data:
        return []
    if len(labels_in_data) == 1:
        return [
            f"{setting}: the data has only {quoted(*labels_in_data)}; a task needs rows of two labels or more"
        ]
    return [f"{setting}: {_not_in('the data', missing, probably_meant(labels, labels_in_data))}"]


def probably_meant(labels: Sequence[str], others: Collection[str]) -> dict[str, str]:
    """For labels that `others` lack the one of them that was meant; never one that the task names as well."""
    unnamed = set(others) - set(labels)
    missing = [label for label in labels if label not in others]
    # each search takes milliseconds, and a task may have thousands of labels
    meant = {label: closest(label, unnamed) for label in missing[:MAX_LISTED_LABELS]}
    return {label: near for label, near in meant.items() if near is not None}


def _not_in(source: str, missing: Sequence[str], meant: Mapping[str, str]) -> str:
    if len(missing) == 1:
        hint = f"; did you mean {quoted(meant[missing[0]])}?" if meant else ""
        return f"label {quoted(missing[0])} is not in {source}{hint}"
    pairs = ", ".join(f"{quoted(near)} for {quoted(label)}" for label, near in meant.items())
    hint = f"; did you mean {pairs}?" if pairs else ""
    return f"{len(missing)} labels are not in {source}: {_listed(missing)}{hint}"


def _listed(labels: Sequence[str]) -> str:
    """`'a', 'b'`, or the first five and how many more."""
    listed = ", ".join(map(quoted, labels[:MAX_LISTED_LABELS]))
    more = len(labels) - MAX_LISTED_LABELS
    return f"{listed}, … and {more} more" if more > 0 else listed
