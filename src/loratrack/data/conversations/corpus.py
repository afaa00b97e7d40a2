"""From files to checked and split conversations; no tokenizer yet."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from loratrack.data.conversations.conversation import Conversation
from loratrack.data.conversations.formats import Format, FormatError, of_record
from loratrack.data.conversations.json_records import Records, read_records
from loratrack.data.conversations.variables import filled, names_in
from loratrack.data.files import guessed_notices
from loratrack.data.tables import lines_text
from loratrack.errors import DataError, problems_message, quoted

RAW, VALIDATION, TEST = "data.raw_data_path", "data.validation_path", "data.test_path"
MAX_EXAMPLES = 5
"""Of values and names in a message."""
ONE_QUESTION = (
    "all conversations have the same question, too few for a validation split; add others or name a"
    " data.validation_path"
)
LEFT_OUT = {
    "repeated": "that repeat another to the letter",
    "without_target": "without an answer to learn",
    "question_elsewhere": "with a question of the validation or test file",
}

Report = dict[str, Any]
"""JSON."""


@dataclass(frozen=True)
class Settings:
    raw_data_path: Path
    validation_path: Path | None = None
    test_path: Path | None = None
    format: Format = "auto"
    train_on: Literal["all_turns", "last_turn"] = "all_turns"
    """Which answers are targets; one with `train: false` never is."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What stands for `{{name}}` in the texts."""
    validation_share: float = 0.1
    """Share of the different questions that is split off when `validation_path` names no file."""
    split_seed: int = 0


@dataclass(frozen=True)
class Conversations:
    train: tuple[Conversation, ...]
    validation: tuple[Conversation, ...]
    test: tuple[Conversation, ...]
    """Empty where no file is named."""
    files_sha256: dict[str, str]
    """By setting, such as `data.raw_data_path`."""
    report: Report

    @property
    def sha256(self) -> str:
        """Of the bytes of all data files."""
        return hashlib.sha256(json.dumps(self.files_sha256, sort_keys=True).encode()).hexdigest()

    @property
    def validation_sha256(self) -> str:
        """Of the conversations in their order, filled in, and of what in them is a target."""
        sha256 = hashlib.sha256()
        for conversation in self.validation:
            sha256.update(conversation.contents.encode() + b"\n")
        return sha256.hexdigest()


@dataclass(frozen=True)
class _Usable:
    """What of a file can be learned, and how many of its conversations cannot, by reason."""

    records: Records
    conversations: list[Conversation]
    left_out: dict[str, int]
    names: set[str]
    """Of the variables in its texts."""


def read(settings: Settings) -> Conversations:
    """One DataError reports all problems of all files, with the numbers of the records."""
    paths = {RAW: settings.raw_data_path, VALIDATION: settings.validation_path, TEST: settings.test_path}
    problems: list[str] = []
    files: dict[str, _Usable] = {}
    for setting, path in paths.items():
        records = None if path is None else read_records(path, problems)
        if records is not None:
            files[setting] = _usable(records, settings, problems)
    _raise(problems)

    others = [files[setting].conversations for setting in (VALIDATION, TEST) if setting in files]
    raw, asked = files[RAW], {conversation.question for other in others for conversation in other}
    train = [conversation for conversation in raw.conversations if conversation.question not in asked]
    raw.left_out["question_elsewhere"] = len(raw.conversations) - len(train)
    for setting, file in files.items():
        if not (train if setting == RAW else file.conversations):
            problems.append(f"{file.records.file}: no conversation is left; {_left_out_text(file.left_out)}")
    _raise(problems)

    parts = {"train": train}
    if VALIDATION in files:
        parts["validation"] = files[VALIDATION].conversations
    else:
        asked = _held_out(train, settings.validation_share, settings.split_seed)
        if not asked:
            problems.append(f"{raw.records.file}: {ONE_QUESTION}")
        parts["train"] = [conversation for conversation in train if conversation.question not in asked]
        parts["validation"] = [conversation for conversation in train if conversation.question in asked]
    _raise(problems)
    if TEST in files:
        parts["test"] = files[TEST].conversations
    return Conversations(
        train=tuple(parts["train"]),
        validation=tuple(parts["validation"]),
        test=tuple(parts.get("test", ())),
        files_sha256={setting: file.records.sha256 for setting, file in files.items()},
        report=_report(files, parts, settings.variables),
    )


def _usable(records: Records, settings: Settings, problems: list[str]) -> _Usable:
    """Each record is checked; what is wrong is reported by fault, with the numbers of all that have it."""
    numbers: dict[str, list[int]] = {}
    came: dict[str, list[str]] = {}
    numbers_without_value: list[int] = []
    names: set[str] = set()
    seen: set[bytes] = set()
    conversations: list[Conversation] = []
    left_out = dict.fromkeys(LEFT_OUT, 0)
    for number, record in records.values:
        try:
            conversation = of_record(record, settings.format)
        except FormatError as error:
            numbers.setdefault(error.fault, []).append(number)
            came.setdefault(error.fault, []).append(error.got)
            continue
        if own_names := names_in(conversation):
            names |= own_names
            if not own_names <= settings.variables.keys():
                numbers_without_value.append(number)
            conversation = filled(conversation, settings.variables)
        if settings.train_on == "last_turn":
            conversation = conversation.with_last_answer_alone()
        sha256 = hashlib.sha256(conversation.contents.encode()).digest()
        if sha256 in seen:
            left_out["repeated"] += 1
        elif not conversation.targets:
            left_out["without_target"] += 1
        else:
            conversations.append(replace(conversation, source=str(records.file), number=number))
        seen.add(sha256)
    for fault, places in numbers.items():
        examples = ", ".join([got for got in dict.fromkeys(came[fault]) if got][:MAX_EXAMPLES])
        got = f", got {examples}" if examples else ""
        problems.append(f"{records.file}: {lines_text(places, records.noun)}: {fault}{got}")
    if numbers_without_value:
        where = lines_text(numbers_without_value, records.noun)
        missing = sorted(names - settings.variables.keys())
        problems.append(
            f"{records.file}: {where}: no value for {{{{…}}}} of {quoted(missing)}; set data.variables:"
            f" {{{missing[0]}: VALUE}}, or {{{missing[0]}: '{{{{{missing[0]}}}}}'}} to keep the text as it is"
        )
    return _Usable(records, conversations, left_out, names)


def _held_out(train: Sequence[Conversation], share: float, seed: int) -> set[str]:
    """The questions that go to validation; none where there is only one.

    Each question draws its own lot, so the order of the records does not matter.
    """
    lots = {
        hashlib.sha256(json.dumps([seed, question]).encode()).digest(): question
        for question in {conversation.question for conversation in train}
    }
    count = min(max(1, round(share * len(lots))), len(lots) - 1)
    return {lots[lot] for lot in sorted(lots)[:count]}


def _report(
    files: Mapping[str, _Usable],
    parts: Mapping[str, Sequence[Conversation]],
    variables: Mapping[str, str],
) -> Report:
    warnings: list[str] = []
    for file in files.values():
        warnings += guessed_notices(file.records.file, file.records.encoding)
        if any(file.left_out.values()):
            warnings.append(f"{file.records.file}: {_left_out_text(file.left_out)}")
    unused = sorted(variables.keys() - {name for file in files.values() for name in file.names})
    if unused:
        warnings.append(f"data.variables: no text uses {quoted(unused)}")
    return {
        "files": {
            setting: {
                "name": file.records.file.name,
                "sha256": file.records.sha256,
                "bytes": file.records.num_bytes,
                "encoding": file.records.encoding,
                "records": len(file.records.values),
                "left_out": file.left_out,
            }
            for setting, file in files.items()
        },
        "parts": {name: _counts(conversations) for name, conversations in parts.items()},
        "warnings": warnings,
    }


def _counts(conversations: Sequence[Conversation]) -> Report:
    roles = [[message.role for message in conversation.messages] for conversation in conversations]
    turns = [own.count("user") for own in roles]
    return {
        "conversations": len(conversations),
        "sources": dict(Counter(conversation.source for conversation in conversations)),
        "messages": dict(Counter(role for own in roles for role in own)),
        "targets": sum(len(conversation.targets) for conversation in conversations),
        "turns": sum(turns),
        "most_turns": max(turns),
    }


def _left_out_text(left_out: Mapping[str, int]) -> str:
    """`left out: 2 that repeat another to the letter, 1 without an answer to learn`."""
    return "left out: " + ", ".join(f"{count:,} {LEFT_OUT[why]}" for why, count in left_out.items() if count)


def _raise(problems: Sequence[str]) -> None:
    if problems:
        raise DataError(problems_message("conversations", problems, where=" in the data"))
