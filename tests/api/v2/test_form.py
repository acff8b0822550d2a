"""Parameters: the fast way and the slow way agree, and every wrong one is told in etcd's words and order."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.api.v2.form import (
    FORM_LIMIT_BYTES,
    MAX_PAIRS,
    NONE_GIVEN,
    Parameters,
    go_quote,
    parameters_of,
    parse_form,
    read_parameters,
)
from netstore.errors import Fault
from netstore.net.exchange import Request

FORM = b"application/x-www-form-urlencoded"


def fault_of(request: Request) -> Fault:
    with pytest.raises(Fault) as caught:
        parameters_of(request)
    return caught.value


def outcome_of(request: Request) -> Parameters | Fault:
    try:
        return parameters_of(request)
    except Fault as fault:
        return fault


def put(body: bytes, query: bytes = b"", content_type: bytes | None = FORM) -> Request:
    return Request(b"PUT", b"/v2/keys/a", query, body, content_type)


@given(st.lists(st.tuples(st.text(min_size=1), st.text())))
def test_a_form_is_read_as_the_standard_library_reads_it(pairs: list[tuple[str, str]]) -> None:
    encoded = urlencode(pairs).encode()
    wanted: dict[bytes, bytes] = {}
    for name, value in parse_qsl(encoded.decode(), keep_blank_values=True):
        wanted.setdefault(name.encode(), value.encode())
    assert parse_form(encoded) == wanted


@given(st.binary(max_size=40).map(lambda value: b"value=" + value))
def test_the_short_way_for_a_lone_value_is_the_long_way(body: bytes) -> None:
    """A query that says nothing keeps the request off the short way."""
    assert outcome_of(put(body)) == outcome_of(put(body, b"&"))


@given(st.dictionaries(st.sampled_from((b"value", b"ttl", b"dir", b"unknown")), st.binary(max_size=3)))
def test_values_are_read_alike_from_body_and_query(form: dict[bytes, bytes]) -> None:
    encoded = urlencode(form).encode()
    assert outcome_of(put(encoded)) == outcome_of(put(b"", encoded))


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"a=%zz", b'invalid URL escape "%zz"'),
        (b"a=%z", b'invalid URL escape "%z"'),
        (b"a=%", b'invalid URL escape "%"'),
        (b"a=%1", b'invalid URL escape "%1"'),
        (b"a=1%2&b=%xx", b'invalid URL escape "%2"'),
        (b"%qqname=%yy", b'invalid URL escape "%qq"'),
        (b'a=%"\\x', b'invalid URL escape "%\\"\\\\"'),
        ("a=%é".encode(), 'invalid URL escape "%é"'.encode()),
        (b"a=%\xff", b'invalid URL escape "%\\xff"'),
        (b"a=%\n1", b'invalid URL escape "%\\n1"'),
        (b"a;b=1", b"invalid semicolon separator in query"),
        (b"a=%zz&b;c", b"invalid semicolon separator in query"),
        (b"b;c&a=%zz", b"invalid semicolon separator in query"),
    ],
)
def test_bad_syntax_is_told(data: bytes, cause: bytes) -> None:
    assert fault_of(put(data)) == Fault(210, cause)
    assert fault_of(put(b"", data)) == Fault(210, cause)


def test_the_body_speaks_before_the_query() -> None:
    assert fault_of(put(b"a=%zz", b"a;b")).cause == b'invalid URL escape "%zz"'
    assert parameters_of(put(b"value=body", b"value=query&ttl=7")) == Parameters(b"body", ttl=7)
    assert parameters_of(put(b"value=first&value=second")) == Parameters(b"first")


ORDER = [
    (b"prevIndex=x", 203, b'invalid value for "prevIndex"'),
    (b"waitIndex=", 203, b'invalid value for "waitIndex"'),
    (b"recursive=yes", 209, b'invalid value for "recursive"'),
    (b"sorted=", 209, b'invalid value for "sorted"'),
    (b"wait=on", 209, b'invalid value for "wait"'),
    (b"dir=tRUE", 209, b'invalid value for "dir"'),
    (b"quorum", 209, b'invalid value for "quorum"'),
    (b"stream=2", 209, b'invalid value for "stream"'),
    (b"wait=true", 209, b'"wait" can only be used with GET requests'),
    (b"prevValue=", 201, b'"prevValue" cannot be empty'),
    (b"noValueOnSuccess=", 209, b'invalid value for "noValueOnSuccess"'),
    (b"ttl=1.5", 202, b'invalid value for "ttl"'),
    (b"prevExist=", 209, b"invalid value for prevExist"),
    (b"refresh=", 209, b"invalid value for refresh"),
    (b"refresh=true&value=x&ttl=1", 211, b"A value was provided on a refresh"),
    (b"refresh=true&ttl=", 212, b"No TTL value set"),
]


@pytest.mark.parametrize("place", range(len(ORDER)))
def test_the_first_wrong_parameter_is_told(place: int) -> None:
    """v2 API, parsing and validation order: with all later ones wrong too, this one is named."""
    data, code, cause = ORDER[place]
    names = parse_form(data).keys()
    later = [pairs for pairs, _, _ in ORDER[place + 1 :] if names.isdisjoint(parse_form(pairs))]
    for method in (b"PUT", b"DELETE", b"HEAD"):
        for query in (data, b"&".join((data, *later)), b"&".join((*reversed(later), data))):
            request = Request(method, b"/v2/keys/a", query, b"", FORM)
            assert fault_of(request) == Fault(code, cause)


@pytest.mark.parametrize(
    "text", [b"", b"-1", b"+1", b" 1", b"1 ", b"0x1", b"1_0", b"1e3", "\u0661".encode(), b"1.0"]
)
def test_numbers_are_ascii_digits(text: bytes) -> None:
    assert fault_of(Request(b"GET", b"/", b"waitIndex=" + urlencode({"": text}).encode()[1:])).code == 203


@pytest.mark.parametrize(
    ("text", "number"),
    [(b"0", 0), (b"007", 7), (b"0" * 9_000 + b"5", 5), (b"18446744073709551615", 2**64 - 1)],
)
def test_numbers_reach_64_bits(text: bytes, number: int) -> None:
    assert parameters_of(Request(b"GET", b"/", b"waitIndex=" + text)).wait_index == number


@pytest.mark.parametrize("text", [b"18446744073709551616", b"99999999999999999999", b"1" * 9_000])
def test_numbers_end_at_64_bits(text: bytes) -> None:
    assert fault_of(Request(b"GET", b"/", b"waitIndex=" + text)).code == 203


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE"])
def test_only_put_and_post_have_a_body(method: bytes) -> None:
    assert parameters_of(Request(method, b"/", b"", b"prevValue=%zz", b";")) == NONE_GIVEN


@pytest.mark.parametrize(
    "content_type",
    [
        FORM,
        FORM.upper(),
        FORM + b";",
        FORM + b" ; charset=utf-8",
        FORM + b';a="b;\\"c";d=e',
        b" " + FORM,
        FORM + b"; a=b; A=b",
    ],
)
def test_a_form_is_known_by_its_type(content_type: bytes) -> None:
    assert parameters_of(put(b"value=1", b"", content_type)) == Parameters(b"1")


@pytest.mark.parametrize(
    "content_type", [None, b"", b"text/plain", b"application/json", b"form", b"multipart/form-data"]
)
def test_any_other_body_is_ignored(content_type: bytes | None) -> None:
    assert parameters_of(put(b"value=%zz", b"ttl=1", content_type)) == Parameters(ttl=1)


@pytest.mark.parametrize(
    ("content_type", "cause"),
    [
        (b";", b"mime: no media type"),
        (b" ", b"mime: no media type"),
        (b"/x", b"mime: no media type"),
        (b"a b", b"mime: expected slash after first token"),
        (b"a/", b"mime: expected token after slash"),
        (b"a/b c", b"mime: unexpected content after media subtype"),
        (FORM + b"; a", b"mime: invalid media parameter"),
        (FORM + b"; a=", b"mime: invalid media parameter"),
        (FORM + b'; a="b', b"mime: invalid media parameter"),
        (FORM + b"; a=b; a=c", b"mime: duplicate parameter name"),
    ],
)
def test_a_type_that_cannot_be_parsed_is_told(content_type: bytes, cause: bytes) -> None:
    assert fault_of(put(b"value=%zz", b"", content_type)) == Fault(210, cause)


def test_a_body_may_be_ten_mebibytes_and_no_more() -> None:
    body = b"value=" + b"x" * (FORM_LIMIT_BYTES - 6)
    assert len(parameters_of(put(body)).value) == FORM_LIMIT_BYTES - 6
    assert fault_of(put(body + b"x")) == Fault(210, b"http: POST too large")
    request = put(b"")
    request.too_large = True
    assert fault_of(request) == Fault(210, b"http: POST too large")


def test_nothing_given_is_nothing_asked() -> None:
    assert read_parameters({}, b"GET") is NONE_GIVEN
    assert parameters_of(put(b"")) == NONE_GIVEN
    assert parameters_of(put(b"ttl=&value=")) == NONE_GIVEN


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"plain", b'"plain"'),
        (b'"\\', b'"\\"\\\\"'),
        (b"\a\b\f\n\r\t\v\x00\x1f\x7f", b'"\\a\\b\\f\\n\\r\\t\\v\\x00\\x1f\\x7f"'),
        ("é€😀".encode(), '"é€😀"'.encode()),
        (b"\xff\xc3", b'"\\xff\\xc3"'),
        ("\u200b\u2028\U000e0001".encode(), b'"\\u200b\\u2028\\U000e0001"'),
    ],
)
def test_quoting_is_that_of_go(data: bytes, shown: bytes) -> None:
    assert go_quote(data) == shown


def test_parameters_are_bounded_in_number() -> None:
    assert len(parse_form(b"&".join(b"n%d=" % number for number in range(MAX_PAIRS)))) == MAX_PAIRS
    for form in (b"&" * MAX_PAIRS, b"a&" * 5_000_000):
        with pytest.raises(Fault, match="more than 1000 parameters"):
            parse_form(form)


def test_a_content_type_is_bounded() -> None:
    kind = b"application/x-www-form-urlencoded"
    assert outcome_of(Request(b"PUT", b"/", b"", b"value=1", kind + b";a=b" * 200)) == Parameters(b"1")
    with pytest.raises(Fault, match="invalid media parameter"):
        parameters_of(Request(b"PUT", b"/", b"", b"value=1", kind + b";a=b" * 16_000))
