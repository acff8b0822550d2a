"""The URLs at which peers reach a member: checked before they go into the log, in etcd's words. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_PEER_URLS: Final = 16
"""URLs of one member; more are a mistake."""

MAX_URL_CHARACTERS: Final = 512

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_AUTHORITY: Final = re.compile(r"//([^/?#]*)")
_HOST_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:]+):([0-9]+)")
_NOT_IN_HOST: Final = re.compile(r"[\s\"<>\\^`{|}]")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}")


class BadPeerUrl(ValueError):  # noqa: N818 - named for what was found
    """Not the URL of a member; the text is what etcd says of it, where etcd says anything."""


def checked(texts: Iterable[str]) -> tuple[str, ...]:
    """The URLs without blanks around them, sorted and each once; BadPeerUrl for the first that is none.

    More is refused than etcd refuses: what no member can be reached at, or what is no address. Every entrance
    by which URLs come into the log calls this.
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
    _check_host(url, host_port[1])


def _check_host(url: str, host: str) -> None:
    """What splits URLs and what looks names up must take it. A name is written as DNS has it: in ASCII, with
    labels of 1 to 63 characters (RFC 5891 says how names in other scripts are written so).
    """
    fits = host.isascii()
    try:
        if host.startswith("["):
            ipaddress.IPv6Address(host[1:-1])
        host.encode("idna")
        fits &= urlsplit(url).port is not None
    except ValueError:
        fits = False
    if not fits:
        raise BadPeerUrl(
            f"peerURLs: {url}: {_quoted(host)} is neither a host name nor an IP address: write http://HOST:PORT"
        )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in escaped) + '"'
