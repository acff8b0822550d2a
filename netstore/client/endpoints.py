"""The endpoints of a client, and the order in which they are tried: pure, and loaded without httpx.

The endpoint that answered last is tried first (Go's etcd client calls it pinned), then the others in their
given order. A list is never empty and never changes; only the pin moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_ENDPOINTS: Final = 64
"""More than any cluster has members; a longer list is a configuration error."""


class BadEndpoint(NetstoreError):  # noqa: N818 - named for what was found
    """An endpoint that cannot be used; the text says which, and how to write it."""


def parse_endpoint(text: str) -> str:
    """One endpoint as `scheme://host:port`, without a trailing slash.

    A bare `host:port` means http, and a missing port 2379. Refuses other schemes, a path, a query and user
    names.
    """
    given = text.strip()
    url = given if "://" in given else f"http://{given}"
    try:
        parts = urlsplit(url)
        port = parts.port or 2379
    except ValueError as error:
        raise BadEndpoint(f"endpoint {given!r}: {error}; write it as http://host:2379") from None
    if parts.scheme not in ("http", "https"):
        raise BadEndpoint(f"endpoint {given!r}: scheme {parts.scheme!r} is not http or https")
    if not parts.hostname:
        raise BadEndpoint(f"endpoint {given!r}: no host; write it as http://host:2379")
    if parts.username is not None:
        raise BadEndpoint(f"endpoint {given!r}: give the user name and password apart, not in the address")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise BadEndpoint(
            f"endpoint {given!r}: only scheme, host and port; leave out {parts.path!r} and what follows"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def parse_endpoints(given: str | Iterable[str]) -> tuple[str, ...]:
    """Endpoints from a comma-separated text or a sequence of such texts, in order, without repeats."""
    texts = [given] if isinstance(given, str) else list(given)
    words = [word for text in texts for word in text.split(",") if word.strip()]
    found = tuple(dict.fromkeys(parse_endpoint(word) for word in words))
    if not found:
        raise BadEndpoint("no endpoint given; name at least one, such as http://127.0.0.1:2379")
    if len(found) > MAX_ENDPOINTS:
        raise BadEndpoint(f"{len(found)} endpoints given; at most {MAX_ENDPOINTS} are of use")
    return found


class Endpoints:
    """A fixed list with a pin. `shuffle` is called once, so that many clients with the same list use
    different members.
    """

    def __init__(
        self, given: str | Iterable[str], shuffle: Callable[[list[str]], None] | None = None
    ) -> None:
        order = list(parse_endpoints(given))
        if shuffle is not None:
            shuffle(order)
        self._order = order
        self._pinned = 0

    def __repr__(self) -> str:
        return f"Endpoints({', '.join(self.order())})"

    def order(self) -> list[str]:
        """All endpoints, the pinned one first."""
        return self._order[self._pinned :] + self._order[: self._pinned]

    def pin(self, endpoint: str) -> None:
        """Try this one first from now on: it has just answered."""
        self._pinned = self._order.index(endpoint)

    def avoid(self, endpoint: str) -> None:
        """Try it last from now on, if it is the pinned one: it cannot be reached, or does not serve."""
        if self._order[self._pinned] == endpoint:
            self._pinned = (self._pinned + 1) % len(self._order)

    def uses_tls(self) -> bool:
        """Whether any endpoint is https."""
        return any(endpoint.startswith("https:") for endpoint in self._order)
