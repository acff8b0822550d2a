"""etcd's configuration file: YAML, or JSON, whose keys are etcd's flags without their dashes, in capitals or
not.

Exceptions to that: the settings of TLS are in two blocks, `client-transport-security` and
`peer-transport-security`; times that are numbers are nanoseconds; some lists are lists of YAML. The file is
etcd's if its name ends as one of YAML or JSON, or if it is no TOML.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from netstore.errors import NetstoreError, parse_problem
from netstore.ops.layers import unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_FILE_BYTES: Final = 128 << 10
"""Largest file. Reading takes about 10 us for each byte."""

_OWN_ENDS: Final = (".toml",)
_ENDS: Final = (".yaml", ".yml", ".json")

_BLOCKS: Final[Mapping[str, Mapping[str, str]]] = {
    "client-transport-security": {
        "allowed-cn": "client-cert-allowed-cn",
        "allowed-hostname": "client-cert-allowed-hostname",
        "skip-client-san-verification": "peer-skip-client-san-verification",
    },
    "peer-transport-security": {
        "allowed-cn": "peer-cert-allowed-cn",
        "allowed-hostname": "peer-cert-allowed-hostname",
    },
    "socket-options": {"reuse-address": "socket-reuse-address", "reuse-port": "socket-reuse-port"},
    "discovery-config": {"endpoints": "discovery-endpoints", "token": "discovery-token"},
}
"""Block -> keys in it whose flags have other names."""

_PREFIXES: Final = {
    "peer-transport-security": "peer-",
    "socket-options": "socket-",
    "discovery-config": "discovery-",
}
"""Block -> what its flags begin with, besides those of `_BLOCKS`."""

_RENAMED: Final = {"experimental-snapshot-catch-up-entries": "experimental-snapshot-catchup-entries"}
"""Keys whose flags have another name."""

_TIMES: Final = frozenset({"watch-progress-notify-interval", "experimental-watch-progress-notify-interval"})
"""Flags of settings that are times, in nanoseconds where the file has a number."""

_LARGEST: Final = (1 << 64) - 1

_KINDS: Final = {
    int: f"a number beyond {_LARGEST}",
    list: "a list",
    dict: "a mapping",
    type(None): "null",
}
"""What a value may be that is refused."""


def read_etcd_file(name: str, data: bytes) -> list[tuple[str, str]] | None:
    """The flags in a file with this content, with their values as a command line would have them; None if it
    is no file of etcd. What is null is left out. Raises NetstoreError if it is too long, or is not YAML.
    """
    path = Path(name)
    if path.suffix in _OWN_ENDS:
        return None
    is_etcds = path.suffix in _ENDS  # otherwise the reader of TOML tells what is wrong
    if len(data) > MAX_FILE_BYTES:
        if is_etcds:
            raise unreadable(name, f"is longer than {MAX_FILE_BYTES} bytes")
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        if is_etcds:
            raise NetstoreError(f"cannot read the configuration file {name!r} as UTF-8 text") from None
        return None
    if not is_etcds and _is_toml(text):
        return None
    document = _parse(name, text)
    if not isinstance(document, dict):
        if not is_etcds:
            return None
        raise NetstoreError(f"{name!r} has no keys: write lines as name: infra0")
    return list(_flags(name, document))


def _is_toml(text: str) -> bool:
    import tomli  # noqa: PLC0415 - only to tell the two apart

    try:
        tomli.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parse(name: str, text: str) -> object:
    import yaml  # noqa: PLC0415 - takes 20 ms, and most starts have no such file

    from netstore.ops.yaml_loader import Loader  # noqa: PLC0415 - same

    try:
        return yaml.load(text, Loader)  # noqa: S506 - it is a safe one
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or parse_problem(error)
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise NetstoreError(f"{name!r} is not YAML{where}: {' '.join(str(problem).split())}") from None


def _flags(name: str, document: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    for key, value in _given(document):
        if key not in _BLOCKS:
            flag = _RENAMED.get(key, key)
            yield flag, _words(name, flag, value)
        elif not isinstance(value, dict):
            raise NetstoreError(f"{name}: {key} has no keys: write them below it, indented")
        else:
            for inner, each in _given(value):
                flag = _BLOCKS[key].get(inner, f"{_PREFIXES.get(key, '')}{inner}")
                yield flag, _words(name, f"{key}.{inner}", each, flag)


def _given(mapping: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """The keys in lower case, since etcd takes them in any, with their values; without those of null."""
    return ((str(key).lower(), value) for key, value in mapping.items() if value is not None)


def _words(name: str, shown: str, value: object, flag: str = "") -> str:
    """A value as a command line would have it."""
    flag = flag or shown
    if isinstance(value, list):
        return ",".join(_word(name, f"{shown}, in its list,", each, flag) for each in value)
    return _word(name, shown, value, flag)


def _word(name: str, shown: str, value: object, flag: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as 1e9
    if isinstance(value, int) and abs(value) <= _LARGEST:
        return f"{value // 1_000_000}ms" if flag in _TIMES else str(value)
    if isinstance(value, float):
        return str(value)
    kind = next(
        (words for each, words in _KINDS.items() if isinstance(value, each)), "a date, or binary data"
    )
    raise NetstoreError(f"{name}: {shown} is {kind}; give a text, a number, or a list of them")
