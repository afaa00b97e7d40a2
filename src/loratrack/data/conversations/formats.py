"""The shapes in which conversations are written: Alpaca, ShareGPT, OpenAI's messages.

    {"instruction": …, "input": …, "output": …, "system": …, "history": [[question, answer], …]}
    {"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}], "system": …, "tools": …}
    {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}], "tools": […]}

conversation = of_record(record, "auto")        # FormatError says what is wrong with this record
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from loratrack.data.conversations.conversation import Conversation, Message, Role
from loratrack.errors import quoted

Format = Literal["auto", "alpaca", "sharegpt", "messages"]
Record = Mapping[str, Any]
Calls = tuple[Mapping[str, Any], ...]

SHAREGPT_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
MESSAGE_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
TURNS = ("messages", "conversations", "conversation")
PREFERENCES = ("chosen", "rejected")
MEDIA = ("images", "videos", "audios", "image", "video", "audio")
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
MAX_NESTING = 50
"""Of a call or a tool: what is deeper cannot be written by every template."""


class FormatError(ValueError):
    """What is wrong with a record. The fault has the same words in every record; `got` shows what came."""

    def __init__(self, fault: str, got: str = "") -> None:
        super().__init__(f"{fault}, got {got}" if got else fault)
        self.fault, self.got = fault, got


def of_record(record: object, wanted: Format = "auto") -> Conversation:
    """The conversation of a record; all its answers are targets but those with `train: false`."""
    if not isinstance(record, Mapping):
        raise FormatError(f"must be an object with names, got a {type(record).__name__}")
    for name in PREFERENCES:
        if record.get(name) is not None:
            raise FormatError(
                f"has {name!r}: pairs of a better and a worse answer are not learned here;"
                " keep the better one as the answer"
            )
    for name in MEDIA:
        if record.get(name):
            raise FormatError(f"has {name!r}: only texts are learned here; leave such records out")
    conversation = PARSERS[_format_of(record) if wanted == "auto" else wanted](record)
    _check_messages(conversation.messages)
    calls = [call for message in conversation.messages for call in message.tool_calls]
    if _is_deeper([*calls, *conversation.tools], MAX_NESTING):
        raise FormatError("a call or a tool is nested too deeply")
    try:
        conversation.contents.encode()
    except UnicodeEncodeError:
        raise FormatError("holds half of a character (a lone surrogate escape)") from None
    return conversation


def _format_of(record: Record) -> Literal["alpaca", "sharegpt", "messages"]:
    """By the names that have a value: tables written as JSON have all names in all records."""
    names = [name for name in record if record[name] is not None]
    if "messages" in names:
        return "messages"
    if "conversations" in names or "conversation" in names:
        turns = record.get("conversations") or record.get("conversation")
        first = turns[0] if isinstance(turns, list) and turns else None
        return "messages" if isinstance(first, Mapping) and "role" in first else "sharegpt"
    if "instruction" in names and "output" in names:
        return "alpaca"
    fault = "must have `messages`, `conversations`, or `instruction` and `output`"
    raise FormatError(fault, quoted(names))


def _alpaca(record: Record) -> Conversation:
    messages = _system(record)
    for pair in _list(record, "history"):
        if not isinstance(pair, list) or len(pair) != 2:
            raise FormatError("history: must be a list of [question, answer]")
        question, answer = (_text(part, "history") for part in pair)
        messages += [Message("user", question), Message("assistant", answer, is_target=True)]
    asked = [_text(record.get(name), name) for name in ("instruction", "input")]
    messages.append(Message("user", "\n".join(part for part in asked if part.strip())))
    messages.append(Message("assistant", _text(record.get("output"), "output"), is_target=True))
    return Conversation(tuple(messages), _tools(record))


def _sharegpt(record: Record) -> Conversation:
    messages = _system(record)
    name, turns = _turns(record)
    for turn in turns:
        role = _role(turn.get("from"), SHAREGPT_ROLES, f"{name}.from")
        value = _text(turn.get("value"), f"{name}.value")
        if turn.get("from") == "function_call":
            messages.append(_message(role, "", turn, _calls(value, f"{name}.value")))
        else:
            messages.append(_message(role, value, turn))
    return Conversation(tuple(messages), _tools(record))


def _openai(record: Record) -> Conversation:
    messages = _system(record)
    name, turns = _turns(record)
    for turn in turns:
        role = _role(turn.get("role"), MESSAGE_ROLES, f"{name}.role")
        for thoughts in THOUGHTS:
            if turn.get(thoughts):
                raise FormatError(
                    f"{name}.{thoughts}: thoughts are not read from a place of their own; write them in"
                    " the content as the model does, such as <think>…</think>"
                )
        calls = _calls(turn.get("tool_calls") or turn.get("function_call") or [], f"{name}.tool_calls")
        if calls and role != "assistant":
            raise FormatError(f"{name}.tool_calls: only an assistant calls")
        messages.append(_message(role, _content(turn.get("content"), f"{name}.content"), turn, calls))
    return Conversation(tuple(messages), _tools(record))


PARSERS: dict[str, Callable[[Record], Conversation]] = {
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "messages": _openai,
}


def _check_messages(messages: Sequence[Message]) -> None:
    """A system message comes first, somebody asks before an answer, and only a program may say nothing."""
    if any(message.role == "system" for message in messages[1:]):
        raise FormatError("only the first message may be the system's")
    spoken = [message for message in messages if message.role != "system"]
    if not spoken or spoken[0].role != "user":
        raise FormatError("the first message must be the user's, after the system's if there is one")
    for message in spoken:
        if message.role != "tool" and not message.content.strip() and not message.tool_calls:
            raise FormatError(f"a message of the {message.role} is empty")


def _message(role: Role, content: str, turn: Record, calls: Calls = ()) -> Message:
    """`train` says whether it is learned, and so does OpenAI's `weight` of 0 or 1."""
    flags = [turn[name] for name in ("train", "weight") if turn.get(name) is not None]
    for flag in flags:
        if flag not in (0, 1):
            raise FormatError("train: must be true or false, `weight` 0 or 1", quoted(flag))
    if any(flags) and role != "assistant":
        raise FormatError("train: only an assistant's messages can be learned")
    return Message(role, content, calls, is_target=role == "assistant" and all(flags))


def _role(kind: object, roles: Mapping[str, Role], name: str) -> Role:
    if not isinstance(kind, str) or kind not in roles:
        raise FormatError(f"{name}: must be one of {', '.join(roles)}", quoted(kind))
    return roles[kind]


def _system(record: Record) -> list[Message]:
    text = _text(record.get("system"), "system")
    return [Message("system", text)] if text.strip() else []


def _turns(record: Record) -> tuple[str, list[Record]]:
    """The list of messages, and its name."""
    name = next((name for name in TURNS if record.get(name) is not None), TURNS[0])
    turns = _list(record, name)
    if not turns or not all(isinstance(turn, Mapping) for turn in turns):
        raise FormatError(f"{name}: must be a list of objects, one for each message")
    return name, turns


def _list(record: Record, name: str) -> list[Any]:
    value = record.get(name)
    if value is not None and not isinstance(value, list):
        raise FormatError(f"{name}: must be a list, got a {type(value).__name__}")
    return value or []


def _text(value: object, name: str) -> str:
    if value is not None and not isinstance(value, str):
        raise FormatError(f"{name}: must be text, got a {type(value).__name__}")
    return value or ""


def _content(value: object, name: str) -> str:
    """Text, or a list of typed parts that are all text."""
    if not isinstance(value, list):
        return _text(value, name)
    parts = []
    for part in value:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, Mapping) else part
            raise FormatError(f"{name}: only parts of type 'text' are learned here", quoted(kind))
        parts.append(_text(part.get("text"), f"{name}.text"))
    return "".join(parts)


def _calls(value: object, name: str) -> Calls:
    """One call or several, as objects or as the JSON text of them."""
    content, calls = _from_json(value, name), []
    for each in content if isinstance(content, list) else [content]:
        call = each.get("function", each) if isinstance(each, Mapping) else None
        if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
            raise FormatError(f"{name}: a call must be an object with a name and arguments")
        arguments = _from_json(call.get("arguments") or {}, f"{name}.arguments")
        if not isinstance(arguments, Mapping):
            raise FormatError(f"{name}.arguments: must be an object, got a {type(arguments).__name__}")
        calls.append({"name": call["name"], "arguments": arguments})
    return tuple(calls)


def _tools(record: Record) -> Calls:
    content = _from_json(record.get("tools") or record.get("functions") or [], "tools")
    tools = []
    for each in content if isinstance(content, list) else [content]:
        tool = each.get("function", each) if isinstance(each, Mapping) else None
        if not isinstance(tool, Mapping) or not isinstance(tool.get("name"), str):
            raise FormatError("tools: each must be an object that has a name")
        tools.append({"type": "function", "function": tool})
    return tuple(tools)


def _is_deeper(value: object, levels: int) -> bool:
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in inner)


def _from_json(value: object, name: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_constant=lambda _: None)  # NaN, as pandas writes what is missing
    except (ValueError, RecursionError):
        raise FormatError(f"{name}: must be JSON", quoted(value)) from None
