from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratrack.data.conversations import Conversation, Conversations, Settings, read
from loratrack.errors import DataError

Record = dict[str, Any]


def record(question: str, answer: str = "好的 👌") -> Record:
    return {"instruction": question, "input": "", "output": answer}


def records(count: int) -> list[Record]:
    return [record(f"问题 {number}", f"回答 {number} 😀") for number in range(count)]


def turns(*texts: str, **last: object) -> Record:
    """User and assistant in turns; `last` joins the last message."""
    messages: list[Record] = [
        {"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(texts)
    ]
    messages[-1] |= last
    return {"messages": messages}


def written(folder: Path, name: str, content: Sequence[object]) -> Path:
    file = folder / name
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return file


def settings(folder: Path, content: Sequence[object], **more: Any) -> Settings:
    """Of a raw file `train.json` with that content; other files by setting."""
    for name in ("validation_path", "test_path"):
        if name in more:
            more[name] = written(folder, f"{name}.json", more[name])
    return Settings(written(folder, "train.json", content), **more)


def problems_in(folder: Path, wanted: Settings) -> list[str]:
    """The problems that reading reports, one a line, without the folder."""
    with pytest.raises(DataError) as caught:
        read(wanted)
    first, *problems = str(caught.value).replace(f"{folder}/", "").split("\n")
    assert first == f"conversations: {len(problems)} problem{'s' if len(problems) > 1 else ''} in the data"
    return [problem.removeprefix("  ") for problem in problems]


def warnings(folder: Path, data: Conversations) -> list[str]:
    return [warning.replace(f"{folder}/", "") for warning in data.report["warnings"]]


def questions(part: Sequence[Conversation]) -> set[str]:
    return {conversation.question for conversation in part}


def test_all_problems_of_all_files_are_told_at_once_by_fault(tmp_path: Path) -> None:
    bad: list[object] = [
        record("a", " "),
        record("b"),
        {"messages": [{"role": "bot"}]},
        "text",
        record("c", ""),
        {"messages": [{"role": "Bot"}]},
        {"messages": [{"role": "bot"}]},
        *[record("d", "")] * 12,
    ]
    wanted = settings(tmp_path, bad, validation_path=[{**record("a"), "images": ["a.jpg"]}])
    (tmp_path / "test.jsonl").write_text('{"messages": 3}\n\n{"messages": [3]}\n{\n')
    assert problems_in(tmp_path, replace(wanted, test_path=tmp_path / "test.jsonl")) == [
        "train.json: records 1, 5, 8, 9, 10, 11, 12, 13, 14, 15, … and 4 more: a message of the assistant is"
        " empty",
        "train.json: records 3, 6, 7: messages.role: must be one of system, developer, user, assistant, tool,"
        " function, got 'bot', 'Bot'",
        "train.json: record 4: must be an object with names, got a str",
        "validation_path.json: record 1: has 'images': only texts are learned here; leave such records out",
        "test.jsonl: line 4: must be one JSON object a line (expecting property name enclosed in double"
        " quotes)",
        "test.jsonl: line 1: messages: must be a list, got a int",
        "test.jsonl: line 3: messages: must be a list of objects, one for each message",
    ]


def test_each_conversation_keeps_its_file_and_its_number(tmp_path: Path) -> None:
    data = read(settings(tmp_path, records(20), validation_path=[record("x"), record("y")]))
    assert [conversation.number for conversation in data.train] == list(range(1, 21))
    assert {conversation.source for conversation in data.train} == {str(tmp_path / "train.json")}
    assert [(conversation.source, conversation.number) for conversation in data.validation] == [
        (str(tmp_path / "validation_path.json"), 1),
        (str(tmp_path / "validation_path.json"), 2),
    ]


def test_variables_are_filled_before_repeats_are_looked_for(tmp_path: Path) -> None:
    content = [*records(3), record("你是谁？", "我是{{name}}。"), record("你是谁？", "我是小明。")]
    data = read(settings(tmp_path, content, variables={"name": "小明"}))
    answers = [part.messages[1].content for part in (*data.train, *data.validation)]
    assert answers.count("我是小明。") == 1
    assert data.report["files"]["data.raw_data_path"]["left_out"]["repeated"] == 1


def test_a_name_without_a_value_is_a_problem_that_lists_the_names(tmp_path: Path) -> None:
    content = [record("{{who}}?", "{{name}}"), record("b"), record("c", "{{名字}} {{author}}")]
    assert problems_in(tmp_path, settings(tmp_path, content, variables={"author": "Ada"})) == [
        "train.json: records 1, 3: no value for {{…}} of ['name', 'who', '名字']; set data.variables:"
        " {name: VALUE}, or {name: '{{name}}'} to keep the text as it is"
    ]


def test_a_variable_that_no_text_uses_is_a_warning(tmp_path: Path) -> None:
    data = read(settings(tmp_path, [*records(3), record("{{a}}")], variables={"a": "x", "b": "y"}))
    assert warnings(tmp_path, data) == ["data.variables: no text uses ['b']"]


def test_the_last_answer_alone_is_learned_with_last_turn(tmp_path: Path) -> None:
    content = [turns("a", "b", "c", "d"), turns("e", "f", "g"), turns("h", "i", "j", "k", train=False)]
    every = read(settings(tmp_path, content, validation_path=records(1)))
    assert [conversation.targets for conversation in every.train] == [(1, 3), (1,), (1,)]
    last = read(settings(tmp_path, content, validation_path=records(1), train_on="last_turn"))
    assert [conversation.targets for conversation in last.train] == [(3,), (1,)]
    assert last.report["files"]["data.raw_data_path"]["left_out"]["without_target"] == 1


def test_what_cannot_be_learned_is_left_out_counted_and_told(tmp_path: Path) -> None:
    content = [
        *records(3),
        records(3)[1],
        turns("only a question"),
        turns("a", "b", train=False),
        record(" of validation "),
        turns("of test", "x", "and", "more"),
    ]
    others = {"validation_path": [record("of validation")], "test_path": [record("of test")]}
    data = read(settings(tmp_path, content, **others))
    assert questions(data.train) == {"问题 0", "问题 1", "问题 2"}
    left_out = {"repeated": 1, "without_target": 2, "question_elsewhere": 2}
    assert data.report["files"]["data.raw_data_path"]["left_out"] == left_out
    assert warnings(tmp_path, data) == [
        "train.json: left out: 1 that repeat another to the letter, 2 without an answer to learn,"
        " 2 with a question of the validation or test file"
    ]


def test_a_file_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    content = [record("a"), turns("b", "c", train=False)]
    wanted = settings(tmp_path, content, validation_path=[record("a")], test_path=[turns("no answer")])
    assert problems_in(tmp_path, wanted) == [
        "train.json: no conversation is left; left out: 1 without an answer to learn, 1 with a question of"
        " the validation or test file",
        "test_path.json: no conversation is left; left out: 1 without an answer to learn",
    ]


def test_one_question_is_too_few_for_a_split(tmp_path: Path) -> None:
    assert problems_in(tmp_path, settings(tmp_path, [record("a", "b"), record("a", "c")])) == [
        "train.json: all conversations have the same question, too few for a validation split; add others or"
        " name a data.validation_path"
    ]


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=2, max_size=40),
    st.floats(0.01, 0.9),
    st.integers(0, 2**32 - 1),
)
def test_no_question_is_on_both_sides_and_the_order_of_the_records_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[int, int]], share: float, seed: int
) -> None:
    pairs += [(90, 0), (91, 0)]
    folder = tmp_path_factory.getbasetemp()
    content = [
        {**record(f"问 {question}", f"答 {answer}"), "system": f"{answer}"} for question, answer in pairs
    ]
    wanted = settings(folder, content, validation_share=share, split_seed=seed)
    data = read(wanted)
    different = {f"问 {question}" for question, _ in pairs}
    assert questions(data.train) | questions(data.validation) == different
    assert questions(data.train).isdisjoint(questions(data.validation))
    count = max(1, round(share * len(different)))
    assert len(questions(data.validation)) == min(count, len(different) - 1)
    assert len(data.train) + len(data.validation) == len(set(pairs))
    random.Random(seed).shuffle(content)
    again = read(replace(wanted, raw_data_path=written(folder, "shuffled.json", content)))
    assert questions(again.validation) == questions(data.validation)


def test_another_seed_splits_off_others(tmp_path: Path) -> None:
    first, second = (read(settings(tmp_path, records(100), split_seed=seed)) for seed in (1, 2))
    assert len(first.validation) == len(second.validation) == 10
    assert questions(first.validation) != questions(second.validation)


def test_the_report_counts_by_part(tmp_path: Path) -> None:
    content = [turns("a", "b", "c", "d"), {**record("e"), "system": "你是助手"}, turns("f", "g", train=False)]
    data = read(settings(tmp_path, content, validation_path=records(2)))
    assert json.loads(json.dumps(data.report)) == data.report
    assert data.report["parts"] == {
        "train": {
            "conversations": 2,
            "sources": {str(tmp_path / "train.json"): 2},
            "messages": {"user": 3, "assistant": 3, "system": 1},
            "targets": 3,
            "turns": 3,
            "most_turns": 2,
        },
        "validation": {
            "conversations": 2,
            "sources": {str(tmp_path / "validation_path.json"): 2},
            "messages": {"user": 2, "assistant": 2},
            "targets": 2,
            "turns": 2,
            "most_turns": 1,
        },
    }
    file = data.report["files"]["data.raw_data_path"]
    assert (file["name"], file["records"], file["encoding"]) == ("train.json", 3, "utf-8")
    assert file["sha256"] == data.files_sha256["data.raw_data_path"]


def test_an_encoding_that_was_guessed_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "gbk.json"
    file.write_bytes(json.dumps(records(9), ensure_ascii=False).replace(" 😀", "很好").encode("gbk"))
    assert warnings(tmp_path, read(Settings(file))) == [
        "gbk.json: encoding guessed as gb18030; save the file as UTF-8 to be sure"
    ]


def test_the_sha256_follow_the_bytes_and_what_is_validated(tmp_path: Path) -> None:
    base = settings(
        tmp_path, records(20), validation_path=[turns("a", "b", "c", "{{x}}")], variables={"x": "1"}
    )
    data = read(base)
    assert list(data.files_sha256) == ["data.raw_data_path", "data.validation_path"]
    for changed in (replace(base, variables={"x": "2"}), replace(base, train_on="last_turn")):
        other = read(changed)
        assert other.sha256 == data.sha256
        assert other.validation_sha256 != data.validation_sha256
    more = read(replace(base, raw_data_path=written(tmp_path, "more.json", records(21))))
    assert more.sha256 != data.sha256
    assert more.validation_sha256 == data.validation_sha256
