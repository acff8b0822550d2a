"""Kinds of values that settings have: how each is read from a file, a flag or a variable, which values are
refused, and how a value is written as TOML.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

import msgspec

from netstore.inputfile import UnusableFile, open_input

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

MAX_TEXT: Final = 64 << 10
"""Most characters of one value. More than any list of members needs."""

SHOWN: Final = 80
"""Most characters of a refused value that an error text repeats."""


class BadValue(ValueError):  # noqa: N818 - named for what was found
    """A value that a kind refuses. The text is the problem alone; the caller adds key, source and fix."""


def quoted(value: object) -> str:
    """The value for an error text: printable, on one line, cut to `SHOWN` characters."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


class Kind(Protocol[T]):
    """One kind of value: how it is read, checked and written."""

    @property
    def placeholder(self) -> str:
        """The word for the value in `--help`."""

    @property
    def fix(self) -> str:
        """What to give instead of a refused value; the end of the error text."""

    def read(self, value: object) -> T:
        """The value from a TOML document. Raises `BadValue`."""

    def read_words(self, words: Sequence[str]) -> T:
        """The value from flags (one word for each time the flag was given) or from a variable (one word).
        Raises `BadValue`.
        """

    def check(self, value: T) -> None:
        """Raise `BadValue` unless the value is in the kind's range."""

    def show(self, value: T) -> str:
        """The value as TOML."""


class Text(msgspec.Struct, frozen=True):
    """A `Kind`: one line of printable text that matches a pattern as a whole."""

    fix: str
    pattern: str = r".+"
    placeholder: str = "TEXT"

    def read(self, value: object) -> str:
        return _text(value)

    def read_words(self, words: Sequence[str]) -> str:
        return words[-1]

    def check(self, value: str) -> None:
        _check_text(value)
        if not re.fullmatch(self.pattern, value):
            raise BadValue(f"{quoted(value)} is not usable" if value else "is empty")

    def show(self, value: str) -> str:
        return toml_text(value)


class HostAddress(msgspec.Struct, frozen=True):
    """A `Kind`: the address of a host. `parsers` are of the families that it may have; each raises ValueError
    for text that is no such address.
    """

    fix: str
    parsers: tuple[Callable[[str], object], ...]
    placeholder: str = "ADDRESS"

    def read(self, value: object) -> str:
        return _text(value)

    def read_words(self, words: Sequence[str]) -> str:
        return words[-1]

    def check(self, value: str) -> None:
        _check_text(value)
        problems = []
        for parse in self.parsers:
            try:
                parse(value)
            except ValueError as error:
                problems.append(str(error))
            else:
                return
        raise BadValue(problems[-1] if value else "is empty")

    def show(self, value: str) -> str:
        return toml_text(value)


class Choice(msgspec.Struct, frozen=True):
    """A `Kind`: one of a few words."""

    words: tuple[str, ...]
    placeholder: str = "WORD"

    @property
    def fix(self) -> str:
        return f"give one of {', '.join(self.words)}"

    def read(self, value: object) -> str:
        return _text(value)

    def read_words(self, words: Sequence[str]) -> str:
        return words[-1]

    def check(self, value: str) -> None:
        if value not in self.words:
            raise BadValue(f"{quoted(value)} is not known" if value else "is empty")

    def show(self, value: str) -> str:
        return toml_text(value)


_NUMBER: Final = re.compile(
    r"[+-]?(?:0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO]?(?:_?[0-7])+|[1-9](?:_?[0-9])*|0)"
)
_OCTAL: Final = re.compile(r"^([+-]?0)(?=[_0-7])")
"""The beginning of an octal number without a letter, which Python does not know."""

_LONGEST_NUMBER: Final = 128
"""Most characters of a number."""


class WholeNumber(msgspec.Struct, frozen=True):
    """A `Kind`: a whole number from `low` to `high`. Where 0 is less, and another program takes it, `zero`
    says why it is refused.
    """

    low: int
    high: int
    unit: str = ""
    placeholder: str = "NUMBER"
    zero: str = ""

    @property
    def fix(self) -> str:
        return f"give a whole number{' of ' + self.unit if self.unit else ''} from {self.low} to {self.high}"

    def read(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadValue(f"{quoted(value)} is not a whole number")
        return value

    def read_words(self, words: Sequence[str]) -> int:
        """As Go's strconv.ParseInt reads it for base 0: also 0x1F, 0b11, 0o17 and 017, which is octal, with
        _ between digits.
        """
        word = words[-1]
        if len(word) > _LONGEST_NUMBER or not _NUMBER.fullmatch(word):
            raise BadValue(f"{quoted(word)} is not a whole number" if word else "is empty")
        return int(_OCTAL.sub(r"\1o", word), 0)

    def check(self, value: int) -> None:
        if value == 0 < self.low and self.zero:
            raise BadValue(self.zero)
        if not self.low <= value <= self.high:
            raise BadValue(f"{quoted(value)} is out of range")

    def show(self, value: int) -> str:
        return str(value)


TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class Switch(msgspec.Struct, frozen=True):
    """A `Kind`: true or false, in the words of Go's strconv.ParseBool. A flag of this kind needs no value,
    and takes one only after `=`.
    """

    placeholder: str = "BOOL"
    fix: str = "give true or false"

    def read(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise BadValue(f"{quoted(value)} is not true or false")
        return value

    def read_words(self, words: Sequence[str]) -> bool:
        if words[-1] not in TRUE | FALSE:
            raise BadValue(f"{quoted(words[-1])} is not true or false" if words[-1] else "is empty")
        return words[-1] in TRUE

    def check(self, value: bool) -> None:
        """Accept both."""

    def show(self, value: bool) -> str:
        return "true" if value else "false"


class FilePath(msgspec.Struct, frozen=True):
    """A `Kind`: the path of a file or folder. It need not exist when the value is checked."""

    placeholder: str = "PATH"
    fix: str = "give the path of a file or folder"
    needed: bool = False
    """It is a file that the program reads when it starts: see `problem`."""
    read_once: bool = False
    """It may be a pipe."""

    def problem(self, value: Path) -> str | None:
        """Why a file that is needed cannot be read; None if it can."""
        if not self.needed:
            return None
        try:
            if self.read_once and value.is_fifo():
                return None  # opening it would take it from the one who is to read it
            with open_input(value, self.fix):
                return None
        except UnusableFile as error:
            return f"{value}: {error.problem}"
        except OSError as error:
            return f"{value}: {error.strerror}"

    def read(self, value: object) -> Path:
        text = _text(value)
        _check_text(text)
        if not text:
            raise BadValue("is empty")
        return Path(text)

    def read_words(self, words: Sequence[str]) -> Path:
        return self.read(words[-1])

    def check(self, value: Path) -> None:
        _check_text(str(value))
        if len(str(value).encode()) > 4095:  # PATH_MAX of the kernel, without the zero byte
            raise BadValue("is longer than 4095 bytes")

    def show(self, value: Path) -> str:
        return toml_text(str(value))


PEM: Final = FilePath(fix="name a PEM file that can be read", needed=True)
"""A file of TLS."""


class Several(msgspec.Struct, Generic[T], frozen=True):
    """A `Kind`: a list without duplicates: what is named again is left out. In TOML an array, or one text;
    texts are split at commas unless `whole` is set, and may end with one. If the flag is given several times,
    the last one counts.
    """

    one: Callable[[str], T]
    """Reads an item; raises `BadValue`."""
    fix: str
    placeholder: str = "LIST"
    write: Callable[[T], str] = str
    """The inverse of `one`."""
    low: int = 0
    high: int = 64
    whole: bool = False
    sparse: bool = False
    """Empty items of a text are left out, wherever they are."""
    once: bool = False
    """An item that is named again is refused."""
    joined: bool = False
    """If the flag is given several times, the lists are joined."""

    def read(self, value: object) -> tuple[T, ...]:
        if isinstance(value, str):
            return self.read_words((value,))
        if not isinstance(value, list):
            raise BadValue(f"{quoted(value)} is not a list")
        return self._items([_text(item) for item in value])

    def read_words(self, words: Sequence[str]) -> tuple[T, ...]:
        used = words if self.joined else words[-1:]
        for word in used:
            _check_text(word)
        return self._items([part for word in used if word for part in self._parts(word)])

    def _parts(self, word: str) -> list[str]:
        if self.whole:
            return [word]
        parts = [part.strip() for part in word.strip().removesuffix(",").split(",")]
        return [part for part in parts if part or not self.sparse]

    def _items(self, texts: Sequence[str]) -> tuple[T, ...]:
        if len(texts) > self.high:
            raise BadValue(f"has {len(texts)} items, at most {self.high} can be used")
        items: list[T] = []
        for text in texts:
            _check_text(text)
            if not text:
                raise BadValue("has an empty item")
            item = self.one(text)
            if item not in items:
                items.append(item)
            elif self.once:
                raise BadValue(f"names {quoted(text)} twice")
        return tuple(items)

    def check(self, value: tuple[T, ...]) -> None:
        if len(value) < self.low:
            raise BadValue("is empty")
        if len(value) > self.high:
            raise BadValue(f"has {len(value)} items, at most {self.high} can be used")

    def show(self, value: tuple[T, ...]) -> str:
        return f"[{', '.join(toml_text(self.write(item)) for item in value)}]"


KEY_PATTERN: Final = r"(?:/(?!\.{1,2}(?:/|$))[^/\s]{1,255}){1,16}"
"""A key of the v2 API without a slash at its end."""

_UNIT_SECONDS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "\N{MICRO SIGN}s": 1e-6,
    "\N{GREEK SMALL LETTER MU}s": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_PART: Final = re.compile(rf"([0-9]+\.?[0-9]*|\.[0-9]+)({'|'.join(_UNIT_SECONDS)})")
_DURATION: Final = re.compile(rf"\+?(?:0|(?:{_PART.pattern})+)")
_COUNT: Final = re.compile(r"\+?[0-9]{1,18}")

_MOST_SECONDS: Final = (1 << 63) / 1e9
"""Longest time of Go."""


class Duration(msgspec.Struct, frozen=True):
    """A `Kind`: a time of at most 292 years, which is kept as it was written: see `seconds`. With `bare` a
    whole number without a unit is taken, too: see `count`.
    """

    fix: str
    placeholder: str = "TIME"
    bare: bool = False

    def read(self, value: object) -> str:
        return _text(value)

    def read_words(self, words: Sequence[str]) -> str:
        return words[-1]

    def check(self, value: str) -> None:
        _check_text(value)
        if self.bare and count(value) is not None:
            return
        if not _DURATION.fullmatch(value):
            raise BadValue(f"{quoted(value)} is not usable" if value else "is empty")
        if seconds(value) > _MOST_SECONDS:
            raise BadValue(f"{quoted(value)} is longer than 292 years")

    def show(self, value: str) -> str:
        return toml_text(value)


def seconds(duration: str) -> float:
    """A time in the notation of Go's time.ParseDuration, as 1h30m, .5s or 0, in seconds."""
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _PART.findall(duration))


def count(text: str) -> int | None:
    """The whole number that a text is, in decimal; None if it is none."""
    return int(text) if _COUNT.fullmatch(text) else None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise BadValue(f"{quoted(value)} is not text")
    return value


def _check_text(value: str) -> None:
    if len(value) > MAX_TEXT:
        raise BadValue(f"is longer than {MAX_TEXT} characters")
    if not value.isprintable():
        raise BadValue(f"{quoted(value)} has characters that cannot be printed")


def toml_text(value: str) -> str:
    """Printable text as a TOML basic string."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
