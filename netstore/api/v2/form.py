"""The parameters of a keys request: form and query syntax, then their values in etcd's order (v2 API, section
3).

The order of the checks is part of the protocol: of two bad parameters the first is reported.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from netstore.api.http.percent import BadEscapeError, decode
from netstore.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Generator

    from netstore.net.exchange import Request

FORM_LIMIT_BYTES: Final = 10 * 1024 * 1024
"""Longest form body, as in etcd, where it is fixed in the HTTP library."""

MAX_PAIRS: Final = 1000
"""Most pairs in a form or query. The API has fourteen parameters; a body could hold five million, which take
two seconds to decode.
"""

PIECE_BYTES: Final = 64 * 1024
"""Bytes of a form that are decoded in one piece of work: at most 0.7 ms. A longer one is decoded in pieces.
"""

PAIR_WORK: Final = 128
"""Work of a pair, besides that of its bytes."""

_PLAIN: Final = 8
"""This many bytes that only have to be searched are as much work as one byte that is decoded."""

LONGEST_NAME: Final = 16
"""Bytes of the longest parameter name. Longer names of a form that is decoded in pieces are dropped."""

CONTENT_TYPE_BYTES: Final = 1024
"""Longest content type that is parsed."""

_UINT64_MAX: Final = 2**64 - 1
_UINT64_DIGITS: Final = 20
_ZEROS: Final = b"0" * 4096
_LONGEST_BOOLEAN: Final = 5
_PERCENT: Final = ord("%")
_BOOLEANS: Final = {
    **dict.fromkeys((b"1", b"t", b"T", b"TRUE", b"true", b"True"), True),
    **dict.fromkeys((b"0", b"f", b"F", b"FALSE", b"false", b"False"), False),
}
_WITH_FORM: Final = (b"PUT", b"POST")
_FORM_TYPE: Final = b"application/x-www-form-urlencoded"
_TO_DECODE: Final = (b"%", b"+", b"&", b";")
_find_to_decode: Final = re.compile(rb"[%+&;]").search
_SHORT_BYTES: Final = 1024
"""In a form of up to this size these bytes are searched with one pattern; in a longer one, one by one is
faster.
"""

Form = dict[bytes, bytes]
"""The first value of each name."""


class Parameters(msgspec.Struct, frozen=True, gc=False):
    """The parameters of a keys request. `ttl` and `prev_exist` are None if not given, which is not the same
    as 0 and false.
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
    """The parameters of a request; raises the Fault of the first that is wrong."""
    if request.method not in _WITH_FORM:
        return read_parameters(parse_form(request.query), request.method)
    body = request.body
    if (
        len(body) <= _SHORT_BYTES
        and body.startswith(b"value=")
        and request.content_type == _FORM_TYPE
        and not request.query
        and not _find_to_decode(body)
    ):
        return Parameters(body[6:])  # most writes; the same as below, without the calls
    body = _form_of(request)
    alone = _lone_value(body, request.query)
    return _with_query(parse_form(body), request) if alone is None else alone


def parameters_in_pieces(request: Request) -> Generator[int, None, Parameters]:
    """`parameters_of` in pieces of bounded work; yields the work of each piece, which is 1 for a byte that is
    decoded. A form of nothing but a value without escapes is recognized in the first piece, which takes 2 ms
    for the longest.
    """
    if request.method not in _WITH_FORM:
        return parameters_of(request)
    body = _form_of(request)
    alone = _lone_value(body, request.query)
    if alone is not None:
        return alone
    form = yield from _form_in_pieces(body)
    yield PIECE_BYTES
    return _with_query(form, request)


def _form_of(request: Request) -> bytes:
    """The form in the body; empty if the body is something else."""
    if request.too_large:
        raise _bad_form(b"http: POST too large")
    if request.content_type != _FORM_TYPE and not _is_form(request.content_type):
        return b""
    if len(request.body) > FORM_LIMIT_BYTES:
        raise _bad_form(b"http: POST too large")
    return request.body


def _lone_value(body: bytes, query: bytes) -> Parameters | None:
    """The parameters, if the form is nothing but a value without escapes."""
    if query or not body.startswith(b"value="):
        return None
    if len(body) <= _SHORT_BYTES:
        return None if _find_to_decode(body) else Parameters(body[6:])
    for sign in _TO_DECODE:
        if sign in body:
            return None
    return Parameters(body[6:])


def _with_query(form: Form, request: Request) -> Parameters:
    if request.query:
        for name, value in parse_form(request.query).items():
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


def _form_in_pieces(data: bytes) -> Generator[int, None, Form]:
    """`parse_form` in pieces, without names that are too long to be those of parameters."""
    pairs = 1
    for start in range(0, len(data), PIECE_BYTES):
        pairs += data.count(b"&", start, start + PIECE_BYTES)
        yield PIECE_BYTES // _PLAIN
    if pairs > MAX_PAIRS:
        raise _bad_form(b"more than %d parameters" % MAX_PAIRS)
    if b";" in data:
        raise _bad_form(b"invalid semicolon separator in query")
    form: Form = {}
    start = 0
    try:
        while start < len(data):
            end = data.find(b"&", start)
            end = len(data) if end < 0 else end
            equals = data.find(b"=", start, end)
            equals = end if equals < 0 else equals
            if start < end:
                yield PAIR_WORK
                name = yield from _decoded_in_pieces(data, start, equals)
                value = yield from _decoded_in_pieces(data, equals + 1, end)
                if len(name) <= LONGEST_NAME:
                    form.setdefault(name, value)
            start = end + 1
    except BadEscapeError as bad:
        raise _bad_form(b"invalid URL escape " + go_quote(bad.escape)) from None
    return form


def _decoded_in_pieces(data: bytes, start: int, stop: int) -> Generator[int, None, bytes]:
    """`_decode` of a part of the form, in pieces."""
    made = []
    while start < stop:
        end = min(start + PIECE_BYTES, stop)
        # Do not split an escape, nor the three bytes that are reported of a malformed one.
        if data[end - 1] == _PERCENT:
            end = min(end + 2, stop)
        elif data[end - 2] == _PERCENT:
            end = min(end + 1, stop)
        piece = data[start:end]
        decoded = _decode(piece)
        made.append(decoded)
        yield len(piece) // (_PLAIN if decoded is piece else 1)
        start = end
    if len(made) > 1:
        yield PIECE_BYTES  # joining up to 10 MiB is a piece of its own, and so is what the caller does
    return b"".join(made)


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
    flag = _BOOLEANS.get(text) if len(text) <= _LONGEST_BOOLEAN else None
    if flag is None:
        raise Fault(209, b"invalid value for " + (shown or b'"%b"' % name))
    return flag


def _number(form: Form, name: bytes, code: int) -> int:
    text = form.get(name)
    if text is None:
        return 0
    # The length is checked first: Python refuses to convert numbers of thousands of digits.
    last = text[-_UINT64_DIGITS:]
    if last.isdigit() and _is_zeros(text, len(text) - len(last)) and (number := int(last)) <= _UINT64_MAX:
        return number
    raise Fault(code, b'invalid value for "%b"' % name)


def _is_zeros(text: bytes, end: int) -> bool:
    """Whether all bytes before `end` are the digit 0. 0.5 ms for the longest form."""
    size = len(_ZEROS)
    return all(text.startswith(_ZEROS[: end - start], start) for start in range(0, end, size))


def _decode(text: bytes) -> bytes:
    if b"+" in text:
        text = text.replace(b"+", b" ")
    return decode(text)


def _bad_form(cause: bytes) -> Fault:
    return Fault(210, cause)


# The content type (RFC 2045, section 5.1, and RFC 2616 tokens), with the error texts of etcd's library.

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_SPACE: Final = rb"[\t\n\v\f\r \x85\xa0]*"
_PARAMETER: Final = re.compile(
    _SPACE + rb";" + _SPACE + rb"(" + _TOKEN + rb")" + _SPACE + rb"=" + _SPACE
    + rb"(?:(" + _TOKEN + rb')|"((?:[^"\\\r\n]|\\[^\r\n])*)")'
)  # fmt: skip
_TYPE: Final = re.compile(rb"(" + _TOKEN + rb")?(/)?(" + _TOKEN + rb")?")


def _is_form(content_type: bytes | None) -> bool:
    """Whether the body is a form; raises Fault 210 when the type cannot be parsed. None given: it is not."""
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
    """Bytes in double quotes as Go's `%q` prints them, for causes that quote the request."""
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
