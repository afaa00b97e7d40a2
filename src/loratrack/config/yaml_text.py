"""YAML whose scalars stay text, null apart: the schema's types decide what they mean."""

from __future__ import annotations

from typing import Any

import yaml

NULL, MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"


def value_of(text: str) -> Any:
    """Mappings, lists, text and None; raises yaml.YAMLError, also for a key that stands twice."""
    return yaml.load(text, Loader=_TextLoader)


def problem_of(error: yaml.YAMLError) -> str:
    """What is wrong, in one line, with its line and column in the text."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


class _TextLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
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
