from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loratrack.data.conversations.conversation import Conversation, Message
from loratrack.data.conversations.formats import Format, FormatError, of_record

ASKED, ANSWERED = "数据清洗是什么？😀", "去掉脏数据。👍🏽"
QUESTION, ANSWER = Message("user", ASKED), Message("assistant", ANSWERED, is_target=True)
CALL = {"name": "weather", "arguments": {"city": "北京", "days": 3, "exact": True}}
TOOL = {"name": "weather", "description": "天气 ☀️", "parameters": {"type": "object"}}


def user(content: object = ASKED, **more: object) -> dict[str, object]:
    return {"role": "user", "content": content, **more}


def assistant(content: object = ANSWERED, **more: object) -> dict[str, object]:
    return {"role": "assistant", "content": content, **more}


def fault_of(record: object, wanted: Format = "auto") -> str:
    with pytest.raises(FormatError) as caught:
        of_record(record, wanted)
    return str(caught.value)


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"instruction": ASKED, "input": "", "output": ANSWERED}, (QUESTION, ANSWER)),
        (
            {"instruction": "翻译", "input": "你好", "output": "hello", "system": None, "history": None},
            (Message("user", "翻译\n你好"), Message("assistant", "hello", is_target=True)),
        ),
        (
            {"instruction": ASKED, "output": ANSWERED, "system": "你是助手", "history": [["早", "早！"]]},
            (
                Message("system", "你是助手"),
                Message("user", "早"),
                Message("assistant", "早！", is_target=True),
                QUESTION,
                ANSWER,
            ),
        ),
        (
            {
                "conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": ANSWERED}],
                "system": "你是助手",
                "messages": None,  # as a table of several formats is written
            },
            (Message("system", "你是助手"), QUESTION, ANSWER),
        ),
        ({"conversation": [user(), assistant()]}, (QUESTION, ANSWER)),
        (
            {"messages": [{"role": "developer", "content": "简短"}, user(), assistant()]},
            (Message("system", "简短"), QUESTION, ANSWER),
        ),
        (
            {
                "messages": [
                    user([{"type": "text", "text": "数据清洗"}, {"type": "text", "text": "是什么？😀"}])
                ]
            },
            (QUESTION,),
        ),
    ],
)
def test_each_format_is_read(record: Mapping[str, Any], messages: tuple[Message, ...]) -> None:
    assert of_record(record) == Conversation(messages)


def test_calls_and_tools_are_the_same_in_both_formats() -> None:
    """ShareGPT writes them as JSON texts, OpenAI only the arguments."""
    sharegpt = {
        "conversations": [
            {"from": "human", "value": "天气？"},
            {"from": "function_call", "value": json.dumps(CALL)},
            {"from": "observation", "value": "晴"},
            {"from": "gpt", "value": "晴天 ☀️"},
        ],
        "tools": json.dumps([TOOL]),
    }
    call = {"id": "1", "type": "function", "function": {**CALL, "arguments": json.dumps(CALL["arguments"])}}
    openai = {
        "messages": [
            user("天气？"),
            assistant(None, tool_calls=[call]),
            {"role": "tool", "content": "晴", "tool_call_id": "1"},
            assistant("晴天 ☀️"),
        ],
        "tools": [{"type": "function", "function": TOOL}],
    }
    conversation = of_record(openai)
    assert of_record(sharegpt) == conversation
    assert conversation.messages[1] == Message("assistant", "", (CALL,), is_target=True)
    assert conversation.tools == ({"type": "function", "function": TOOL},)
    assert conversation.targets == (1, 3)
    older = {
        "messages": [user("天气？"), assistant(None, function_call=call["function"])],
        "functions": [TOOL],
    }
    assert of_record(older) == Conversation(conversation.messages[:2], conversation.tools)


@pytest.mark.parametrize("mark", [{"train": False}, {"weight": 0}, {"weight": 0.0, "train": None}])
def test_an_answer_may_be_kept_from_learning(mark: dict[str, object]) -> None:
    record = {"messages": [user(), assistant(**mark), user(), assistant(train=True, weight=1)]}
    assert of_record(record).targets == (3,)
    turns = [{"from": "human", "value": "a", "train": False}, {"from": "gpt", "value": "b", **mark}]
    assert of_record({"conversations": turns}).targets == ()


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (["a"], "must be an object with names, got a list"),
        (
            {"prompt": "a", "output": "b"},
            "must have `messages`, `conversations`, or `instruction` and `output`, got ['prompt', 'output']",
        ),
        (
            {"conversations": [{"from": "human", "value": "a"}], "chosen": {}, "rejected": {}},
            "has 'chosen': pairs of a better and a worse answer are not learned here;"
            " keep the better one as the answer",
        ),
        (
            {"messages": [user(), assistant()], "images": ["a.jpg"]},
            "has 'images': only texts are learned here; leave such records out",
        ),
        (
            {"messages": [user([{"type": "image_url", "image_url": {}}]), assistant()]},
            "messages.content: only parts of type 'text' are learned here, got 'image_url'",
        ),
        (
            {"messages": [user(), assistant(reasoning_content="嗯")]},
            "messages.reasoning_content: thoughts are not read from a place of their own; write them in the"
            " content as the model does, such as <think>…</think>",
        ),
        ({"messages": []}, "messages: must be a list of objects, one for each message"),
        ({"messages": "hi"}, "messages: must be a list, got a str"),
        ({"messages": [user(3)]}, "messages.content: must be text, got a int"),
        (
            {"messages": [{"role": "bot", "content": "a"}]},
            "messages.role: must be one of system, developer, user, assistant, tool, function, got 'bot'",
        ),
        (
            {"conversations": [{"from": "Human", "value": "a"}]},
            "conversations.from: must be one of system, human, user, gpt, assistant, function_call,"
            " observation, tool, got 'Human'",
        ),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "f()"}]},
            "conversations.value: must be JSON, got 'f()'",
        ),
        (
            {"messages": [user(), assistant(tool_calls=[{"function": {"arguments": "{}"}}])]},
            "messages.tool_calls: a call must be an object with a name and arguments",
        ),
        (
            {"messages": [user(), assistant(tool_calls=[{"name": "f", "arguments": "[1]"}])]},
            "messages.tool_calls.arguments: must be an object, got a list",
        ),
        (
            {"messages": [user(tool_calls=[CALL]), assistant()]},
            "messages.tool_calls: only an assistant calls",
        ),
        (
            {"messages": [user(), assistant()], "tools": ["f"]},
            "tools: each must be an object that has a name",
        ),
        (
            {"messages": [user(), assistant(train="no")]},
            "train: must be true or false, `weight` 0 or 1, got 'no'",
        ),
        (
            {"messages": [user(train=True), assistant()]},
            "train: only an assistant's messages can be learned",
        ),
        ({"messages": [user(), assistant(" ")]}, "a message of the assistant is empty"),
        ({"instruction": " ", "input": "", "output": "a"}, "a message of the user is empty"),
        (
            {"messages": [assistant(), user()]},
            "the first message must be the user's, after the system's if there is one",
        ),
        (
            {"messages": [user(), {"role": "system", "content": "a"}, assistant()]},
            "only the first message may be the system's",
        ),
        (
            {"instruction": "a", "output": "b", "history": [["a", "b", "c"]]},
            "history: must be a list of [question, answer]",
        ),
        (
            {"messages": [user("\ud83d"), assistant()]},
            "holds half of a character (a lone surrogate escape)",
        ),
    ],
)
def test_what_is_wrong_is_said(record: object, fault: str) -> None:
    assert fault_of(record) == fault


def test_a_format_that_is_named_is_the_one_read() -> None:
    record = {"instruction": "a", "output": "b"}
    assert fault_of(record, "messages") == "messages: must be a list of objects, one for each message"
    assert fault_of({"messages": [user(), assistant()]}, "alpaca") == "a message of the user is empty"
    assert fault_of({"messages": [user(), assistant()]}, "sharegpt").endswith("tool, got None")


def test_a_tool_nested_too_deeply_is_refused() -> None:
    tool = "{" + '"a": {' * 5000 + "}" * 5000 + "}"
    record = {"messages": [user(), assistant()], "tools": tool}
    assert fault_of(record).startswith('tools: must be JSON, got \'{"a": {')
    nested: dict[str, object] = {"name": "f"}
    for _ in range(60):
        nested = {"name": "f", "parameters": nested}
    assert fault_of({**record, "tools": [nested]}) == "a call or a tool is nested too deeply"
    call = {"name": "f", "arguments": nested}
    record = {"messages": [user(), assistant(tool_calls=[call])]}
    assert fault_of(record) == "a call or a tool is nested too deeply"


NAMES = [
    *("messages", "conversations", "instruction", "input", "output", "system", "history", "tools", "role"),
    *("content", "from", "value", "tool_calls", "function", "name", "arguments", "train", "type", "text"),
]
WORDS = (
    st.sampled_from(["user", "assistant", "human", "gpt", "function_call", "text", "[]", "{}"]) | st.text()
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS,
    lambda values: (
        st.lists(values, max_size=4)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), values, max_size=5)
    ),
)
TURN = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("role", "from", "content", "value", "tool_calls", "train"), ANY_JSON),
)
HOSTILE = ANY_JSON | st.fixed_dictionaries({"messages": st.lists(TURN)}, optional={"tools": ANY_JSON})


@settings(deadline=None)
@given(HOSTILE, st.sampled_from(["auto", "alpaca", "sharegpt", "messages"]))
def test_any_record_is_a_conversation_or_refused(record: object, wanted: Format) -> None:
    start = time.process_time()
    with suppress(FormatError):
        assert of_record(record, wanted).messages
    assert time.process_time() - start < 0.5


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
ARGUMENTS = st.dictionaries(TEXTS, TEXTS | st.integers() | st.booleans() | st.none(), max_size=3)
CALLS = st.lists(st.fixed_dictionaries({"name": TEXTS, "arguments": ARGUMENTS}), min_size=1, max_size=2)
ANSWERS = st.one_of(
    st.builds(Message, st.just("assistant"), TEXTS, is_target=st.booleans()),
    st.builds(Message, st.just("assistant"), st.just(""), CALLS.map(tuple), is_target=st.booleans()),
)
REST = st.lists(ANSWERS | st.builds(Message, st.sampled_from(["user", "tool"]), TEXTS), max_size=5)
TOOLS = st.lists(
    st.fixed_dictionaries({"name": TEXTS, "parameters": ARGUMENTS}).map(
        lambda function: {"type": "function", "function": function}
    ),
    max_size=2,
)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    system = [Message("system", draw(TEXTS))] if draw(st.booleans()) else []
    return Conversation((*system, Message("user", draw(TEXTS)), *draw(REST)), tuple(draw(TOOLS)))


@given(conversations())
def test_the_openai_form_of_a_conversation_is_that_conversation(conversation: Conversation) -> None:
    turns = [
        message.for_template() | ({"train": message.is_target} if message.role == "assistant" else {})
        for message in conversation.messages
    ]
    record = {"messages": turns, "tools": list(conversation.tools)}
    assert of_record(record) == conversation
    assert of_record(json.loads(json.dumps(record)), "messages") == conversation
