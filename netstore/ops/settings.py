"""How a setting is declared: a field of a frozen dataclass, made by `setting`.

The declaration is the only place that knows a setting: flag, variable, TOML key, `--help`, `--check-config`,
error texts and the test of the manual pages follow from it (`ops.layers`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack, overload

from netstore.errors import NetstoreError
from netstore.ops.kinds import Unfit

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import DataclassInstance

    from netstore.ops.kinds import Kind

T = TypeVar("T")
D = TypeVar("D")


class BadSetting(NetstoreError):  # noqa: N818 - named for what was found
    """A setting cannot be used: one line with key, source, problem and fix."""

    def __init__(self, key: str, problem: str, fix: str, source: str = "") -> None:
        self.key = key
        self.problem = problem
        self.fix = fix
        where = f" ({source})" if source else ""
        super().__init__(f"{key}{where}: {problem}; {fix}")


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
            raise BadSetting(each.name, discreet(unfit, each.metadata["secret"]), kind.fix) from None


def discreet(unfit: Unfit, secret: bool) -> str:
    """What is wrong with a value, without showing it if it is secret."""
    return "is not usable" if secret else str(unfit)


def default_words(each: Setting) -> str:
    """A setting's default as the manual and `--help` tell it."""
    if each.default_words:
        return each.default_words
    if each.default is None:
        return "not set"
    return str(each.kind.show(each.default))
