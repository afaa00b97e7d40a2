"""`{{name}}` in the texts of a conversation, filled with values that the config gives."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loratrack.data.conversations.conversation import Conversation

VARIABLE = re.compile(r"\{\{(\w+)\}\}")


def names_in(conversation: Conversation) -> set[str]:
    return set(VARIABLE.findall(conversation.contents))


def filled(conversation: Conversation, variables: Mapping[str, str]) -> Conversation:
    """With the values in the place of their names, in calls and tools too; a name without a value stays.

    It is done once: a value may hold `{{name}}`, and so a text keeps it.
    """

    def fill(text: str) -> str:
        return VARIABLE.sub(lambda found: variables.get(found[1], found[0]), text)

    as_json = {name: json.dumps(value, ensure_ascii=False)[1:-1] for name, value in variables.items()}

    def fill_all(values: tuple[Mapping[str, Any], ...]) -> tuple[Mapping[str, Any], ...]:
        """Through their JSON, where the value of a name is the inside of a JSON text."""
        text = json.dumps(values, ensure_ascii=False)
        return tuple(json.loads(VARIABLE.sub(lambda found: as_json.get(found[1], found[0]), text)))

    messages = tuple(
        replace(message, content=fill(message.content), tool_calls=fill_all(message.tool_calls))
        for message in conversation.messages
    )
    return replace(conversation, messages=messages, tools=fill_all(conversation.tools))
