"""Types that several packages share: identities, positions, and the values they exchange.

Identities are unsigned 64-bit numbers, except lease ids; positions count from 1, and 0 means none.
"""

from __future__ import annotations

from typing import NewType

import msgspec

NodeId = NewType("NodeId", int)
"""A member of the cluster; written as lower-case hexadecimal without padding."""

ClusterId = NewType("ClusterId", int)

Term = NewType("Term", int)
"""A Raft term (Ongaro's dissertation, section 3.3)."""

Index = NewType("Index", int)
"""A place in the Raft log; what the v2 API shows as `X-Raft-Index`."""

EtcdIndex = NewType("EtcdIndex", int)
"""A place in the history of the v2 tree (`X-Etcd-Index`, `modifiedIndex`). Not the Raft index."""

Revision = NewType("Revision", int)
"""A place in the history of the v3 keys (v3 API, ResponseHeader); a new store is at 1."""

LeaseId = NewType("LeaseId", int)
"""A lease of the v3 API: a signed 64-bit number, 0 means none."""

Nanos = NewType("Nanos", int)
"""An instant of wall time in nanoseconds from 1970-01-01 UTC."""


class NodeView(msgspec.Struct, frozen=True, gc=False):
    """A node of the v2 tree at one moment. `nodes` is None unless this is a listed directory.

    `key` is the user's path ("/" for the root) and `value` the raw bytes, neither necessarily UTF-8.
    `expires` is an instant of wall time, 0 for a permanent node; the remaining TTL is computed when the view
    is rendered.
    """

    key: bytes
    created: EtcdIndex
    modified: EtcdIndex
    value: bytes | None = None
    dir: bool = False
    expires: Nanos = Nanos(0)
    nodes: tuple[NodeView, ...] | None = None


class Event(msgspec.Struct, frozen=True, gc=False):
    """One successful change of the v2 tree, or the answer to a read (action `get`).

    `index` is the store's index after it (for a read: the current one). `removed` lists the paths of the
    nodes removed with a directory, itself excluded, that had live watchers; `refresh` marks a change that is
    sent to no watcher. `internal` marks a change of the cluster's own data (members, version): it takes an
    index and a place in the window, and is never shown to users.
    """

    action: str
    index: EtcdIndex
    node: NodeView
    prev: NodeView | None = None
    removed: tuple[bytes, ...] = ()
    refresh: bool = False
    internal: bool = False

    @property
    def size(self) -> int:
        """Bytes of its key and of its values, before and after."""
        size = len(self.node.key) + len(self.node.value or b"")
        return size if self.prev is None else size + len(self.prev.value or b"")


class KeyChange(msgspec.Struct, frozen=True, gc=False):
    """One change of one v3 key. `pair` is its encoded `mvccpb.KeyValue`, for a deletion with only key and
    mod_revision. `before` is the place of the pair before the change (`Source.pair`), 0 if there was none.
    """

    key: bytes
    revision: Revision
    pair: bytes
    deleted: bool
    before: int
