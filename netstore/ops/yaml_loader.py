"""Reads YAML as configuration files have it: a key is there once, in capitals or not, and a value is
what its tag says.
"""

from __future__ import annotations

from typing import Any

import yaml
from yaml.constructor import ConstructorError


class Loader(yaml.SafeLoader):
    """Raises `yaml.YAMLError` with the line for what the base class lets through, or raises otherwise for."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node."""
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            problem = "the value is not of the type that it is written as; put it between quotes"
            raise ConstructorError(None, None, problem, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The value of a mapping."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name = key.value.lower()
                if name in seen:
                    raise ConstructorError(
                        None, None, f"the key {key.value[:80]!r} is repeated", key.start_mark
                    )
                seen.add(name)
        return super().construct_mapping(node, deep)
