"""Messages of msgspec in words of JSON."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest

from netstore.network.words import in_words


class Options(msgspec.Struct):
    """A document with a field of each kind."""

    port: Annotated[int, msgspec.Meta(le=65535)] = 0
    name: Annotated[str, msgspec.Meta(min_length=2)] = "xx"
    many: list[int] = msgspec.field(default_factory=list)
    maybe: int | None = None
    ratio: float = 0.5
    on: bool = False


class Needed(msgspec.Struct):
    """A document with a field that must be there."""

    port: int


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ('{"port":"1"}', Options, "must be a whole number, not text (at port)"),
        ('{"port":70000}', Options, "must be a whole number of at most 65535 (at port)"),
        ('{"name":"x"}', Options, "must have a length of at least 2 (at name)"),
        ('{"many":[1,{}]}', Options, "must be a whole number, not an object (at many[1])"),
        ('{"maybe":[]}', Options, "must be a whole number or null, not a list (at maybe)"),
        ('{"ratio":null}', Options, "must be a number, not null (at ratio)"),
        ('{"on":1.5}', Options, "must be true or false, not a number (at on)"),
        ("[]", Options, "must be an object, not a list"),
        ("{}", Needed, "has no port"),
    ],
)
def test_what_is_wrong_is_told_in_words_of_json(text: str, kind: type, words: str) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.json.decode(text, type=kind)
    assert in_words(raised.value) == words


def test_what_is_no_json_is_told_too() -> None:
    with pytest.raises(msgspec.DecodeError) as raised:
        msgspec.json.decode("{1}")
    assert "malformed" in in_words(raised.value)
    assert in_words(RecursionError("maximum recursion depth exceeded")) == "it is nested too deep"
    assert in_words(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid")) == "it is not UTF-8"
