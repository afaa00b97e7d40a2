"""A chat template: from messages to text, told apart from the control tokens that somebody typed.

Control tokens in messages, tools and tool calls are marked before the template is rendered and found again in
its text, so that only those which the template itself writes become tokens.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from loratrack.errors import DataError, quoted

Message = Mapping[str, Any]
Span = tuple[int, int]
"""First character, and the one after the last."""

TYPED, END_OF_TYPED = "\ufdd0", "\ufdd1"
"""Around a control token that somebody typed. Unicode keeps both for such inner uses; they are in no text."""
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class TargetError(DataError):
    """What is to be learned cannot be told for certain from this template."""


@dataclass(frozen=True)
class Text:
    """What a template made of messages."""

    text: str
    marked: tuple[Span, ...]
    """What stands between `{% generation %}` and `{% endgeneration %}`."""
    typed: tuple[Span, ...]
    """Control tokens of the data, which are text."""


@dataclass(frozen=True)
class Template:
    tokenizer: Any
    """A fast tokenizer of transformers."""
    text: str
    stops: tuple[str, ...]
    """The tokens that end an answer; the first where the template writes none."""
    source: str = "the tokenizer's chat template"
    variables: Mapping[str, Any] = field(default_factory=dict)
    """What the template is given besides, such as `enable_thinking`."""

    def render(self, messages: Sequence[Message], tools: Sequence[Any], *, asks: bool = False) -> Text:
        """`asks`: with the beginning of the answer that is asked for, as when the model is in use."""
        marked = [self._typed_marked(message) for message in messages]
        marked_tools = _with_typed_marked(list(tools), self._control_tokens)
        try:
            try:
                return self._rendered(marked, marked_tools, asks)
            except TypeError:
                # DeepSeek's takes arguments as text, where transformers' way is a mapping.
                return self._rendered([_arguments_as_text(each) for each in marked], marked_tools, asks)
        except (TemplateError, TypeError, ValueError) as error:
            raise self.refusal(f"cannot show this conversation: {quoted(str(error))}") from error

    def _rendered(self, messages: list[dict[str, Any]], tools: list[Any], asks: bool) -> Text:
        from transformers.utils.chat_template_utils import render_jinja_template  # it opens torch

        (text,), spans = render_jinja_template(
            [messages],
            tools=tools or None,
            chat_template=self.text,
            return_assistant_tokens_mask=self.has_markers,
            add_generation_prompt=asks,
            **self.tokenizer.special_tokens_map | self.variables,
        )
        return self._unmarked(text, spans[0] if self.has_markers else [])

    def refusal(self, fault: str, remedy: str = "name another data.template") -> TargetError:
        return TargetError(f"{self.source}: {fault}; {remedy}")

    @cached_property
    def has_markers(self) -> bool:
        return bool(GENERATION.search(self.text))

    @cached_property
    def special(self) -> re.Pattern[str]:
        return _any_of({token.content for token in self._added if token.special} | set(self.stops))

    @cached_property
    def _control_tokens(self) -> re.Pattern[str]:
        """The special ones and those like <tool_call> that the template writes; Gemma's "\\n\\n" is text."""
        written = {each.content for each in self._added if each.content in self.text and each.content.strip()}
        return _any_of({token.content for token in self._added if token.special} | set(self.stops) | written)

    @property
    def _added(self) -> list[Any]:
        return list(self.tokenizer.added_tokens_decoder.values())

    def _typed_marked(self, message: Message) -> dict[str, Any]:
        # A thought or a tool call in an assistant's content is what the model must write as tokens.
        tokens = self.special if message["role"] == "assistant" else self._control_tokens
        return {key: _with_typed_marked(value, tokens) for key, value in message.items() if value is not None}

    def _unmarked(self, text: str, spans: Sequence[Span]) -> Text:
        marks = [match.start() for match in re.finditer(f"[{TYPED}{END_OF_TYPED}]", text)]

        def place(before: int) -> int:
            return before - bisect_left(marks, before)

        # A template that cuts a message at a control token leaves a mark alone; it is dropped.
        typed = re.finditer(f"{TYPED}(?:{self._control_tokens.pattern}){END_OF_TYPED}", text)
        return Text(
            re.sub(f"[{TYPED}{END_OF_TYPED}]", "", text),
            tuple((place(start), place(end)) for start, end in spans),
            tuple((place(match.start()), place(match.end())) for match in typed),
        )


def template_of(
    tokenizer: Any,
    generation_config: Any,
    text: str | None = None,
    source: str = "data.template",
    variables: Mapping[str, Any] | None = None,
) -> Template:
    """`text`, which came from `source`, or else the tokenizer's own template."""
    if text is None:
        if not tokenizer.chat_template:
            raise TargetError("data.template: this tokenizer brings no chat template; name one")
        text, source = tokenizer.get_chat_template(), "the tokenizer's chat template"
    stops = tuple(tokenizer.convert_ids_to_tokens(list(stop_tokens(tokenizer, generation_config))))
    return Template(tokenizer, text, stops, source, variables or {})


def stop_tokens(tokenizer: Any, generation_config: Any) -> tuple[int, ...]:
    """Ids of the tokens at which the model stops when it answers, by `generation_config`, else its `</s>`."""
    ids = getattr(generation_config, "eos_token_id", None)
    ids = tokenizer.eos_token_id if ids is None else ids
    ids = [ids] if isinstance(ids, int) else ids or []
    stops = tuple(each for each in ids if each in tokenizer.added_tokens_decoder)
    if not stops:
        raise TargetError(
            f"this base stops at {list(ids)}, no control token of its tokenizer; name data.stop_token"
        )
    return stops


def _arguments_as_text(message: Message) -> dict[str, Any]:
    if "tool_calls" not in message:
        return dict(message)
    calls = []
    for call in message["tool_calls"]:
        function = call.get("function", call)
        as_text = {**function, "arguments": json.dumps(function.get("arguments", {}), ensure_ascii=False)}
        calls.append({**call, "function": as_text} if "function" in call else as_text)
    return {**message, "tool_calls": calls}


def _any_of(tokens: set[str]) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _with_typed_marked(value: Any, tokens: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        text = value.replace(TYPED, "").replace(END_OF_TYPED, "")
        return tokens.sub(rf"{TYPED}\g<0>{END_OF_TYPED}", text)
    if isinstance(value, Mapping):
        return {
            _with_typed_marked(key, tokens): _with_typed_marked(item, tokens) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_with_typed_marked(item, tokens) for item in value]
    return value
