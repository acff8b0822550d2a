"""How a setting is declared: a field of a frozen dataclass, made by `setting`.

The declaration is the only place that knows a setting: flag, variable, TOML key, `--help`, `--check-config`,
error texts and the test of the manual pages follow from it (`ops.layers`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack, overload

from netstore.errors import NetstoreError
from netstore.ops.kinds import BadValue

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import DataclassInstance

    from netstore.ops.kinds import Kind

T = TypeVar("T")
D = TypeVar("D")


class BadSetting(NetstoreError):  # noqa: N818 - named for what was found
    """A setting that cannot be used. The text is one line: key, source, problem and fix."""

    def __init__(self, key: str, problem: str, fix: str, source: str = "") -> None:
        self.key = key
        self.problem = problem
        self.fix = fix
        where = f" ({source})" if source else ""
        super().__init__(f"{key}{where}: {problem}; {fix}")


@dataclass(frozen=True, slots=True)
class Setting:
    """One declared setting, with its names in all layers."""

    key: str
    kind: Kind[Any]
    about: str
    flags: tuple[str, ...]
    """Names without dashes; first the one derived from the key."""
    variables: tuple[str, ...]
    """Names in the environment, in order of precedence; first the one derived from the key."""
    default_words: str
    """Describes a default that is computed; empty if `default` is the value."""
    default: object
    secret: bool
    """The value is never shown, neither by `--check-config` nor in an error text."""
    needs: tuple[str, ...]
    """Keys of settings, without one of which this one has no effect."""
    is_place: bool
    """It says where data is: an empty flag does not take back an earlier value."""
    table: str
    """Its table in the TOML file."""
    name: str
    """Its key in that table."""


class Names(TypedDict, total=False):
    """Optional parts of a declaration."""

    flags: tuple[str, ...]
    """Further flag names."""
    variables: tuple[str, ...]
    """Further names in the environment, in order of precedence."""
    default_words: str
    """Describes a default that is computed."""
    secret: bool
    """The value is never shown, neither by `--check-config` nor in an error text."""
    needs: tuple[str, ...]
    """Keys of settings, without one of which this one has no effect: then it is told, if it was given."""
    is_place: bool
    """It says where data is: an empty flag does not take back an earlier value."""
    table: str
    """Its table in the TOML file, if that is not the program's; the key there is without the table's name."""


@overload
def setting(kind: Kind[T], default: Callable[[], T], about: str, **names: Unpack[Names]) -> T: ...
@overload
def setting(kind: Kind[T], default: D, about: str, **names: Unpack[Names]) -> T | D: ...
def setting(kind: Kind[T], default: object, about: str, **names: Unpack[Names]) -> object:
    """Declare a field of a configuration: its kind, its default or a function that computes it, and one
    sentence for `--help`.
    """
    notes = {
        "kind": kind,
        "about": about,
        "flags": (),
        "variables": (),
        "default_words": "",
        "secret": False,
        "needs": (),
        "is_place": False,
        "table": "",
    }
    notes |= names
    shown = not names.get("secret", False)
    if callable(default):
        return field(default_factory=default, metadata=notes, repr=shown)
    return field(default=default, metadata=notes, repr=shown)


def check_settings(config: DataclassInstance) -> None:
    """Check the value of each setting that has one. Raises `BadSetting`. For `__post_init__`."""
    for each in fields(config):
        value = getattr(config, each.name)
        kind: Kind[Any] = each.metadata["kind"]
        if value is None:
            continue
        try:
            kind.check(value)
        except BadValue as bad:
            raise BadSetting(each.name, without_secret(bad, each.metadata["secret"]), kind.fix) from None


def without_secret(bad: BadValue, secret: bool) -> str:
    """What is wrong with a value. If it is secret, the text does not show it."""
    return "is not usable" if secret else str(bad)


def default_words(each: Setting) -> str:
    """The default of a setting as the manual pages and `--help` show it."""
    if each.default_words:
        return each.default_words
    if each.default is None:
        return "not set"
    return str(each.kind.show(each.default))
