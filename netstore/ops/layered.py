"""Settings declared once and filled from four layers: embedded default, TOML table, environment, command
line.

A configuration is a frozen dataclass whose fields are made by `setting`. The declaration drives everything
an operator meets: the flag, the environment variable, the TOML key, `--help`, `--check-config`, the
messages and the test of the manual. Every value remembers its source, and every refusal is one line that
names key, source, problem and fix.

The command line is read as Go programs read theirs, so that unit files written for etcd and flannel keep
working: `--flag value`, `--flag=value`, one dash or two, and a switch takes its value only after `=`. The
module imports little: a program that only wants its configuration should not pay for a command line library
at each start.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypedDict, TypeVar, Unpack, cast, overload

import tomli

from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from _typeshed import DataclassInstance

T = TypeVar("T")
D = TypeVar("D")
C = TypeVar("C", bound="DataclassInstance")

MAX_FILE_BYTES: Final = 1 << 20
"""A longer configuration file is a mistake (a log, a device), not a configuration."""

MAX_TEXT: Final = 64 << 10
"""Characters in one value; far above any list of members."""

SHOWN: Final = 80
"""Characters of a refused value that a message repeats."""


class Unfit(ValueError):  # noqa: N818 - says what the value is, not that the program failed
    """A value that a kind refuses. The text is the problem alone; the caller adds key, source and fix."""


class BadSetting(NetstoreError):  # noqa: N818 - named for what was found
    """A setting cannot be used: one line with key, source, problem and fix."""

    def __init__(self, key: str, problem: str, fix: str, source: str = "") -> None:
        self.key = key
        self.problem = problem
        self.fix = fix
        where = f" ({source})" if source else ""
        super().__init__(f"{key}{where}: {problem}; {fix}")


def quoted(value: object) -> str:
    """The value as a message shows it: printable, on one line, cut to a length people read."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def nearest(word: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown word: the nearest known one, if any is near."""
    near = difflib.get_close_matches(word[:SHOWN], known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else "see --help for those that are known"


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


@dataclass(frozen=True, slots=True)
class Setting:
    """One declared setting, as flag, variable and TOML key know it."""

    key: str
    kind: Kind[Any]
    about: str
    flags: tuple[str, ...]
    """Names without dashes, the one made of the key first."""
    variables: tuple[str, ...]
    """Environment names in order of precedence, the one made of the key first."""
    default_words: str
    """How the default is told; empty when the value itself tells it."""
    default: object
    secret: bool
    """Never shown: not by `--check-config`, not in a message."""


class Names(TypedDict, total=False):
    """What a declaration may add to key, kind, default and sentence."""

    flags: tuple[str, ...]
    """Flag names beside the one made of the key."""
    variables: tuple[str, ...]
    """Environment names beside the one made of the key, in order of precedence."""
    default_words: str
    """Tells a default that is worked out."""
    secret: bool
    """The value is never shown."""


@overload
def setting(kind: Kind[T], default: Callable[[], T], about: str, **names: Unpack[Names]) -> T: ...
@overload
def setting(kind: Kind[T], default: D, about: str, **names: Unpack[Names]) -> T | D: ...
def setting(kind: Kind[T], default: object, about: str, **names: Unpack[Names]) -> object:
    """Declare a field of a configuration: kind, default (or what makes it), one sentence for people."""
    notes = {"kind": kind, "about": about, "flags": (), "variables": (), "default_words": "", "secret": False}
    notes |= names
    shown = not names.get("secret", False)
    if callable(default):
        return field(default_factory=default, metadata=notes, repr=shown)
    return field(default=default, metadata=notes, repr=shown)


def check_settings(config: DataclassInstance) -> None:
    """Check each value of a configuration that is set. Raises `BadSetting`; call it in `__post_init__`."""
    for each in fields(config):
        value = getattr(config, each.name)
        kind: Kind[Any] = each.metadata["kind"]
        if value is None:
            continue
        try:
            kind.check(value)
        except Unfit as unfit:
            raise BadSetting(each.name, _discreet(unfit, each.metadata["secret"]), kind.fix) from None


def _discreet(unfit: Unfit, secret: bool) -> str:
    return "is not usable" if secret else str(unfit)


class Task(Enum):
    """What the command line asks the program to do."""

    RUN = "run"
    HELP = "help"
    VERSION = "version"
    CHECK = "check-config"


@dataclass(frozen=True, slots=True)
class Loaded(Generic[C]):
    """A configuration, where each value came from, and what the operator should know about it."""

    config: C
    sources: Mapping[str, str]
    notices: tuple[str, ...]
    task: Task


@dataclass(frozen=True, slots=True)
class Foreign:
    """A flag of the program we stand in for that has no setting here.

    It is refused, so that nobody relies on what does not happen, unless its value is one of `harmless`
    (None: any value is), where nothing is lost and a notice says so. `reason` completes the sentence
    "--flag ...".
    """

    reason: str
    harmless: tuple[str, ...] | None = ()
    switch: bool = False


@dataclass(frozen=True, slots=True)
class Words:
    """A command line taken apart: settings by key, in the order given, with the flag that gave them."""

    values: dict[str, tuple[str, list[str]]]
    foreign: list[tuple[str, str]]
    file: str | None
    task: Task


OWN_FLAGS: Final = {
    "config-file": "Read settings from this TOML file instead of the default one.",
    "check-config": "Print the merged configuration with the source of each value, and exit.",
    "version": "Print the version and exit.",
    "help": "Print this text and exit.",
}
"""Flags that every program has, beside its settings."""

_LINK: Final = re.compile(
    r"(?:[A-Z0-9_]+_)?"
    r"(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
"""Ends of variables that Kubernetes sets in every pod for a Service with a name like ours."""


@dataclass(frozen=True, slots=True)
class Layered(Generic[C]):
    """One program's configuration: the dataclass, and the names it goes by in each layer."""

    form: type[C]
    program: str
    about: str
    table: str
    """Its table of the TOML file."""
    tables: tuple[str, ...]
    """All tables the file may have; the others belong to other programs and are left to them."""
    prefix: str
    """Of its environment variables."""
    siblings: tuple[str, ...]
    """Prefixes or names of variables that begin like ours and belong to another program."""
    alias_prefix: str
    """Of the variables of the program we stand in for."""
    original: str
    """The name of that program."""
    foreign: Mapping[str, Foreign]
    default_file: Path
    tools: Mapping[str, str] = field(default_factory=dict)
    """Flags, with the value they take, that do something else than run it -> what; its program reads them."""

    def settings(self) -> tuple[Setting, ...]:
        """All settings, in the order declared."""
        found = []
        for each in fields(self.form):
            notes = each.metadata
            found.append(
                Setting(
                    key=each.name,
                    kind=notes["kind"],
                    about=notes["about"],
                    flags=(each.name.replace("_", "-"), *notes["flags"]),
                    variables=(self.prefix + each.name.upper(), *notes["variables"]),
                    default_words=notes["default_words"],
                    default=each.default,
                    secret=notes["secret"],
                )
            )
        return tuple(found)

    @property
    def file_variable(self) -> str:
        """The variable that names the TOML file; the same for every program that reads it."""
        return "NETSTORE_CONFIG_FILE"

    def load(self, argv: Sequence[str], environ: Mapping[str, str]) -> Loaded[C]:
        """Merge all layers. `argv` is without the program's name. Raises NetstoreError with one line.

        Asked for help or its version, the program gets its defaults: no other layer is looked at.
        """
        words = self.parse(argv)
        if words.task in (Task.HELP, Task.VERSION):
            return Loaded(self._build({}), MappingProxyType({}), (), words.task)
        values: dict[str, object] = {}
        sources: dict[str, str] = {}
        notices: list[str] = []
        for key, value, source in (
            *self._from_file(words, environ),
            *self._from_environment(environ, notices),
        ):
            values[key], sources[key] = value, source
        by_key = {each.key: each for each in self.settings()}
        for key, (flag, texts) in words.values.items():
            sources[key] = f"flag --{flag}"
            values[key] = _read(by_key[key], texts, sources[key])
        for flag, text in words.foreign:
            notices.append(self._judge_foreign(f"--{flag}", self.foreign[flag], text))
        try:
            config = self._build(values)
        except BadSetting as bad:
            source = sources.get(bad.key, "default")
            raise BadSetting(bad.key, bad.problem, bad.fix, source) from None
        for each in by_key.values():
            sources.setdefault(
                each.key, f"default: {each.default_words}" if each.default_words else "default"
            )
        return Loaded(config, MappingProxyType(sources), tuple(notices), words.task)

    def _build(self, values: Mapping[str, object]) -> C:
        return cast("Callable[..., C]", self.form)(**values)

    def parse(self, argv: Sequence[str]) -> Words:
        """Take a command line apart. Raises NetstoreError on an unknown flag or word or a missing value."""
        by_flag = {flag: each for each in self.settings() for flag in each.flags}
        known = tuple(
            f"--{flag}" for flag in (*by_flag, *OWN_FLAGS, *(each.split()[0] for each in self.tools))
        )
        words = Words({}, [], None, Task.RUN)
        file, task = None, Task.RUN
        rest = iter(argv)
        for word in rest:
            if word in ("-h", "-help", "--help"):
                return Words({}, [], None, Task.HELP)
            match = re.fullmatch(r"--?([^-=\s][^=\s]*)(?:=(.*))?", word, re.DOTALL)
            if match is None:
                hint = "; write --flag=true or --flag=false" if word in TRUE | FALSE else ""
                raise NetstoreError(
                    f"{quoted(word)} is not a flag and {self.program} takes no other words{hint}"
                )
            flag, value = match.group(1), match.group(2)
            if flag in by_flag:
                each = by_flag[flag]
                switch = isinstance(each.kind, Switch)
                text = _value(flag, value, rest, switch=switch)
                words.values.setdefault(each.key, (flag, []))[1].append(text)
            elif flag == "config-file":
                file = _value(flag, value, rest, switch=False)
            elif flag in ("check-config", "version"):
                if _value(flag, value, rest, switch=True) in TRUE:
                    task = Task(flag)
            elif flag in self.foreign:
                words.foreign.append((flag, _value(flag, value, rest, switch=self.foreign[flag].switch)))
            else:
                raise NetstoreError(f"unknown flag {quoted('--' + flag)}: {nearest('--' + flag, known)}")
        return Words(words.values, words.foreign, file, task)

    def _from_file(self, words: Words, environ: Mapping[str, str]) -> Iterator[tuple[str, object, str]]:
        named = words.file if words.file is not None else environ.get(self.file_variable) or None
        if named is None:
            if not self.default_file.exists():
                return
            named = str(self.default_file)
        document = read_document(named)
        for table, content in document.items():
            if table not in self.tables:
                raise NetstoreError(f"{named}: unknown table {quoted(table)}: {nearest(table, self.tables)}")
            if not isinstance(content, dict):
                raise NetstoreError(f"{named}: {table} is not a table; write [{table}] above its keys")
        by_key = {each.key: each for each in self.settings()}
        for key, value in document.get(self.table, {}).items():
            if key not in by_key:
                raise NetstoreError(f"{named}: {self._unknown('key', key, tuple(by_key))}")
            source = f"file {named}"
            yield key, _read(by_key[key], value, source, document=True), source

    def _from_environment(
        self, environ: Mapping[str, str], notices: list[str]
    ) -> Iterator[tuple[str, object, str]]:
        settings = self.settings()
        owner = {name: each for each in settings for name in each.variables}
        self._refuse_unknown(environ, tuple(each.variables[0] for each in settings))
        for each in settings:
            for name in each.variables:
                if environ.get(name):
                    source = f"environment {name}"
                    yield each.key, _read(each, [environ[name]], source), source
                    break
        for name, value in environ.items():
            if not name.startswith(self.alias_prefix) or name in owner or not value:
                continue
            flag = name.removeprefix(self.alias_prefix).lower().replace("_", "-")
            if flag in self.foreign:
                notices.append(self._judge_foreign(name, self.foreign[flag], value))
            elif not _LINK.fullmatch(name.removeprefix(self.alias_prefix)) and "://" not in value:
                notices.append(f"{name} is not a variable that {self.program} knows, and has no effect")

    def _refuse_unknown(self, environ: Mapping[str, str], known: tuple[str, ...]) -> None:
        for name, value in environ.items():
            if not name.startswith(self.prefix) or name in known or name == self.file_variable:
                continue
            if any(
                name == other or (other.endswith("_") and name.startswith(other)) for other in self.siblings
            ):
                continue
            end = name.removeprefix(self.prefix)
            if _LINK.fullmatch(end) or (
                end.endswith("PORT") and value.startswith(("tcp://", "udp://", "sctp://"))
            ):
                continue
            raise NetstoreError(self._unknown("variable", name, known))

    def _unknown(self, noun: str, name: str, known: tuple[str, ...]) -> str:
        foreign = self.foreign.get(name.removeprefix(self.prefix).lower().replace("_", "-"))
        return f"unknown {noun} {quoted(name)}: {foreign.reason if foreign else nearest(name, known)}"

    def _judge_foreign(self, name: str, foreign: Foreign, value: str) -> str:
        if foreign.harmless is None or value in foreign.harmless:
            return f"{name} has no effect: {foreign.reason}"
        raise NetstoreError(
            f"{name} is of {self.original} and not supported by {self.program}: {foreign.reason}"
        )

    def usage(self) -> str:
        """The text of `--help`."""
        lines = [f"Usage: {self.program} [flags]", "", self.about, ""]
        for each in self.settings():
            lines.append(f"  {', '.join('--' + flag for flag in each.flags)} {each.kind.placeholder}")
            lines.append(f"        {each.about}")
            lines.append(f"        Default: {default_words(each)}. Environment: {', '.join(each.variables)}.")
        lines.append("")
        for words, about in self.tools.items():
            lines += [f"  --{words}", f"        {about}"]
        for word, about in OWN_FLAGS.items():
            lines.append(f"  --{word}{' PATH' if word == 'config-file' else ''}")
            lines.append(f"        {about}")
        lines.append("")
        lines.append(
            f"Settings come from {self.default_file} (table [{self.table}]), the environment and flags,"
        )
        lines.append("the later of these winning. See netstore.toml(5).")
        return "\n".join(lines)

    def report(self, loaded: Loaded[C]) -> str:
        """The text of `--check-config`: a TOML document, each value with its source, secrets left out."""
        rows = []
        for each in self.settings():
            value = getattr(loaded.config, each.key)
            if each.secret and value:
                left = f"# {each.key} is set and not shown"
            elif value is None or (each.secret and not value):
                left = f"# {each.key} is not set"
            else:
                left = f"{each.key} = {each.kind.show(value)}"
            rows.append((left, loaded.sources[each.key]))
        width = min(72, max(len(left) for left, _ in rows))
        return "\n".join([f"[{self.table}]", *(f"{left:<{width}}  # {source}" for left, source in rows)])


def default_words(each: Setting) -> str:
    """A setting's default as the manual and `--help` tell it."""
    if each.default_words:
        return each.default_words
    if each.default is None:
        return "not set"
    return str(each.kind.show(each.default))


def read_document(name: str) -> dict[str, Any]:
    """The TOML document in a file. Raises NetstoreError naming the file and, if it can, line and column."""
    try:
        with Path(name).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a path"
        raise NetstoreError(f"cannot read the configuration file {name!r}: {reason}") from None
    if len(data) > MAX_FILE_BYTES:
        raise NetstoreError(f"{name!r} is longer than {MAX_FILE_BYTES} bytes: no configuration file")
    try:
        return tomli.loads(data.decode())
    except UnicodeDecodeError as error:
        raise NetstoreError(f"{name!r} is not UTF-8 text at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise NetstoreError(f"{name!r} is not TOML: {' '.join(str(error).split())}") from None


def _value(flag: str, attached: str | None, rest: Iterator[str], *, switch: bool) -> str:
    if attached is not None:
        return attached
    if switch:
        return "true"
    text = next(rest, None)
    if text is None or text.startswith("--"):
        raise NetstoreError(f"flag --{flag} needs a value; write --{flag}=VALUE")
    return text


def _read(each: Setting, value: Any, source: str, *, document: bool = False) -> object:
    try:
        found: object = each.kind.read(value) if document else each.kind.read_words(value)
        each.kind.check(found)
    except Unfit as unfit:
        raise BadSetting(each.key, _discreet(unfit, each.secret), each.kind.fix, source) from None
    return found
