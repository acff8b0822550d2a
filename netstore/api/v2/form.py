"""The parameters of a keys request: form and query syntax, then their values in etcd's order (v2 API, section
3).

The order of the checks is part of the protocol: with two bad parameters the client is told of the first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.api.v2.percent import BadEscapeError, decode
from netstore.errors import Fault

if TYPE_CHECKING:
    from netstore.net.exchange import Request

FORM_LIMIT_BYTES: Final = 10 * 1024 * 1024
"""Longest form body; etcd's, fixed in its HTTP library."""

MAX_PAIRS: Final = 1000
"""Names with values in a form or query. The API knows fourteen; a body could hold five million, which take
two seconds to read.
"""

CONTENT_TYPE_BYTES: Final = 1024
"""Longest content type that is read."""

_UINT64_MAX: Final = 2**64 - 1
_UINT64_DIGITS: Final = 20
_BOOLEANS: Final = {
    **dict.fromkeys((b"1", b"t", b"T", b"TRUE", b"true", b"True"), True),
    **dict.fromkeys((b"0", b"f", b"F", b"FALSE", b"false", b"False"), False),
}
_FORM_TYPE: Final = b"application/x-www-form-urlencoded"
_TO_DECODE: Final = (b"%", b"+", b"&", b";")

Form = dict[bytes, bytes]
"""The first value of each name."""


class Parameters(msgspec.Struct, frozen=True, gc=False):
    """What a keys request asks for.

    `ttl` and `prev_exist` None are "not given", which is not the same as 0 and false.
    """

    value: bytes = b""
    ttl: int | None = None
    dir: bool = False
    prev_exist: bool | None = None
    prev_index: int = 0
    prev_value: bytes = b""
    refresh: bool = False
    no_value: bool = False
    recursive: bool = False
    sorted: bool = False
    quorum: bool = False
    wait: bool = False
    wait_index: int = 0
    stream: bool = False


NONE_GIVEN: Final = Parameters()


def parameters_of(request: Request) -> Parameters:
    """What the request asks for; raises the Fault of the first parameter that is wrong."""
    if request.method not in (b"PUT", b"POST"):
        return read_parameters(parse_form(request.query), request.method)
    body, query = request.body, request.query
    if request.too_large:
        raise _bad_form(b"http: POST too large")
    if not _is_form(request.content_type):
        body = b""
    elif len(body) > FORM_LIMIT_BYTES:
        raise _bad_form(b"http: POST too large")
    if not query and body.startswith(b"value="):
        for sign in _TO_DECODE:
            if sign in body:
                break
        else:
            return Parameters(body[6:])
    form = parse_form(body)
    if query:
        for name, value in parse_form(query).items():
            form.setdefault(name, value)
    return read_parameters(form, request.method)


def parse_form(data: bytes) -> Form:
    """The pairs of a form or query, decoded; raises Fault 210 for a malformed escape, a semicolon, or more
    than `MAX_PAIRS`.
    """
    if data.count(b"&") >= MAX_PAIRS:
        raise _bad_form(b"more than %d parameters" % MAX_PAIRS)
    if b";" in data:
        raise _bad_form(b"invalid semicolon separator in query")
    form: Form = {}
    try:
        for pair in data.split(b"&"):
            if pair:
                name, _, value = pair.partition(b"=")
                form.setdefault(_decode(name), _decode(value))
    except BadEscapeError as bad:
        raise _bad_form(b"invalid URL escape " + go_quote(bad.escape)) from None
    return form


def read_parameters(form: Form, method: bytes) -> Parameters:
    """Check the values in etcd's order; raises the Fault of the first that is wrong."""
    if not form:
        return NONE_GIVEN
    prev_index = _number(form, b"prevIndex", 203)
    wait_index = _number(form, b"waitIndex", 203)
    recursive = _flag(form, b"recursive")
    sort = _flag(form, b"sorted")
    wait = _flag(form, b"wait")
    directory = _flag(form, b"dir")
    quorum = _flag(form, b"quorum")
    stream = _flag(form, b"stream")
    if wait and method != b"GET":
        raise Fault(209, b'"wait" can only be used with GET requests')
    prev_value = form.get(b"prevValue")
    if prev_value == b"":
        raise Fault(201, b'"prevValue" cannot be empty')
    no_value = _flag(form, b"noValueOnSuccess")
    ttl = _number(form, b"ttl", 202) if form.get(b"ttl") else None
    prev_exist = _flag(form, b"prevExist", b"prevExist") if b"prevExist" in form else None
    refresh = _flag(form, b"refresh", b"refresh")
    value = form.get(b"value", b"")
    if refresh and value:
        raise Fault(211, b"A value was provided on a refresh")
    if refresh and ttl is None:
        raise Fault(212, b"No TTL value set")
    return Parameters(
        value=value,
        ttl=ttl,
        dir=directory,
        prev_exist=prev_exist,
        prev_index=prev_index,
        prev_value=prev_value or b"",
        refresh=refresh,
        no_value=no_value,
        recursive=recursive,
        sorted=sort,
        quorum=quorum,
        wait=wait,
        wait_index=wait_index,
        stream=stream,
    )


def _flag(form: Form, name: bytes, shown: bytes | None = None) -> bool:
    text = form.get(name)
    if text is None:
        return False
    flag = _BOOLEANS.get(text)
    if flag is None:
        raise Fault(209, b"invalid value for " + (shown or b'"%b"' % name))
    return flag


def _number(form: Form, name: bytes, code: int) -> int:
    text = form.get(name)
    if text is None:
        return 0
    # The length is checked first: Python refuses to convert numbers of thousands of digits.
    if (
        text.isdigit()
        and len(text.lstrip(b"0")) <= _UINT64_DIGITS
        and (number := int(text[-_UINT64_DIGITS:])) <= _UINT64_MAX
    ):
        return number
    raise Fault(code, b'invalid value for "%b"' % name)


def _decode(text: bytes) -> bytes:
    if b"+" in text:
        text = text.replace(b"+", b" ")
    return decode(text)


def _bad_form(cause: bytes) -> Fault:
    return Fault(210, cause)


# The content type, with the texts of the library etcd uses (RFC 2045, section 5.1, and RFC 2616 tokens).

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_SPACE: Final = rb"[\t\n\v\f\r \x85\xa0]*"
_PARAMETER: Final = re.compile(
    _SPACE + rb";" + _SPACE + rb"(" + _TOKEN + rb")" + _SPACE + rb"=" + _SPACE
    + rb"(?:(" + _TOKEN + rb')|"((?:[^"\\\r\n]|\\[^\r\n])*)")'
)  # fmt: skip
_TYPE: Final = re.compile(rb"(" + _TOKEN + rb")?(/)?(" + _TOKEN + rb")?")


def _is_form(content_type: bytes | None) -> bool:
    """Whether the body is a form; raises Fault 210 when the type cannot be parsed. None given: it is not."""
    if content_type == _FORM_TYPE:
        return True
    if not content_type:
        return False
    if len(content_type) > CONTENT_TYPE_BYTES:
        raise _bad_form(b"mime: invalid media parameter")
    kind, _, _ = content_type.partition(b";")
    name = kind.strip().lower()
    if text := _type_error(name):
        raise _bad_form(text)
    at = len(kind)
    seen: dict[bytes, bytes] = {}
    while found := _PARAMETER.match(content_type, at):
        key, value = found[1].lower(), found[2] or found[3] or b""
        if seen.setdefault(key, value) != value:
            raise _bad_form(b"mime: duplicate parameter name")
        at = found.end()
    if content_type[at:].strip() not in (b"", b";"):
        raise _bad_form(b"mime: invalid media parameter")
    return name == _FORM_TYPE


def _type_error(name: bytes) -> bytes | None:
    found = _TYPE.match(name)
    kind, slash, subtype = found.groups() if found else (None, None, None)
    if kind is None:
        return b"mime: no media type"
    if slash is None:
        return None if len(name) == len(kind) else b"mime: expected slash after first token"
    if subtype is None:
        return b"mime: expected token after slash"
    return None if found and found.end() == len(name) else b"mime: unexpected content after media subtype"


_SHORT_ESCAPES: Final = {
    '"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f",
    "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
}  # fmt: skip


def go_quote(data: bytes) -> bytes:
    """Bytes in double quotes as Go's `%q` shows them, for the causes that quote a client's own bytes."""
    shown = []
    for character in data.decode("utf-8", "surrogateescape"):
        code = ord(character)
        if character in _SHORT_ESCAPES:
            shown.append(_SHORT_ESCAPES[character])
        elif 0xDC80 <= code <= 0xDCFF:
            shown.append(f"\\x{code - 0xDC00:02x}")
        elif character.isprintable():
            shown.append(character)
        elif code < 0x20 or code == 0x7F:
            shown.append(f"\\x{code:02x}")
        else:
            shown.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return b'"%b"' % "".join(shown).encode()
