"""Kinds of settings that hold URLs: to listen on, to be reached at, and those of the members of a cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from netstore.ops.kinds import BadValue, Several, Text, quoted
from netstore.urls import BadUrl, Url, read_url

if TYPE_CHECKING:
    from collections.abc import Sequence


class InitialMember(NamedTuple):
    """A member that the cluster starts with, and its peer URLs."""

    name: str
    peer_urls: tuple[Url, ...]


class Alone(tuple[InitialMember, ...]):
    """The initial cluster of a member whose settings name none: itself."""

    __slots__ = ()


def _read_url(text: str) -> Url:
    try:
        return read_url(text)
    except BadUrl as bad:
        raise BadValue(f"{quoted(text)} {bad}") from None


def _read_listener(text: str) -> Url:
    url = _read_url(text)
    if url.host != "localhost" and not url.is_address:
        raise BadValue(f"{quoted(text)} names a host; a listener needs an address of this machine")
    return url


def _read_target(text: str) -> Url:
    url = _read_url(text)
    if url.port == 0:
        raise BadValue(f"{quoted(text)} has port 0, where nobody can be reached")
    return url


_FIX: Final = "give http://ADDRESS:PORT or https://ADDRESS:PORT, several separated by commas"

LISTENERS: Final = Several(_read_listener, _FIX, "URL,...", low=1, high=16)
"""Addresses of this machine; port 0 takes a free one."""

OPTIONAL_LISTENERS: Final = Several(_read_listener, _FIX, "URL,...", high=16)
"""The same; the list may be empty."""

TARGETS: Final = Several(_read_target, _FIX, "URL,...", low=1, high=16)
"""URLs to connect to."""

OPTIONAL_TARGETS: Final = Several(_read_target, _FIX, "URL,...", high=16)
"""The same; the list may be empty."""

MEMBER_NAME: Final = Text(
    "give 1 to 128 characters without spaces, commas and equals signs", r"[^\s,=]{1,128}"
)


def _read_pair(text: str) -> tuple[str, Url]:
    name, equals, url = text.partition("=")
    if not equals or not re.fullmatch(MEMBER_NAME.pattern, name):
        raise BadValue(f"{quoted(text)} is not NAME=URL")
    return name, _read_target(url)


_PAIRS: Final = Several(
    _read_pair, "give NAME=URL", write=lambda pair: f"{pair[0]}={pair[1]}", high=128, sparse=True, once=True
)


@dataclass(frozen=True, slots=True)
class Members:
    """A `Kind`: etcd's `name=url,name=url`, where a name given again adds a URL. In TOML also an array of
    such pairs.
    """

    fix: str = "give each member as NAME=http://HOST:PORT, separated by commas"
    placeholder: str = "NAME=URL,..."

    def read(self, value: object) -> tuple[InitialMember, ...]:
        return _gather(_PAIRS.read(value))

    def read_words(self, words: Sequence[str]) -> tuple[InitialMember, ...]:
        return _gather(_PAIRS.read_words(words))

    def check(self, value: tuple[InitialMember, ...]) -> None:
        if not value:
            raise BadValue("is empty")

    def show(self, value: tuple[InitialMember, ...]) -> str:
        return _PAIRS.show(tuple((member.name, url) for member in value for url in member.peer_urls))


def _gather(pairs: Sequence[tuple[str, Url]]) -> tuple[InitialMember, ...]:
    urls: dict[str, list[Url]] = {}
    for name, url in pairs:
        if any(url in others for others in urls.values()):
            raise BadValue(f"gives {quoted(str(url))} to two members")
        urls.setdefault(name, []).append(url)
    return tuple(InitialMember(name, tuple(each)) for name, each in urls.items())
