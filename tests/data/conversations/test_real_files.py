"""Real files, where they are: LORATRACK_SHARED_DATA, or shared/data beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loratrack.data.conversations import Settings, read
from loratrack.errors import DataError

BESIDE = Path(__file__).parents[4] / "shared" / "data"
FOLDER = Path(os.environ.get("LORATRACK_SHARED_DATA", BESIDE)) / "sft"

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(),
    reason=f"the real conversations are not committed: {FOLDER} is missing (LORATRACK_SHARED_DATA)",
)


def test_real_questions_and_answers_are_read() -> None:
    data = read(Settings(FOLDER / "alpaca_en_demo.train.json", FOLDER / "alpaca_en_demo.valid.json"))
    assert (len(data.train), len(data.validation), data.test) == (888, 97, ())
    assert data.report["parts"]["train"]["messages"] == {"user": 888, "assistant": 888}
    assert data.report["warnings"] == []


def test_real_conversations_with_calls_are_read() -> None:
    """26 of them begin with a question of the validation file, such as one for a flight to London."""
    file = FOLDER / "glaive_toolcall_en_demo.train.json"
    data = read(Settings(file, FOLDER / "glaive_toolcall_en_demo.valid.json"))
    assert (len(data.train), len(data.validation), data.test) == (208, 31, ())
    assert data.report["warnings"] == [f"{file}: left out: 26 with a question of the validation or test file"]
    assert data.report["parts"]["validation"]["messages"] == {"user": 66, "assistant": 90, "tool": 24}
    assert data.report["parts"]["validation"]["targets"] == 90


def test_calls_and_tools_of_a_real_file_are_objects() -> None:
    data = read(Settings(FOLDER / "glaive_toolcall_en_demo.train.json"))
    everything = (*data.train, *data.validation)
    messages = [message for conversation in everything for message in conversation.messages]
    calls = [call for message in messages for call in message.tool_calls]
    assert len(calls) == 169
    assert all(isinstance(call["arguments"], dict) for call in calls)
    offered = {tool["function"]["name"] for conversation in everything for tool in conversation.tools}
    assert {call["name"] for call in calls} <= offered


def test_an_identity_is_filled_in() -> None:
    file = FOLDER / "identity.train.json"
    data = read(Settings(file, variables={"name": "小树", "author": "Ada"}))
    texts = [
        message.content for part in (data.train, data.validation) for one in part for message in one.messages
    ]
    assert len(data.train) + len(data.validation) == 91
    assert not any("{{" in text for text in texts)
    assert "Hello! I am 小树, an AI assistant developed by Ada. How can I assist you today?" in texts
    with pytest.raises(DataError, match=r"no value for \{\{…\}\} of \['author', 'name'\]"):
        read(Settings(file))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "dpo_en_demo.train",
            "and 253 more: has 'chosen': pairs of a better and a worse answer are not learned",
        ),
        (
            "dpo_en_demo.valid",
            "and 21 more: has 'chosen': pairs of a better and a worse answer are not learned",
        ),
        ("mllm_demo.train", "records 1, 2, 3, 4, 5, 6: has 'images': only texts are learned here"),
    ],
)
def test_pairs_and_pictures_are_refused_in_one_line(name: str, problem: str) -> None:
    with pytest.raises(DataError) as caught:
        read(Settings(FOLDER / f"{name}.json"))
    assert problem in str(caught.value)
    assert str(caught.value).count("\n") == 1
