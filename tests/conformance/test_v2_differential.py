"""The same random requests, asked of our store and of a real etcd 3.4, must get the same answers.

The stores are brought to the same index first, so that indexes are compared as they are. A member in this
process takes part in every run: it knows how many events each watch must have got, so nobody has to wait and
see whether more will come.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from tests.support.daemon import start_netstored
from tests.support.patience import seconds
from tests.support.peers import start_etcd
from tests.support.v2_stores import FORM, Answer, HttpStore, LocalStore, Question, Shown, Store, Watching

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

pytestmark = pytest.mark.peer

WINDOW: Final = 1_000
"""Events that each store keeps for watches."""

LOOK_BACK: Final = 3
"""Events before an example that its watches may ask for (`numbers`)."""

PATIENCE: Final = 120.0
"""Seconds in which a store must find the time for a change."""

NAMES: Final = (b"a", b"b", b"c", b"_h", b"a_b", b"x y", b"\xc3\xa9", b"\xff", b"<&>", b"%", b"0\x00", b"?#")
VALUES: Final = (
    b"",
    b"1",
    b"2",
    b"two words",
    b'{"a":"b"}',
    b"<&>",
    b"\xff\xe2\x82",
    "\u2028\U0001f600\ufffd".encode(),
    b"\b\f\n\r\t\x00\x1f\x7f",
    b"a=b&c;d%",
    b"x" * 3000,
)
BOOLEANS: Final = (b"true", b"false", b"1", b"0", b"T", b"F", b"True", b"FALSE", b"", b"yes", b"tRUE", None)
NUMBERS: Final = (
    b"",
    b"abc",
    b"-1",
    b"+5",
    b"1.5",
    b"0x10",
    b"1_0",
    b" 1",
    b"18446744073709551616",
    b"9" * 5000,
)
TTLS: Final = (b"", b"1000", b"0005000", b"1000000000", *NUMBERS)
CONTENT_TYPES: Final = (
    None,
    FORM,
    FORM + b"; charset=utf-8",
    b"APPLICATION/x-www-form-urlencoded ;a=b",
    b"text/plain",
    b"application/json",
    b"multipart/form-data",
    b"",
    b";",
    b"/",
    b"a/",
    b"a b",
    b"a/b c",
    b"a/b; c",
    b"a/b;",
    b"a/b; c=d; C=e",
    b'a/b; c="d\\"e"; f=g',
    b'a/b; c="d',
    b"a/b; c=",
)
METHODS: Final = (b"GET", b"GET", b"PUT", b"PUT", b"PUT", b"POST", b"DELETE", b"DELETE", b"HEAD")
ODD_METHODS: Final = (b"get", b"PATCH", b"OPTIONS", b"Put")


@dataclass(frozen=True)
class Place:
    """An index relative to the one the run begins with."""

    after: int


Value = bytes | Place | None
Pair = tuple[bytes, Value]


@dataclass(frozen=True)
class Step:
    """A request before its indexes are known.

    `expires`: once it is done, the time of the node at `path` is up.
    """

    method: bytes
    path: bytes
    query: tuple[Pair, ...] = ()
    form: tuple[Pair, ...] = ()
    content_type: bytes | None = FORM
    raw_query: bytes | None = None
    expires: bool = False

    def question(self, base: int) -> Question:
        query = encoded(self.query, base) if self.raw_query is None else self.raw_query
        target = self.path + (b"?" + query if query else b"")
        return Question(self.method, target, encoded(self.form, base), self.content_type)

    @property
    def in_order(self) -> bool:
        """Whether a listing must come in order."""
        return self.raw_query is None and any(
            name == b"sorted" and value in (b"true", b"1", b"T", b"True") for name, value in self.query
        )


def encoded(pairs: Sequence[Pair], base: int) -> bytes:
    parts = []
    for name, value in pairs:
        text = b"%d" % max(base + value.after, 0) if isinstance(value, Place) else value
        parts.append(name if text is None else name + b"=" + quote_from_bytes(text).encode())
    return b"&".join(parts)


def numbers() -> st.SearchStrategy[Value]:
    return st.one_of(st.builds(Place, st.integers(-2, 12)), st.sampled_from((b"0", b"1", *NUMBERS)))


def pairs(names: dict[bytes, st.SearchStrategy[Any]], most: int) -> st.SearchStrategy[tuple[Pair, ...]]:
    pair = st.sampled_from(sorted(names)).flatmap(lambda name: st.tuples(st.just(name), names[name]))
    return st.lists(pair, max_size=most).map(tuple)


# What most requests look like, so that most steps do something; the odd ones come from ALL.
USUAL: Final[dict[bytes, st.SearchStrategy[Any]]] = {
    b"value": st.sampled_from(VALUES),
    b"ttl": st.sampled_from((b"", b"1000")),
    b"dir": st.sampled_from((b"true", b"false")),
    b"prevExist": st.sampled_from((b"true", b"false")),
    b"prevIndex": st.builds(Place, st.integers(0, 8)),
    b"prevValue": st.sampled_from(VALUES[1:]),
    b"recursive": st.sampled_from((b"true", b"false")),
    b"sorted": st.just(b"true"),
    b"noValueOnSuccess": st.just(b"true"),
    b"refresh": st.sampled_from((b"true", b"false")),
    b"wait": st.just(b"true"),
    b"waitIndex": st.builds(Place, st.integers(1, 12)),
    b"stream": st.just(b"true"),
    b"quorum": st.just(b"true"),
    b"Value": st.just(b"unknown names are ignored"),
}
ALL: Final[dict[bytes, st.SearchStrategy[Any]]] = {
    **{name: st.sampled_from(BOOLEANS) for name in USUAL},
    b"value": st.sampled_from(VALUES),
    b"ttl": st.sampled_from(TTLS),
    b"prevIndex": numbers(),
    b"waitIndex": numbers(),
    b"prevValue": st.sampled_from((None, *VALUES)),
}


@st.composite
def paths(draw: st.DrawFn, names: Sequence[bytes] = NAMES) -> bytes:
    parts = draw(st.lists(st.sampled_from(names[:3]) | st.sampled_from(names), max_size=3))
    path = b"/v2/keys"
    for name in parts:
        path += draw(st.sampled_from((b"/",) * 12 + (b"%2F", b"//", b"/./", b"/../")))
        path += name if name.isalnum() and draw(st.booleans()) else quote_from_bytes(name).encode()
    return path + draw(st.sampled_from((b"", b"", b"", b"/")))


def usual_steps() -> st.SearchStrategy[Step]:
    return st.builds(Step, st.sampled_from(METHODS), paths(), pairs(USUAL, 3), pairs(USUAL, 2))


def odd_steps() -> st.SearchStrategy[Step]:
    return st.builds(
        Step,
        st.sampled_from(METHODS + ODD_METHODS),
        paths(),
        pairs(ALL, 4),
        pairs(ALL, 3),
        st.sampled_from(CONTENT_TYPES),
        st.none()
        | st.sampled_from((b"value=%zz", b"a;b", b"%", b'%1&%"x', b"&&=&", b"recursive=%74rue", b"dir+=1")),
    )


def writes() -> st.SearchStrategy[Step]:
    return st.builds(
        lambda path, value: Step(b"PUT", path, (), ((b"value", value),)),
        paths(NAMES[:4]),
        st.sampled_from(VALUES),
    )


def watches() -> st.SearchStrategy[Step]:
    more = pairs({name: USUAL[name] for name in (b"recursive", b"stream", b"waitIndex")}, 3)
    return st.builds(
        lambda path, query: Step(b"GET", path, ((b"wait", b"true"), *query)), paths(NAMES[:5]), more
    )


def expiries() -> st.SearchStrategy[Step]:
    query = st.sampled_from(((), ((b"prevExist", b"true"),), ((b"dir", b"true"),)))
    return st.builds(
        lambda path, query: Step(b"PUT", path, query, ((b"ttl", b"0"),), expires=True),
        paths(NAMES[:2]),
        query,
    )


def steps() -> st.SearchStrategy[list[Step]]:
    common = st.one_of(
        usual_steps(), usual_steps(), usual_steps(), writes(), writes(), watches(), odd_steps()
    )
    return st.lists(st.one_of(*(common,) * 40, expiries()), min_size=1, max_size=14)


def begin(stores: Sequence[Store]) -> int:
    """Empty the stores and bring them to one index; returns it. Nothing of an earlier example is seen: its
    nodes are removed, and the last events of the window, up to where a watch may look back, are the same
    everywhere. Where a watch may ask for the first event, that has left the window.
    """
    wipe(stores, {*NAMES, *(name for store in stores for name in top_level(store))})
    filler = Question(b"PUT", b"/v2/keys/_filler", b"value=")
    indexes = [index_of(store) for store in stores]
    wanted = max(WINDOW, *indexes) + LOOK_BACK
    for store, index in zip(stores, indexes, strict=True):
        for _ in range(wanted - index):
            change(store, filler)
        change(store, Question(b"DELETE", b"/v2/keys/_filler"))
    return index_of(stores[0])


def top_level(store: Store) -> list[bytes]:
    """The names in the root of a store, as quoted in its answer; hidden ones are not listed."""
    answer = store.ask(Question(b"GET", b"/v2/keys/"))
    assert isinstance(answer, Answer)
    nodes = json.loads(answer.body)["node"].get("nodes", ())
    return [node["key"][1:].encode() for node in nodes]


def index_of(store: Store) -> int:
    answer = store.ask(Question(b"GET", b"/v2/keys/_index"))
    assert isinstance(answer, Answer)
    return answer.index


def counters(store: Store) -> Counter[str]:
    """What a store has counted, but for reads: those that watch over a daemon's health count too."""
    answer = store.ask(Question(b"GET", b"/v2/stats/store"))
    assert isinstance(answer, Answer)
    counts = json.loads(answer.body)
    return Counter({name: counts[name] for name in counts if not name.startswith(("gets", "watchers"))})


def wipe(stores: Sequence[Store], keys: Iterable[bytes]) -> None:
    """Remove these keys of the top level, in the same order everywhere."""
    for key in sorted(keys):
        for store in stores:
            change(
                store, Question(b"DELETE", b"/v2/keys/" + quote_from_bytes(key).encode() + b"?recursive=true")
            )


def change(store: Store, question: Question) -> None:
    """Ask for a change of which nothing is compared, and that may be made twice: until the store has had the
    time for it, for one that had none would differ from the others from then on.
    """
    until = time.monotonic() + seconds(PATIENCE)
    while True:
        answer = store.ask(question)
        assert isinstance(answer, Answer)
        if not is_late(answer):
            assert answer.status < 500, (store, question, answer)
            return
        assert time.monotonic() < until, (store, question, answer)


def is_late(answer: Answer) -> bool:
    """The store had no time for the request: the machine has too much to do. It may have been carried out."""
    return answer.status >= 500 and b"timed out" in answer.body


def run(script: Sequence[Step], guide: LocalStore, peers: Sequence[HttpStore]) -> None:
    """Ask all stores the same and compare each with the guide. An example in which a store has no time for a
    request is given up, because what it did then is not known.
    """
    stores: list[Store] = [guide, *peers]
    base = begin(stores)
    began = time.monotonic()
    counted = [counters(store) for store in stores]
    assert [index_of(store) for store in stores] == [base] * len(stores)
    open_watches: list[tuple[Step, list[Watching]]] = []
    try:
        for step in script:
            question = step.question(base)
            answers = [store.ask(question) for store in stores]
            watching = [answer for answer in answers if not isinstance(answer, Answer)]
            if watching:
                open_watches.append((step, watching))
            heads = [answer if isinstance(answer, Answer) else answer.head for answer in answers]
            if any(map(is_late, heads)):
                reject()
            shown = [head.shown(in_order=step.in_order) for head in heads]
            for other in shown[1:]:
                compare(shown[0], other, began, question)
            assert len(watching) in {0, len(stores)}, question
            if step.expires and heads[0].status in (200, 201):
                for store in stores:
                    store.after_expiry(step.path, heads[0].index)
        for store, before in zip(stores, counted, strict=True):
            grown = counters(store) - before
            if store is guide:
                wanted = grown
            assert grown == wanted
        finish(open_watches, guide, stores, base, began)
    finally:
        for _, watching in open_watches:
            for watch in watching:
                watch.close()


def compare(wanted: Shown, got: Shown, began: float, question: Question) -> None:
    """The two are the same, but for what may have passed of a time to live: the stores are asked one after
    the other, and what is compared happened since `began`.
    """
    assert got.same == wanted.same, question
    assert got.difference(wanted) <= time.monotonic() - began + 1, (question, wanted.seconds, got.seconds)


def finish(
    open_watches: Sequence[tuple[Step, list[Watching]]],
    guide: LocalStore,
    stores: Sequence[Store],
    base: int,
    began: float,
) -> None:
    """Give every watch a last event at its own path, so that what it got before is known to be all. Then
    compare. Of an event out of the window etcd shows what was left of a TTL when it happened, netstore what
    is left now.
    """
    wipe(stores, guide.top_level())
    for step, _ in open_watches:
        for method, query in ((b"PUT", b"?dir=true"), (b"DELETE", b"?recursive=true")):
            for store in stores:
                change(store, Question(method, step.path + query))
    for step, (guiding, *others) in open_watches:
        lines, ended = guiding.lines(0, ended=True)
        wanted = [Answer(200, {}, line).shown(in_order=True) for line in lines]
        for other in others:
            got, got_end = other.lines(len(lines), ended=ended)
            assert got_end == ended, step.question(base)
            for line, guided in zip(got, wanted, strict=True):
                told = Answer(200, {}, line).shown(in_order=True)
                compare(guided, told, began, step.question(base))


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpStore]:
    with start_etcd(tmp_path_factory.mktemp("etcd")) as daemon:
        store = HttpStore(daemon.url)
        store.settle()
        yield store
        store.close()


@pytest.fixture(scope="module")
def netstored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpStore]:
    with start_netstored(tmp_path_factory.mktemp("netstored")) as daemon:
        store = HttpStore(daemon.url)
        store.settle()
        yield store
        store.close()


@pytest.fixture(scope="module")
def guide() -> LocalStore:
    return LocalStore()


@given(script=steps())
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@pytest.mark.timeout(1800)
def test_local_member_answers_as_etcd(script: list[Step], guide: LocalStore, etcd: HttpStore) -> None:
    run(script, guide, [etcd])


@given(script=steps())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@pytest.mark.timeout(1800)
def test_daemon_answers_as_etcd(
    script: list[Step], guide: LocalStore, netstored: HttpStore, etcd: HttpStore
) -> None:
    run(script, guide, [netstored, etcd])


def test_times_to_live_are_compared_by_what_may_have_passed() -> None:
    def shown(seconds: int | None) -> Shown:
        left = b"" if seconds is None else b',"ttl":%d' % seconds
        body = b'{"action":"set","node":{"key":"/a"%b,"modifiedIndex":4},"prevNode":{"key":"/a","ttl":7}}'
        return Answer(200, {}, body % left).shown(in_order=True)

    for one, two, apart in ((994, 995, 1), (1000, 1000, 0), (1000, 989, 11), (None, -2, 2), (0, None, 0)):
        assert shown(one).same == shown(two).same
        assert shown(one).difference(shown(two)) == shown(two).difference(shown(one)) == apart
    assert shown(None).same != shown(1).same
    assert shown(1).same != shown(-1).same


def test_an_example_sees_nothing_of_one_that_was_given_up() -> None:
    left, other = LocalStore(), LocalStore()
    for path in (b"/v2/keys/a?ttl=1000", b"/v2/keys/_h/b", b"/v2/keys/%FF"):
        change(left, Question(b"PUT", path, b"value=1"))
    change(left, Question(b"POST", b"/v2/keys/", b"value=1"))
    base = begin([left, other])
    assert [index_of(store) for store in (left, other)] == [base] * 2
    assert left.top_level() == other.top_level() == []
    for after in range(-2, 2):
        watch = Question(b"GET", b"/v2/keys/?wait=true&recursive=true&waitIndex=%d" % (base + after))
        first, second = (store.ask(watch) for store in (left, other))
        assert not isinstance(first, Answer)
        assert not isinstance(second, Answer)
        assert first.lines(1, ended=True) == second.lines(1, ended=True)
        first.close()
        second.close()


@pytest.mark.parametrize("body", [b'{"errorCode":300,"cause":"etcdserver: request timed out"}', b""])
def test_a_change_is_asked_for_until_the_store_has_the_time_for_it(body: bytes) -> None:
    class Busy:
        answers: ClassVar = [Answer(200, {}, b""), Answer(500, {}, body)]

        def ask(self, question: Question) -> Answer:
            return self.answers.pop()

        def after_expiry(self, target: bytes, index: int) -> None: ...

    busy = Busy()
    if body:
        change(busy, Question(b"DELETE", b"/v2/keys/a"))
    else:
        with pytest.raises(AssertionError):
            change(busy, Question(b"DELETE", b"/v2/keys/a"))
