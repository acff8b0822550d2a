"""URLs that members listen on and are reached at: `http://HOST:PORT` or `https://HOST:PORT`. Pure.

One rule says what a URL is: `read_url`, which reads those in settings. `checked_peer_urls` applies it to peer
URLs in requests to add or move a member, before they enter the log, after checks with etcd's error texts.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_PEER_URLS: Final = 16
"""Most peer URLs of one member."""

MAX_URL_CHARACTERS: Final = 512
"""Longest peer URL."""

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?:\[([^\]]*)\]|([^/:\[\]]*))(?::([^/]*))?(/.*)?")
_HOST_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.(?!-)[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
_MAX_NAME_CHARACTERS: Final = 253

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_AUTHORITY: Final = re.compile(r"//([^/?#]*)")
_HOST_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:]+):([0-9]+)")
_NOT_IN_HOST: Final = re.compile(r"[\s\"<>\\^`{|}]")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}")


class BadUrl(ValueError):  # noqa: N818 - named for what was found
    """Not a usable URL. The text is the problem alone, without the URL, as "has no usable host"."""


class BadPeerUrl(ValueError):  # noqa: N818 - named for what was found
    """Not the URL of a member. The text is complete: etcd's own where etcd refuses the same URL."""


class Url(NamedTuple):
    """An address to listen on or to be reached at. `str()` gives its normal form, without a path."""

    scheme: str
    host: str
    """A name or an address; an IPv6 address without its brackets."""
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def is_address(self) -> bool:
        """The host is an IP address, not a name."""
        return _address(self.host) is not None

    @property
    def is_loopback(self) -> bool:
        """Only this machine can reach it."""
        address = _address(self.host)
        return address.is_loopback if address else self.host == "localhost"

    @property
    def is_wildcard(self) -> bool:
        """It stands for every address of this machine, so it cannot be advertised."""
        address = _address(self.host)
        return address is not None and address.is_unspecified


def read_url(text: str) -> Url:
    """Parse `http://host:port` or `https://host:port`; the port is required. Raises `BadUrl`."""
    match = _URL.fullmatch(text)
    if match is None:
        raise BadUrl("is not a URL")
    scheme, bracketed, plain, port, path = match.groups()
    if scheme.lower() not in ("http", "https"):
        raise BadUrl("has a scheme other than http and https")
    if path not in (None, "/"):
        raise BadUrl("has a path")
    if not port or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise BadUrl("has no port from 0 to 65535")
    host = bracketed if plain is None else plain
    address = _address(host)
    if bracketed is not None and ("%" in host or address is None or address.version != 6):
        raise BadUrl("has no IPv6 address between its brackets")
    if address is None and (
        len(host) > _MAX_NAME_CHARACTERS or not _HOST_NAME.fullmatch(host) or re.fullmatch(r"[0-9.]+", host)
    ):
        raise BadUrl("has no usable host")
    return Url(scheme.lower(), host, int(port))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def checked_peer_urls(texts: Iterable[str]) -> tuple[str, ...]:
    """The peer URLs of one member, stripped of blanks, sorted, without duplicates. Raises `BadPeerUrl`.

    What etcd refuses is refused in its words; besides, port 0 and whatever `read_url` refuses, since a member
    could not be configured with that URL. Every request that brings peer URLs into the log goes through here.
    """
    urls = sorted({text.strip() for text in texts})
    if not urls:
        raise BadPeerUrl("no valid URLs given")
    if len(urls) > MAX_PEER_URLS:
        raise BadPeerUrl(f"{len(urls)} URLs given, a member has at most {MAX_PEER_URLS}")
    for url in urls:
        _check(url)
    return tuple(urls)


def _check(url: str) -> None:
    if len(url) > MAX_URL_CHARACTERS:
        raise BadPeerUrl(f"URL is longer than {MAX_URL_CHARACTERS} characters: {url[:40]}...")
    if not url.isprintable():
        raise BadPeerUrl(f"parse {_quoted(url)}: net/url: invalid control character in URL")
    escape = _BAD_ESCAPE.search(url)
    if escape is not None:
        raise BadPeerUrl(f"parse {_quoted(url)}: invalid URL escape {_quoted(escape[0])}")
    scheme = _SCHEME.match(url)
    if scheme is None and url.startswith(":"):
        raise BadPeerUrl(f"parse {_quoted(url)}: missing protocol scheme")
    if scheme is None and ":" in url.split("/", 1)[0]:
        raise BadPeerUrl(f"parse {_quoted(url)}: first path segment in URL cannot contain colon")
    if scheme is None or scheme[1].lower() not in ("http", "https", "unix", "unixs"):
        raise BadPeerUrl(f"URL scheme must be http, https, unix, or unixs: {url}")
    authority = _AUTHORITY.match(url, scheme.end())
    address = authority[1] if authority else ""
    strange = _NOT_IN_HOST.search(address)
    if strange is not None:
        raise BadPeerUrl(f"parse {_quoted(url)}: invalid character {_quoted(strange[0])} in host name")
    end = address.rpartition(":")[2]
    if ":" in address and "]" not in end and not (end.isascii() and end.isdigit()):
        raise BadPeerUrl(f"parse {_quoted(url)}: invalid port {_quoted(':' + end)} after host")
    _check_address(url, scheme[1].lower(), address, url[authority.end() :] if authority else "")


def _check_address(url: str, scheme: str, address: str, rest: str) -> None:
    host_port = _HOST_PORT.fullmatch(address)
    if ":" not in address or address.endswith("]"):
        raise BadPeerUrl(f'URL address does not have the form "host:port": {url}')
    if rest.startswith("/"):
        raise BadPeerUrl(f"URL must not contain a path: {url}")
    if scheme.startswith("unix"):
        raise BadPeerUrl(f"members are reached over TCP only: {url}")
    if rest or "@" in address:
        raise BadPeerUrl(f"URL must have scheme, host and port only: {url}")
    if host_port is None or not 0 < int(host_port[2]) < 1 << 16:
        raise BadPeerUrl(f'URL address does not have the form "host:port": {url}')
    try:
        read_url(url)
    except BadUrl as bad:
        raise BadPeerUrl(f"peerURLs: {url} {bad}: write http://HOST:PORT") from None


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in escaped) + '"'
