"""A conversation as everything after its file sees it: messages by role, and which of them are learned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Message:
    role: Role
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """What an assistant asks a program to do, as `{"name": …, "arguments": {…}}`."""
    is_target: bool = False
    """Whether it is learned; only an assistant's messages are."""

    def for_template(self) -> dict[str, Any]:
        """As a chat template of transformers takes it."""
        fields: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            fields["tool_calls"] = [{"type": "function", "function": dict(call)} for call in self.tool_calls]
        return fields


@dataclass(frozen=True)
class Conversation:
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """The programs that an assistant may ask, as `{"type": "function", "function": {"name": …, …}}`."""
    source: str = ""
    """The file it comes from."""
    number: int = 0
    """Of its record in the file, from 1 on; of its line where the file has one record a line."""

    @property
    def targets(self) -> tuple[int, ...]:
        """Which messages are learned."""
        return tuple(place for place, message in enumerate(self.messages) if message.is_target)

    def with_last_answer_alone(self) -> Conversation:
        """The last answer is the only target, if it was one."""
        answers = [place for place, message in enumerate(self.messages) if message.role == "assistant"]
        messages = [
            replace(message, is_target=message.is_target and place == answers[-1])
            for place, message in enumerate(self.messages)
        ]
        return replace(self, messages=tuple(messages))

    @property
    def question(self) -> str:
        """What the user says before the first answer, whatever the system says."""
        before = takewhile(lambda message: message.role != "assistant", self.messages)
        return "\n".join(message.content.strip() for message in before if message.role == "user")

    @property
    def contents(self) -> str:
        """Everything but where it comes from, as JSON: equal for exact duplicates alone."""
        messages = [
            [message.role, message.content, message.tool_calls, message.is_target]
            for message in self.messages
        ]
        return json.dumps([messages, self.tools], ensure_ascii=False)
