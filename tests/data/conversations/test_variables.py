from __future__ import annotations

from loratrack.data.conversations.conversation import Conversation, Message
from loratrack.data.conversations.variables import filled, names_in

CALL = {"name": "{{program}}", "arguments": {"who": "我是{{名字}}", "n": 1}}
TOOL = {"type": "function", "function": {"name": "{{program}}", "description": "of {{author}}"}}
CONVERSATION = Conversation(
    (
        Message("system", "You are {{名字}}."),
        Message("user", "{{author}} {{ author }} {author} {{}} {{a-b}}"),
        Message("assistant", "", (CALL,), is_target=True),
    ),
    (TOOL,),
)


def test_names_are_found_in_every_text() -> None:
    assert names_in(CONVERSATION) == {"名字", "author", "program"}


def test_values_are_filled_in_every_text() -> None:
    quote = 'a "quoted" \\ 😀\n'
    conversation = filled(CONVERSATION, {"名字": quote, "author": "Ada", "program": "f"})
    system, user, assistant = conversation.messages
    assert system.content == f"You are {quote}."
    assert user.content == "Ada {{ author }} {author} {{}} {{a-b}}"
    assert assistant.tool_calls == ({"name": "f", "arguments": {"who": f"我是{quote}", "n": 1}},)
    assert assistant.is_target
    assert conversation.tools == ({"type": "function", "function": {"name": "f", "description": "of Ada"}},)


def test_a_value_is_not_filled_again_so_a_name_can_stay() -> None:
    values = {"名字": "{{author}}", "author": "{{author}}", "program": "f"}
    conversation = filled(CONVERSATION, values)
    assert [message.content for message in conversation.messages[:2]] == [
        "You are {{author}}.",
        "{{author}} {{ author }} {author} {{}} {{a-b}}",
    ]
