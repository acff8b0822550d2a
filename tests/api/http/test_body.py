"""JSON bodies, and what is said of other ones."""

from __future__ import annotations

import pytest

from netstore.api.http.body import JSON_LIMIT_BYTES, BadBody, go_kind, json_body
from netstore.net.exchange import Request
from tests.support.local_member import RecordedExchange

JSON = b"application/json"


def read(body: bytes, content_type: bytes | None = JSON, *, too_large: bool = False) -> dict[str, object]:
    request = Request(b"POST", b"/x", b"", body, content_type)
    request.too_large = too_large
    return json_body(RecordedExchange(request))


def test_an_object_has_its_keys_in_lower_case() -> None:
    assert read(b'{"PeerURLs": ["a"], "peerurls": 1, "x": null}') == {"peerurls": 1, "x": None}
    assert read(b"null") == {}
    assert read(b"{}", b"Application/JSON; charset=utf-8") == {}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b" \n", 400),
        (b"{", 400),
        (b"[1]", 400),
        (b'"a"', 400),
        (b'{"a": "\xff"}', 400),
        (b"[" * 10_000, 400),
        (b" " * (JSON_LIMIT_BYTES + 1), 413),
    ],
)
def test_anything_else_is_refused(body: bytes, status: int) -> None:
    with pytest.raises(BadBody) as refused:
        read(body)
    assert refused.value.status == status
    assert str(refused.value)


def test_a_body_that_the_connection_did_not_take_is_too_large() -> None:
    with pytest.raises(BadBody, match=f"more than {JSON_LIMIT_BYTES} bytes") as refused:
        read(b"", too_large=True)
    assert refused.value.status == 413


@pytest.mark.parametrize("content_type", [None, b"", b"text/plain", b"Application/JSON"])
def test_the_content_type_is_required(content_type: bytes | None) -> None:
    with pytest.raises(BadBody, match="accept application/json") as refused:
        read(b"{}", content_type)
    assert refused.value.status == 415


@pytest.mark.parametrize(
    ("value", "kind"),
    [(True, "bool"), ("a", "string"), (1, "number"), (1.5, "number"), ([], "array"), ({}, "object")],
)
def test_types_have_the_names_of_go(value: object, kind: str) -> None:
    assert go_kind(value) == kind
