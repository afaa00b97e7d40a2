"""YAML whose scalars stay text, null apart: the schema's types decide what they mean."""

from __future__ import annotations

from typing import Any

import yaml

NULL, MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"


def value_of(text: str) -> Any:
    """Mappings, lists, text and None; raises yaml.YAMLError, for a key said twice too."""
    return yaml.load(text, Loader=_TextLoader)


def fault_of(error: yaml.YAMLError) -> str:
    """What is wrong, in one line, with its place in the text."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


class _TextLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        told: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                if key.value in told:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the same key twice: {key.value}", problem_mark=key.start_mark
                    )
                told.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _text(loader: _TextLoader, node: yaml.ScalarNode) -> Any:
    return loader.construct_scalar(node)


_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in (NULL, MERGE)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind in ("bool", "int", "float", "binary", "timestamp"):  # said in the file, as in `!!int 5`
    _TextLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _text)
