"""Kinds of values that settings have: how each is read from a file, a flag or a variable, which values are
refused, and how a value is written as TOML.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

MAX_TEXT: Final = 64 << 10
"""Characters in one value; far above any list of members."""

SHOWN: Final = 80
"""Characters of a refused value that a message repeats."""


class Unfit(ValueError):  # noqa: N818 - says what the value is, not that the program failed
    """A value that a kind refuses. The text is the problem alone; the caller adds key, source and fix."""


def quoted(value: object) -> str:
    """The value as a message shows it: printable, on one line, cut to a length people read."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


class Kind(Protocol[T]):
    """One kind of value: how it is read, what is refused, how it is written down."""

    @property
    def placeholder(self) -> str:
        """The word that stands for the value in `--help`."""

    @property
    def fix(self) -> str:
        """What to give instead of a refused value."""

    def read(self, value: object) -> T:
        """The value that a TOML document or a program gives. Raises `Unfit`."""

    def read_words(self, words: Sequence[str]) -> T:
        """The value that flags (one word for each time given) or a variable give. Raises `Unfit`."""

    def check(self, value: T) -> None:
        """Raise `Unfit` unless the value is in the kind's range."""

    def show(self, value: T) -> str:
        """The value as TOML."""


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of printable text that matches a pattern as a whole."""

    fix: str
    pattern: str = r".+"
    placeholder: str = "TEXT"

    def read(self, value: object) -> str:
        """Take text only."""
        return _text(value)

    def read_words(self, words: Sequence[str]) -> str:
        """The last word counts."""
        return words[-1]

    def check(self, value: str) -> None:
        """Refuse what cannot be printed on one line, is too long or does not match."""
        _check_text(value)
        if not re.fullmatch(self.pattern, value):
            raise Unfit(f"{quoted(value)} is not usable" if value else "is empty")

    def show(self, value: str) -> str:
        """A basic string."""
        return toml_text(value)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]
    placeholder: str = "WORD"

    @property
    def fix(self) -> str:
        """The words."""
        return f"give one of {', '.join(self.words)}"

    def read(self, value: object) -> str:
        """Take text only."""
        return _text(value)

    def read_words(self, words: Sequence[str]) -> str:
        """The last word counts."""
        return words[-1]

    def check(self, value: str) -> None:
        """Refuse other words."""
        if value not in self.words:
            raise Unfit(f"{quoted(value)} is not known" if value else "is empty")

    def show(self, value: str) -> str:
        """A basic string."""
        return toml_text(value)


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within bounds, both included."""

    low: int
    high: int
    unit: str = ""
    placeholder: str = "NUMBER"

    @property
    def fix(self) -> str:
        """The bounds and the unit."""
        return f"give a whole number{' of ' + self.unit if self.unit else ''} from {self.low} to {self.high}"

    def read(self, value: object) -> int:
        """Take an integer; a boolean or a float is none."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise Unfit(f"{quoted(value)} is not a whole number")
        return value

    def read_words(self, words: Sequence[str]) -> int:
        """Decimal digits, with a sign if wanted."""
        if not re.fullmatch(r"[+-]?[0-9]{1,30}", words[-1]):
            raise Unfit(f"{quoted(words[-1])} is not a whole number" if words[-1] else "is empty")
        return int(words[-1])

    def check(self, value: int) -> None:
        """Refuse numbers out of bounds."""
        if not self.low <= value <= self.high:
            raise Unfit(f"{quoted(value)} is out of range")

    def show(self, value: int) -> str:
        """Decimal."""
        return str(value)


TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})


@dataclass(frozen=True, slots=True)
class Switch:
    """True or false. As a flag it needs no value, and takes one only after `=`."""

    placeholder: str = "BOOL"
    fix: str = "give true or false"

    def read(self, value: object) -> bool:
        """Take a boolean only."""
        if not isinstance(value, bool):
            raise Unfit(f"{quoted(value)} is not true or false")
        return value

    def read_words(self, words: Sequence[str]) -> bool:
        """The words that Go's strconv.ParseBool takes."""
        if words[-1] not in TRUE | FALSE:
            raise Unfit(f"{quoted(words[-1])} is not true or false" if words[-1] else "is empty")
        return words[-1] in TRUE

    def check(self, value: bool) -> None:
        """Both values are in range."""

    def show(self, value: bool) -> str:
        """A TOML boolean."""
        return "true" if value else "false"


@dataclass(frozen=True, slots=True)
class Place:
    """A path of a file or folder; nothing is looked up or made."""

    placeholder: str = "PATH"
    fix: str = "give the path of a file or folder"

    def read(self, value: object) -> Path:
        """Take text only."""
        text = _text(value)
        _check_text(text)
        if not text:
            raise Unfit("is empty")
        return Path(text)

    def read_words(self, words: Sequence[str]) -> Path:
        """The last word counts."""
        return self.read(words[-1])

    def check(self, value: Path) -> None:
        """Refuse what the kernel would not take (PATH_MAX)."""
        _check_text(str(value))
        if len(str(value).encode()) > 4095:
            raise Unfit("is longer than 4095 bytes")

    def show(self, value: Path) -> str:
        """A basic string."""
        return toml_text(str(value))


@dataclass(frozen=True, slots=True)
class Several(Generic[T]):
    """A list of distinct values: a TOML array or text; as text they are split at commas unless `whole` is
    set.

    `one` reads an item, `write` gives its text back. Given as flags, all occurrences count.
    """

    one: Callable[[str], T]
    fix: str
    placeholder: str = "LIST"
    write: Callable[[T], str] = str
    low: int = 0
    high: int = 64
    whole: bool = False

    def read(self, value: object) -> tuple[T, ...]:
        """Take an array of texts, or one text as a flag would give it."""
        if isinstance(value, str):
            return self.read_words((value,))
        if not isinstance(value, list):
            raise Unfit(f"{quoted(value)} is not a list")
        return self._items([_text(item) for item in value])

    def read_words(self, words: Sequence[str]) -> tuple[T, ...]:
        """The items of all words; an empty word is an empty list."""
        for word in words:
            _check_text(word)
        split = [word if self.whole else part for word in words if word for part in self._parts(word)]
        return self._items(split)

    def _parts(self, word: str) -> list[str]:
        return [word] if self.whole else [part.strip() for part in word.split(",")]

    def _items(self, texts: Sequence[str]) -> tuple[T, ...]:
        if len(texts) > self.high:
            raise Unfit(f"has {len(texts)} items, at most {self.high} can be used")
        items: list[T] = []
        for text in texts:
            _check_text(text)
            if not text:
                raise Unfit("has an empty item")
            item = self.one(text)
            if item in items:
                raise Unfit(f"names {quoted(text)} twice")
            items.append(item)
        return tuple(items)

    def check(self, value: tuple[T, ...]) -> None:
        """Refuse a list that is too short or too long."""
        if len(value) < self.low:
            raise Unfit("is empty")
        if len(value) > self.high:
            raise Unfit(f"has {len(value)} items, at most {self.high} can be used")

    def show(self, value: tuple[T, ...]) -> str:
        """An array of basic strings."""
        return f"[{', '.join(toml_text(self.write(item)) for item in value)}]"


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Unfit(f"{quoted(value)} is not text")
    return value


def _check_text(value: str) -> None:
    if len(value) > MAX_TEXT:
        raise Unfit(f"is longer than {MAX_TEXT} characters")
    if not value.isprintable():
        raise Unfit(f"{quoted(value)} has characters that cannot be printed")


def toml_text(value: str) -> str:
    """Printable text as a TOML basic string."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
