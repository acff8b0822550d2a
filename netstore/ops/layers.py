"""The four layers that values of settings come from: default, table of a TOML file, environment, command
line. A later layer wins over an earlier one.

Each value is kept with its source. Whatever cannot be used is an error of one line, which names key, source,
problem and fix.

The command line is parsed as Go programs do it, so that unit files for etcd and flannel work: `--flag value`,
`--flag=value`, one dash or two; a switch takes a value only after `=`; the last of a flag's values counts. No
command line library is used, because importing one would delay each start.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import tomli

from netstore.errors import NetstoreError, parse_problem
from netstore.inputfile import UnusableFile, read_input, shortened
from netstore.ops.kinds import FALSE, SHOWN, TRUE, BadValue, FilePath, Several, Switch, WholeNumber, quoted
from netstore.ops.settings import BadSetting, Setting, default_words, without_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from _typeshed import DataclassInstance

    from netstore.ops.foreign import ForeignFlag

C = TypeVar("C", bound="DataclassInstance")

CONFIG_FILE: Final = Path("/etc/netstore/netstore.toml")
"""Read if it exists and no other file is named."""

MAX_FILE_BYTES: Final = 1 << 20
"""Largest configuration file. A larger one is some other file, named by mistake."""


_SPELT_ALIKE: Final = 0.8
"""Likeness of two words from which on one is taken for a misspelling of the other."""

_MEANT: Final = 0.5
"""Part of the parts of two names that they share, from which on one is taken for the other."""

_COMMON: Final = frozenset(
    (
        *("agent", "client", "enable", "experimental", "file", "initial", "interval", "listen", "max"),
        *("netstore", "peer", "time", "timeout", "url", "urls"),
    )
)
"""Parts of names that are in many of them, and alone say nothing about what is meant."""


def nearest(word: str, known: Sequence[str], meanings: Mapping[str, str] = MappingProxyType({})) -> str:
    """The end of an error text about an unknown word: the known one that is most likely meant, if there is
    any. `meanings` has words that others use, without dashes, and the known ones for the same.
    """
    word = word[:SHOWN]
    if word.lstrip("-") in meanings:
        return f"did you mean {meanings[word.lstrip('-')]}?"
    near = difflib.get_close_matches(word, known, n=1, cutoff=_SPELT_ALIKE)
    if not near:
        best = max(known, key=lambda each: _shared(word, each), default="")
        near = [best] if best and _shared(word, best) >= _MEANT else []
    return f"did you mean {near[0]}?" if near else "see --help for those that are known"


def _shared(one: str, other: str) -> float:
    """How many of their parts two names share, of those of the longer one; 0 if only common parts."""
    ours, theirs = (set(re.split(r"[-_]+", name.strip("-").lower())) for name in (one, other))
    shared = {part for part in ours if difflib.get_close_matches(part, theirs, n=1, cutoff=_SPELT_ALIKE)}
    return len(shared) / max(len(ours), len(theirs)) if shared - _COMMON else 0.0


class Task(Enum):
    """What the command line asks the program to do."""

    RUN = "run"
    HELP = "help"
    VERSION = "version"
    CHECK = "check-config"


@dataclass(frozen=True, slots=True)
class Loaded(Generic[C]):
    """A configuration and how it came about."""

    config: C
    sources: Mapping[str, str]
    """Key -> where the value is from, as "flag --name"."""
    notices: tuple[str, ...]
    """What was given and has no effect, or is better changed, for the log."""
    task: Task
    json: bool = False
    """The version is to be printed as JSON."""
    given: frozenset[str] = frozenset()
    """Keys of the settings that have a value from any layer but the defaults."""
    file: str | None = None
    """The configuration file that was read."""


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A parsed command line."""

    values: dict[str, list[tuple[str, str]]]
    """Key -> each flag that was given for it, with its word."""
    foreign: dict[str, str]
    """Flags without a setting, with the value that was given last."""
    file: str | None
    """The configuration file, if it is named."""
    task: Task
    json: bool = False
    """The version is printed as JSON."""


OWN_FLAGS: Final = {
    "config-file": "Read settings from this file instead of the default one.",
    "check-config": "Print the merged configuration with the source of each value, and exit.",
    "version": "Print the version and exit.",
    "json": "Print the version as JSON.",
    "help": "Print this text and exit.",
}
"""Flags of every program besides its settings."""

_TASKS: Final = {"check-config": Task.CHECK, "version": Task.VERSION, "help": Task.HELP, "h": Task.HELP}
"""Switches that have the program do something else than run."""

_LINK: Final = re.compile(
    r"(?:[A-Z0-9_]+_)?"
    r"(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
"""What follows the prefix in variables that Kubernetes sets in each pod, for a Service whose name begins like
our variables.
"""


@dataclass(frozen=True, slots=True)
class Layered(Generic[C]):
    """The configuration of one program: the dataclass with the settings, and the names used in each layer."""

    form: type[C]
    """The dataclass, with a field made by `settings.setting` for each setting."""
    program: str
    about: str
    """One sentence for `--help`."""
    table: str
    """Name of its table in the TOML file."""
    tables: tuple[str, ...]
    """Names of all tables that the file may have. Those of other programs are not read."""
    prefix: str
    """Prefix of its environment variables."""
    siblings: tuple[str, ...]
    """Variables, or prefixes of variables, of other programs that begin with this prefix, too."""
    alias_prefix: str
    """Prefix of the variables of the program that this one replaces."""
    original: str
    """Name of that program."""
    foreign: Mapping[str, ForeignFlag]
    """Flags of that program that have no setting."""
    default_file: Path
    """TOML file to read if it exists and no other is named."""
    unit_variables: frozenset[str] = frozenset()
    """Variables with the prefix of that program which its unit files have, for words of the command line."""
    tools: Mapping[str, str] = field(default_factory=dict)
    """For `--help`: flags that do something else than run the program, and what. The program parses them."""
    meanings: Mapping[str, str] = field(default_factory=dict)
    """Words that people use for a flag, without dashes, and the flag that is meant, with them."""
    original_flags: frozenset[str] = frozenset()
    """All flags of that program."""
    read_original: Callable[[str, bytes], Sequence[tuple[str, str]] | None] | None = None
    """Reads a configuration file of that program, given its name and content: its flags, with their values,
    or None if the file is none of its. Raises NetstoreError.
    """
    manners: str = ""
    """The switch for doing as that program does; on by itself when the program is asked in its words."""
    cautions: Callable[[C], Sequence[str]] = lambda _: ()
    """What of a configuration is told to the operator, though it can be used."""
    check_place: Callable[[C, AbstractSet[str]], None] = lambda _config, _given: None
    """Raises `BadSetting` if a start with these settings, of which those with the given keys are set, would
    pass over data of that program where it would have looked for it.
    """

    def settings(self) -> tuple[Setting, ...]:
        """All settings, in the order of their declaration."""
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
                    needs=notes["needs"],
                    is_place=notes["is_place"],
                    table=notes["table"] or self.table,
                    name=each.name.removeprefix(f"{notes['table']}_") if notes["table"] else each.name,
                )
            )
        return tuple(found)

    @property
    def file_variable(self) -> str:
        """The variable that names the TOML file, the same for both programs."""
        return "NETSTORE_CONFIG_FILE"

    def load(self, argv: Sequence[str], environ: Mapping[str, str], called: str = "") -> Loaded[C]:
        """Merge all layers. `argv` does not include the program's name, `called` is the one it was started
        by. Raises NetstoreError, in one line.

        With `--help` or `--version` the result has the defaults alone: no other layer is read.
        """
        words = self.parse(argv)
        if words.task in (Task.HELP, Task.VERSION):
            return Loaded(self._build({}), MappingProxyType({}), (), words.task, words.json)
        values: dict[str, object] = {}
        sources: dict[str, str] = {}
        notices: list[str] = []
        named = words.file or environ.get(self.file_variable) or environ.get(self.original_variable)
        if not named and self.default_file.exists():
            named = str(self.default_file)
        layer: Iterable[tuple[str, object, str]] = ()
        if named:
            data = read_configuration(named)
            original = None if self.read_original is None else self.read_original(named, data)
            if original is None:
                layer = self._from_document(named, read_document(named, data))
            else:
                words, environ, alone = self._without_original(words, environ)
                notices += [f"{each} has no effect beside the configuration file {named}" for each in alone]
                layer = self._from_original(named, original, notices)
        for key, value, source in (*layer, *self._from_environment(environ, notices)):
            values[key], sources[key] = value, source
        by_key = {each.key: each for each in self.settings()}
        for key, flags in words.values.items():
            flag, text = flags[-1]
            if _is_unset(by_key[key], text):
                before = next(((word, given) for word, given in reversed(flags) if given), None)
                if before is not None:
                    values[key], sources[key] = before[1], f"flag --{before[0]}"
                if by_key[key].is_place and key in values:
                    raise BadSetting(
                        key,
                        f"is empty, which takes back {quoted(str(values[key]))} ({sources[key]}), and what is"
                        " there would be passed over",
                        "name that folder, or leave the flag out, or take the setting out of its source",
                        f"flag --{flag}",
                    )
                values.pop(key, None)
                sources[key] = f"default, as flag --{flag} is empty"
                continue
            sources[key] = f"flag --{flag}"
            values[key] = _read(by_key[key], [text for _, text in flags], sources[key])
        for flag, text in words.foreign.items():
            notices.append(self._judge_foreign(f"--{flag}", self.foreign[flag], text))
        if self.manners and self.manners not in values:
            self._judge_manners(called, values, sources)
        try:
            config = self._build(values)
        except BadSetting as bad:
            source = sources.get(bad.key, "default")
            raise BadSetting(bad.key, bad.problem, bad.fix, source) from None
        for each in by_key.values():
            sources.setdefault(
                each.key, f"default: {each.default_words}" if each.default_words else "default"
            )
        notices += _idle(by_key, config, sources)
        notices += self.cautions(config)
        return Loaded(
            config,
            MappingProxyType(sources),
            tuple(notices),
            words.task,
            given=frozenset(values),
            file=named or None,
        )

    @property
    def original_variable(self) -> str:
        """The variable that names a configuration file of the program that this one replaces."""
        return f"{self.alias_prefix}CONFIG_FILE" if self.read_original is not None else ""

    def _judge_manners(self, called: str, values: dict[str, object], sources: dict[str, str]) -> None:
        """Switch `manners` on if the program is asked in the words of the one that it replaces."""
        marks = (f"environment {self.alias_prefix}", f"{self.original}'s file ")
        asked = next((source for source in sources.values() if source.startswith(marks)), None)
        if asked is None and called == self.original:
            asked = f"called as {called}"
        if asked is not None:
            values[self.manners], sources[self.manners] = True, asked

    def _without_original(
        self, words: CommandLine, environ: Mapping[str, str]
    ) -> tuple[CommandLine, Mapping[str, str], list[str]]:
        """The command line and the environment without what that program ignores beside its file; and the
        names of what was left out.
        """
        own = {key: each for key, each in words.values.items() if each[-1][0] not in self.original_flags}
        alone = [f"--{each[-1][0]}" for key, each in words.values.items() if key not in own]
        alone += [f"--{flag}" for flag in words.foreign]
        aliases = {
            name
            for name in environ
            if name.startswith(self.alias_prefix)
            and name.removeprefix(self.alias_prefix).lower().replace("_", "-") in self.original_flags
        }
        alone += sorted(name for name in aliases - {self.original_variable} if environ[name])
        left = {name: value for name, value in environ.items() if name not in aliases}
        return CommandLine(own, {}, words.file, words.task), left, alone

    def _from_original(
        self, name: str, pairs: Sequence[tuple[str, str]], notices: list[str]
    ) -> Iterator[tuple[str, object, str]]:
        """The settings in a file of the program that this one replaces."""
        by_flag = {flag: each for each in self.settings() for flag in each.flags}
        source = f"{self.original}'s file {name}"
        for flag, text in pairs:
            if flag in by_flag:
                if not _is_unset(by_flag[flag], text):
                    yield by_flag[flag].key, _read(by_flag[flag], [text], source), source
            elif flag in self.foreign:
                notices.append(self._judge_foreign(f"{name}: {flag}", self.foreign[flag], text))
            else:
                meant = nearest(flag, (*by_flag, *self.foreign))
                notices.append(f"{name}: {flag} is not known and has no effect: {meant}")

    def check_files(self, loaded: Loaded[C]) -> None:
        """Raise `BadSetting` if a file that is needed at the start cannot be read."""
        for each in self.settings():
            path = getattr(loaded.config, each.key)
            if path is None or not isinstance(each.kind, FilePath):
                continue
            problem = each.kind.problem(path)
            if problem is not None:
                raise BadSetting(each.key, problem, each.kind.fix, loaded.sources[each.key])
        self.check_place(loaded.config, loaded.given)

    def _build(self, values: Mapping[str, object]) -> C:
        return cast("Callable[..., C]", self.form)(**values)

    def parse(self, argv: Sequence[str]) -> CommandLine:
        """Parse a command line. Raises NetstoreError for an unknown flag or word, or a missing value."""
        by_flag = {flag: each for each in self.settings() for flag in each.flags}
        tools = (each.split()[0] for each in self.tools)
        known = tuple(f"--{flag}" for flag in (*by_flag, *OWN_FLAGS, *tools, *self.foreign))
        words = CommandLine({}, {}, None, Task.RUN)
        file, asked, as_json = None, dict[Task, bool](), False
        rest = iter(argv)
        for word in rest:
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
                words.values.setdefault(each.key, []).append((flag, text))
            elif flag == "config-file":
                file = _value(flag, value, rest, switch=False)
            elif flag == "json":
                as_json = _is_on(flag, value)
            elif flag in _TASKS:
                asked[_TASKS[flag]] = _is_on(flag, value)
                if asked.get(Task.HELP):
                    return CommandLine({}, {}, None, Task.HELP)
            elif flag in self.foreign:
                words.foreign[flag] = _value(flag, value, rest, switch=self.foreign[flag].switch)
            else:
                meant = nearest(f"--{flag}", known, self.meanings)
                raise NetstoreError(f"unknown flag {quoted('--' + flag)}: {meant}")
        tasks = [task for task, is_asked in asked.items() if is_asked]
        if len(tasks) > 1:
            raise NetstoreError("--version and --check-config print something else each; give one of the two")
        task = tasks.pop() if tasks else Task.RUN
        if as_json and task is not Task.VERSION:
            raise NetstoreError(
                "--json is for --version, and has no effect elsewhere; add that, or leave it out"
            )
        return CommandLine(words.values, words.foreign, file, task, as_json)

    def _from_document(self, named: str, document: Mapping[str, Any]) -> Iterator[tuple[str, object, str]]:
        for table, content in document.items():
            if table not in self.tables:
                raise NetstoreError(f"{named}: unknown table {quoted(table)}: {nearest(table, self.tables)}")
            if not isinstance(content, dict):
                raise NetstoreError(f"{named}: {table} is not a table; write [{table}] above its keys")
        source = f"file {named}"
        for table, known in self._by_table().items():
            for name, value in document.get(table, {}).items():
                if name not in known:
                    raise NetstoreError(f"{named}: {self._unknown('key', name, tuple(known))}")
                yield known[name].key, _read(known[name], value, source, document=True), source

    def _by_table(self) -> dict[str, dict[str, Setting]]:
        """The settings by table and key of the TOML file, the program's own table first."""
        tables: dict[str, dict[str, Setting]] = {self.table: {}}
        for each in self.settings():
            tables.setdefault(each.table, {})[each.name] = each
        return tables

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
        foreign = {
            self.alias_prefix + flag.upper().replace("-", "_"): each for flag, each in self.foreign.items()
        }
        for name, value in environ.items():
            if not name.startswith(self.alias_prefix) or name in owner or not value:
                continue
            if name in self.unit_variables or name == self.original_variable:
                continue
            if name in foreign:
                notices.append(self._judge_foreign(name, foreign[name], value))
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

    def _judge_foreign(self, name: str, foreign: ForeignFlag, value: str) -> str:
        if foreign.switch and value in TRUE | FALSE:
            value = "true" if value in TRUE else "false"
        if foreign.takes(value):
            return f"{name} has no effect: {foreign.why(value)}"
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
            short = "-h, " if word == "help" else ""
            lines.append(f"  {short}--{word}{' PATH' if word == 'config-file' else ''}")
            lines.append(f"        {about}")
        lines.append("")
        lines.append(
            f"Settings come from {self.default_file} (table [{self.table}]), the environment and flags,"
        )
        lines.append("the later of these winning. See netstore.toml(5).")
        return "\n".join(lines)

    def report(self, loaded: Loaded[C]) -> str:
        """The text of `--check-config`: a TOML document with the source of each value, without secrets."""
        tables = {
            table: [(_shown(each, loaded.config), loaded.sources[each.key]) for each in known.values()]
            for table, known in self._by_table().items()
        }
        width = min(72, max(len(left) for rows in tables.values() for left, _ in rows))
        return "\n".join(
            line
            for table, rows in tables.items()
            for line in (f"[{table}]", *(f"{left:<{width}}  # {source}" for left, source in rows))
        )


def _shown(each: Setting, config: object) -> str:
    """A setting as it would stand in the TOML file, or a comment."""
    value = getattr(config, each.key)
    if each.secret and value:
        return f"# {each.name} is set and not shown"
    if value is None or (each.secret and not value):
        return f"# {each.name} is not set"
    return f"{each.name} = {each.kind.show(value)}"


def read_document(name: str, data: bytes) -> dict[str, Any]:
    """The TOML document in a file with this content. Raises NetstoreError that names the file, and the place
    if it is known.
    """
    try:
        return tomli.loads(data.decode())
    except UnicodeDecodeError as error:
        raise NetstoreError(f"{name!r} is not UTF-8 text at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise NetstoreError(f"{name!r} is not TOML: {parse_problem(error)}") from None


def read_configuration(name: str) -> bytes:
    """The bytes of a configuration file, or of a pipe, as `<(command)` gives one, which is read once and must
    not be empty: its writer may have failed. /dev/null stands for no settings. NetstoreError names the file
    and the problem.
    """
    if name == os.devnull:
        return b""
    try:
        data = read_input(name, MAX_FILE_BYTES, "", stream=True)
    except UnusableFile as error:
        raise unreadable(name, error.problem) from None
    if not data and not Path(name).is_file():
        raise unreadable(name, "is empty, as of a command that failed")
    return data


def unreadable(name: str, problem: str) -> NetstoreError:
    """The exception for a configuration file that cannot be read."""
    what = f"cannot read the configuration file {shortened(name)!r}"
    return NetstoreError(f"{what}: {problem}; name a file of settings")


def _value(flag: str, attached: str | None, rest: Iterator[str], *, switch: bool) -> str:
    if attached is not None:
        return attached
    if switch:
        return "true"
    text = next(rest, None)
    if text is None or text.startswith("--"):
        raise NetstoreError(f"flag --{flag} needs a value; write --{flag}=VALUE")
    return text


def _is_on(flag: str, attached: str | None) -> bool:
    """Whether a switch that is no setting is given as true."""
    kind = Switch()
    try:
        return kind.read_words(["true" if attached is None else attached])
    except BadValue as bad:
        raise NetstoreError(f"flag --{flag}: {bad}; {kind.fix}") from None


def _idle(by_key: Mapping[str, Setting], config: object, sources: Mapping[str, str]) -> Iterator[str]:
    """A notice for each setting that was given, and that has no effect without another one."""
    for each in by_key.values():
        is_given = getattr(config, each.key) != each.default
        if each.needs and is_given and not any(getattr(config, other) for other in each.needs):
            yield f"{each.key} ({sources[each.key]}) has no effect without {' or '.join(each.needs)}"


def _is_unset(each: Setting, text: str) -> bool:
    """Whether the value of a flag says that the setting is not set, as the empty texts that templates of unit
    files give. A switch and a number have no such value, and a list that may be empty is set by it.
    """
    kind = each.kind
    may_be_empty = isinstance(kind, Several) and not kind.low
    return not text and not isinstance(kind, Switch | WholeNumber) and not may_be_empty


def _read(each: Setting, value: Any, source: str, *, document: bool = False) -> object:
    try:
        found: object = each.kind.read(value) if document else each.kind.read_words(value)
        each.kind.check(found)
    except BadValue as bad:
        raise BadSetting(each.key, without_secret(bad, each.secret), each.kind.fix, source) from None
    return found
