"""YAML whose scalars stay text, null apart: the schema's types decide what they mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from loratrack.errors import is_text

MAX_DEPTH = 50
"""Mappings and lists inside one another; a config needs five."""
MAX_VALUES = 100_000
"""Keys and values, an alias counted as all that it stands for; a list of 10,000 labels has 10,000."""
FULL_WIDTH_COLON = re.compile(r"\s*([\w.-]+)\s*：")
BARE_COLON = re.compile(r"\s*([\w.-]+):(?=[^\s:/\\])")
"""Behind a key, and no space behind it; a URL and a drive of Windows are none."""
NULL, MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"


def value_of(text: str) -> Any:
    """Mappings, lists, text and None; raises yaml.YAMLError, also for a key that stands twice."""
    return yaml.load(text, Loader=_TextLoader)


def wrong_colon(lines: Sequence[str], first: int = 1) -> str | None:
    """What is wrong where YAML takes the colon behind a key for a letter; `first` line's number."""
    for number, line in enumerate(lines, start=first):
        if match := FULL_WIDTH_COLON.match(line):
            return f"line {number}: a full-width '：' stands behind {match[1]}; write ': ', with a space"
        if match := BARE_COLON.match(line):
            return f"line {number}: no space stands behind '{match[1]}:'; write ': ', with a space"
    return None


def problem_of(error: yaml.YAMLError, text: str = "") -> str:
    """What is wrong, in one line, with its line and column in `text`."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    start = max(0, mark.line - 1)  # PyYAML often notices it in the line behind
    if problem := wrong_colon(text.split("\n")[start : mark.line + 1], start + 1):
        return problem
    if "'\\t'" in str(error.problem):
        return f"line {mark.line + 1}, column {mark.column + 1}: a tab; indent with spaces"
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


class _TextLoader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}
        """Of each finished node, by its id: how many keys and values it holds."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self._depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(
                problem=f"more than {MAX_DEPTH} values inside one another", problem_mark=mark
            )
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.ScalarNode):
            self._sizes[id(node)] = 1
            if not is_text(node.value):
                raise yaml.composer.ComposerError(
                    problem="half of a character (a lone surrogate escape)", problem_mark=mark
                )
        elif isinstance(node, yaml.CollectionNode):
            if node.end_mark is None:  # an alias of what it stands in
                raise yaml.composer.ComposerError(problem="a value that holds itself", problem_mark=mark)
            is_mapping = isinstance(node, yaml.MappingNode)
            parts = [part for pair in node.value for part in pair] if is_mapping else node.value
            self._sizes[id(node)] = size = 1 + sum(self._sizes[id(part)] for part in parts)
            if size > MAX_VALUES:
                raise yaml.composer.ComposerError(
                    problem=f"more than {MAX_VALUES:,} values, aliases counted as what they stand for",
                    problem_mark=mark,
                )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        if not isinstance(node, yaml.MappingNode):  # `!!map x`
            raise yaml.constructor.ConstructorError(
                problem=f"must be a mapping, got a {node.id}", problem_mark=node.start_mark
            )
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                if key.value in keys:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the same key twice: {key.value}", problem_mark=key.start_mark
                    )
                keys.add(key.value)
        mapping: dict[object, object] = super().construct_mapping(node, deep=deep)
        return mapping

    def construct_text(self, node: yaml.ScalarNode) -> object:
        return self.construct_scalar(node)


_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in (NULL, MERGE)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind in ("bool", "int", "float", "binary", "timestamp"):  # named in the file, as in `!!int 5`
    _TextLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _TextLoader.construct_text)
