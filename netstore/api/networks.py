"""Checks network configs before they are written, in both APIs and for every client (`network.check`).

The keys that are checked are `PREFIX/config` of the known prefixes. Whoever handles a write of another key
compares the key, and no more. The check is made by the member that took the request, against the plugins that
it has applied. If it knows none of the config's Type, it first applies all that was acknowledged anywhere (a
linearizable read), so that a config can be written right after its plugin was admitted by another member. A
write that a retirement after it would have refused stands (contrib/doc/adr/0010-plugin-store.md).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from netstore.errors import INVALID_FIELD, Fault
from netstore.network.check import MAX_CHECKED_BYTES, UnknownType, begin, finish
from netstore.network.config import NetworkConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from netstore.api.beside import Beside
    from netstore.network.check import Verdict
    from netstore.network.plugins import Plugin
    from netstore.seams import Clock, Log

    Done = Callable[[Fault | None], None]

CONFIG: Final = b"/config"
"""The end of every key that is checked."""

MAX_WRITTEN_BYTES: Final = 2 * MAX_CHECKED_BYTES
"""Of all documents that one request writes."""

WARNING_SECONDS: Final = 1.0
"""The warnings about at most one write in this time are logged."""

MOST_WARNINGS: Final = 8
"""Warnings about one document that are logged."""


class NetworkWrites:
    """Checks the values of writes to the config keys of networks. Plain calls on the loop."""

    def __init__(
        self,
        prefixes: Sequence[str],
        admitted: Callable[[], Mapping[str, Plugin]],
        beside: Beside,
        clock: Clock,
        log: Log,
        *,
        read: Callable[[Done], None],
    ) -> None:
        """`prefixes` are those of the networks; none: nothing is checked. `admitted` gives the plugins by
        name. Schemas are checked `beside` the loop. `read` is that of a `Member`.
        """
        self.keys: frozenset[bytes] = frozenset(prefix.encode() + CONFIG for prefix in prefixes)
        """The keys whose values are to be checked."""
        self._admitted = admitted
        self._beside = beside
        self._clock = clock
        self._log = log
        self._read = read
        self._warned_at = float("-inf")
        self._unlogged = 0

    def check(self, writes: Sequence[tuple[bytes, bytes]], done: Done) -> None:
        """Check values that are to be written to keys of `keys`; `done` gets None if they may be, or the
        Fault to refuse the request with. It is called before this returns, unless a Type is not known here,
        which is read about, or a value has to be checked against the schema of an admitted plugin, which
        happens in a process of its own.
        """
        if sum(len(value) for _, value in writes) > MAX_WRITTEN_BYTES:
            done(
                _refusal(
                    NetworkConfigError("document", "too long", f"write {MAX_WRITTEN_BYTES} bytes at most")
                )
            )
            return
        try:
            self._begin(writes, done)
        except UnknownType:
            self._read(partial(self._begin_again, writes, done))
        except NetworkConfigError as error:
            done(_refusal(error))

    def _begin_again(self, writes: Sequence[tuple[bytes, bytes]], done: Done, fault: Fault | None) -> None:
        if fault is not None:
            done(fault)
            return
        try:
            self._begin(writes, done)
        except NetworkConfigError as error:
            done(_refusal(error))

    def _begin(self, writes: Sequence[tuple[bytes, bytes]], done: Done) -> None:
        """Check what needs no schema; NetworkConfigError before `done` is called."""
        admitted = self._admitted()
        verdicts = [(key, begin(value, admitted)) for key, value in writes]
        pending: list[Verdict] = []
        for key, verdict in verdicts:
            if verdict.warnings:
                self._warn(key, verdict.warnings)
            if verdict.plugin is not None:
                pending.append(verdict)
        if pending:
            self._beside.run(partial(_finish, pending), done)
        else:
            done(None)

    def _warn(self, key: bytes, warnings: Sequence[str]) -> None:
        now = self._clock.monotonic()
        if now - self._warned_at < WARNING_SECONDS:
            self._unlogged += 1
            return
        self._warned_at = now
        self._log.warning(
            "network_config_warning",
            config=key.decode("utf-8", "replace"),
            warnings="; ".join(warnings[:MOST_WARNINGS]),
            not_logged=self._unlogged,
        )
        self._unlogged = 0


def _finish(pending: Sequence[Verdict]) -> Fault | None:
    try:
        for verdict in pending:
            finish(verdict)
    except NetworkConfigError as error:
        return _refusal(error)
    return None


def _refusal(error: NetworkConfigError) -> Fault:
    return Fault(INVALID_FIELD, f"network config: {error}".encode())
