"""What msgspec finds wrong with a JSON document, in words for who wrote it. Pure."""

from __future__ import annotations

import re
from typing import Final

_KINDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
}
_BOUNDS: Final = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}

_TYPE: Final = re.compile(r"Expected `([^`]*)`, got `([^`]*)`")
_BOUND: Final = re.compile(r"Expected `([^`]*)` (of length )?(>=|<=|>|<) (\S+)")
_MISSING: Final = re.compile(r"Object missing required field `([^`]*)`")
_PLACE: Final = re.compile(r" - at `\$\.?([^`]*)`")


def in_words(error: Exception) -> str:
    """The message of an exception that msgspec raised, in terms of JSON. One of an unknown form, and that of
    another exception, is given as it is.
    """
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, UnicodeError):
        return "it is not UTF-8"
    text = str(error)
    text = _TYPE.sub(lambda found: f"must be {_kinds(found[1])}, not {_kinds(found[2])}", text)
    text = _BOUND.sub(_bound, text)
    text = _MISSING.sub(lambda found: f"has no {found[1]}", text)
    return _PLACE.sub(lambda found: f" (at {found[1]})" if found[1] else "", text)


def _kinds(names: str) -> str:
    return " or ".join(_KINDS.get(name, name) for name in names.split(" | "))


def _bound(found: re.Match[str]) -> str:
    bound = f"{_BOUNDS[found[3]]} {found[4]}"
    return f"must have a length of {bound}" if found[2] else f"must be {_kinds(found[1])} of {bound}"
