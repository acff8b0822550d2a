"""What requests of the v2 API are going to do, for the gate (`api.gate`).

A key is accessed alone or, where the request is recursive, with everything below it: two intervals. A POST
creates a node below its key. Reading a directory lists its direct children, and a write answers with the node
before it; as in etcd, neither needs more than access to the key.

Each function makes at most two accesses, and copies the path of the request a few times: O(length of the
path), which `max_header_bytes` limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.api.gate import Access, Api, Kind, Operation

if TYPE_CHECKING:
    from netstore.api.v2.form import Parameters
    from netstore.net.exchange import Request

_READS = (b"GET", b"HEAD")


def keys(request: Request, key: bytes, parameters: Parameters) -> Operation:
    """A request below `/v2/keys`."""
    method = request.method
    recursive = parameters.recursive
    if method == b"PUT":
        kind, recursive = Kind.WRITE, False
    elif method == b"POST":
        return Operation(Api.V2, _name(request), (_below(Kind.WRITE, key),), may_write=True)
    elif method == b"DELETE":
        kind = Kind.DELETE
    else:
        kind = Kind.WATCH if parameters.wait and not parameters.quorum else Kind.READ
    alone = Access(kind, key)
    accesses = (alone, _below(kind, key)) if recursive else (alone,)
    return Operation(Api.V2, _name(request), accesses, may_write=method not in _READS)


def _below(kind: Kind, key: bytes) -> Access:
    """Everything below a key: of the paths that begin with it and a slash."""
    start = key if key == b"/" else key + b"/"
    return Access(kind, start, start[:-1] + b"0")  # which follows the slash


def members(request: Request) -> Operation:
    """A request for `/v2/members` or below."""
    return Operation(Api.V2, _name(request), (Access(Kind.MEMBER),), may_write=request.method not in _READS)


def statistics(request: Request) -> Operation:
    """A request below `/v2/stats`."""
    return Operation(Api.V2, _name(request), (Access(Kind.MAINTENANCE),))


def _name(request: Request) -> bytes:
    return b"%b %b" % (request.method, request.path)
