"""One line per fact, no secret in it, and never a reason to stop."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from netstore.ops.logging import (
    HIDDEN,
    MAX_ITEMS,
    MAX_TEXT,
    MAX_TRACE,
    LineWriter,
    RateLimit,
    configure,
    get_logger,
    hide_secrets,
    presentable,
    set_level,
)
from netstore.urls import Url
from tests.support.daemon import ROOT, clean_environment
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Now:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class TestShape:
    def test_json_where_no_terminal_is(self) -> None:
        out = io.StringIO()
        configure(stream=out)
        get_logger("node.loop").info("member_started", name="a", url=Url("http", "::1", 1), raft_term=3)
        (line,) = lines(out)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("ts"))
        assert line == {
            "level": "info",
            "event": "member_started",
            "room": "node.loop",
            "name": "a",
            "url": "http://[::1]:1",
            "raft_term": 3,
        }
        assert list(line) == ["level", "event", "room", "name", "url", "raft_term"]

    def test_words_on_a_terminal(self) -> None:
        out = Terminal()
        configure(stream=out)
        get_logger("disk").warning("disk_slow", path="/var/a b", seconds=1.5, tries=[1, 2])
        words = out.getvalue()
        assert words.endswith(' warn  disk_slow room=disk path="/var/a b" seconds=1.5 tries=[1, 2]\n')

    @pytest.mark.parametrize(("form", "first"), [("json", "{"), ("console", "2")])
    def test_form_can_be_told(self, form: str, first: str) -> None:
        out = Terminal()
        configure(form=form, stream=out)
        get_logger("a").info("b")
        assert out.getvalue()[0] == first

    @pytest.mark.parametrize(
        ("level", "seen"),
        [
            ("debug", ["debug", "info", "warn", "error"]),
            ("info", ["info", "warn", "error"]),
            ("warn", ["warn", "error"]),
            ("error", ["error"]),
            ("panic", []),
            ("fatal", []),
        ],
    )
    def test_levels(self, level: str, seen: list[str]) -> None:
        out = io.StringIO()
        configure(level, stream=out)
        log = get_logger("a")
        log.debug("x")
        log.info("x")
        log.warning("x")
        log.error("x")
        assert [line["level"] for line in lines(out)] == seen

    def test_exception_is_a_field_in_json_and_lines_of_its_own_in_words(self) -> None:
        for out in (io.StringIO(), Terminal()):
            configure(stream=out)
            try:
                int("password=hunter2 and \x1b[31m")
            except ValueError:
                get_logger("a").exception("request_failed", n=1)
            text = out.getvalue()
            assert "ValueError" in text
            assert "hunter2" not in text
            assert "\x1b" not in text
            assert text.count("\n") == 1 or (out.isatty() and text.count("\n    ") > 2)

    @given(st.text(), st.text(), st.binary())
    def test_a_client_cannot_write_to_the_terminal(self, event: str, text: str, data: bytes) -> None:
        for out in (io.StringIO(), Terminal()):
            configure(stream=out)
            get_logger("a").info(event, path=text, body=data, nested={text: [text, data]})
            written = out.getvalue()
            assert written.endswith("\n")
            assert written[:-1].isprintable()

    def test_loggers_made_earlier_follow(self) -> None:
        log = get_logger("a")
        first, second = io.StringIO(), io.StringIO()
        configure(stream=first)
        log.info("x")
        configure(stream=second)
        log.info("y")
        assert [line["event"] for line in lines(first) + lines(second)] == ["x", "y"]


class TestSecrets:
    @pytest.mark.parametrize(
        "name",
        [
            "password",
            "Password",
            "etcd_password",
            "authorization",
            "Authorization",
            "Proxy-Authorization",
            "set-cookie",
            "key",
            "private_key",
            "key_data",
            "token",
            "initial_cluster_token",
            "auth_token",
            "client_secret",
        ],
    )
    def test_hidden_by_name_at_every_depth(self, name: str) -> None:
        out = io.StringIO()
        configure(stream=out)
        get_logger("a").info("x", **{name: "hunter2"}, request={"fields": [{name: b"hunter2"}]})
        assert "hunter2" not in out.getvalue()
        assert out.getvalue().count(HIDDEN) == 2

    @pytest.mark.parametrize("name", ["path", "key_file", "keys", "monkey", "tokens_left"])
    def test_names_that_only_look_alike_are_shown(self, name: str) -> None:
        assert hide_secrets(None, "info", {name: "shown"}) == {name: "shown"}

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("GET http://root:hunter2@a:1/", f"GET http://root:{HIDDEN}@a:1/"),
            ("Authorization: Basic aHVudGVyMg==", f"Authorization: {HIDDEN}"),
            (
                "{'authorization': 'Bearer hunter2', 'host': 'a'}",
                f"{{'authorization': '{HIDDEN}', 'host': 'a'}}",
            ),
            ("user=a&password=hunter2&x=1", f"user=a&password={HIDDEN}&x=1"),
            ('{"password": "hunter2"}', f'{{"password": "{HIDDEN}"}}'),
            ("a -----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY----- b", f"a {HIDDEN} b"),
            ("-----BEGIN PRIVATE KEY-----\nhunter2", HIDDEN),
            ("http://a:1/@b", "http://a:1/@b"),
            ("nothing here", "nothing here"),
        ],
    )
    def test_hidden_by_shape_inside_text(self, text: str, shown: str) -> None:
        assert presentable(text) == shown
        assert presentable(text.encode()) == shown

    def test_an_unset_secret_is_no_secret(self) -> None:
        assert hide_secrets(None, "info", {"password": None}) == {"password": None}


class TestBounds:
    def test_long_text_is_cut_and_its_length_told(self) -> None:
        shown = presentable("x" * 1_000_000)
        assert isinstance(shown, str)
        assert shown.endswith("... (1000000 characters)")
        assert len(shown) < MAX_TEXT + 40

    def test_of_a_long_traceback_the_end_is_kept(self) -> None:
        line = hide_secrets(None, "error", {"exception": "x" * 100_000 + " token=hunter2 end"})
        assert line["exception"].endswith(f" token={HIDDEN} end")
        assert len(line["exception"]) == MAX_TRACE

    def test_wide_and_deep_values_are_cut(self) -> None:
        assert len(json.dumps(presentable(list(range(10_000))))) < 10 * MAX_ITEMS
        deep: object = "x"
        for _ in range(500):
            deep = [deep]
        assert len(json.dumps(presentable(deep))) < 2 * MAX_TEXT

    def test_what_json_does_not_know_becomes_text(self) -> None:
        assert presentable({"a": object, "b": {1}, "c": Url("http", "a", 1)}) == {
            "a": "<class 'object'>",
            "b": [1],
            "c": "http://a:1",
        }


class TestRateLimit:
    def test_burst_then_rate_and_the_rest_is_counted(self) -> None:
        now, out = Now(), io.StringIO()
        configure(stream=out, limit=RateLimit(burst=3, per_second=2.0, clock=now))
        log = get_logger("a")
        for _ in range(10):
            log.info("noisy")
        log.info("quiet")
        now.seconds = 0.5
        log.info("noisy")
        now.seconds = 100.0
        for _ in range(4):
            log.info("noisy")
        assert [(line["event"], line.get("suppressed")) for line in lines(out)] == [
            *[("noisy", None)] * 3,
            ("quiet", None),
            ("noisy", 7),
            *[("noisy", None)] * 3,
        ]

    def test_names_without_end_share_one_budget(self) -> None:
        out = io.StringIO()
        limit = RateLimit(burst=1, per_second=0.0, names=2, clock=Now())
        configure(stream=out, limit=limit)
        for number in range(100):
            get_logger("a").info(f"event_{number}")
        assert [line["event"] for line in lines(out)] == ["event_0", "event_1", "event_2"]
        assert len(limit._budgets) == 3

    @given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 3)), max_size=50))
    def test_every_line_is_written_or_counted(self, steps: list[tuple[str, float]]) -> None:
        now = Now()
        limit = RateLimit(burst=2, per_second=1.0, clock=now)
        told = dict.fromkeys("ab", 0)
        for name, wait in steps:
            now.seconds += wait
            try:
                line = limit(None, "info", {"event": name})
            except structlog.DropEvent:
                continue
            told[name] += 1 + line.get("suppressed", 0)
        waiting = {name: suppressed for name, (_, _, suppressed) in limit._budgets.items()}
        for name in "ab":
            assert told[name] + waiting.get(name, 0) == [each for each, _ in steps].count(name)


class TestLineWriter:
    def test_a_broken_stream_disturbs_nobody(self) -> None:
        class Broken(io.StringIO):
            def write(self, _: str) -> int:
                raise BrokenPipeError

        writer = LineWriter(Broken())
        writer.write("x")
        assert writer.lost == 1
        closed = io.StringIO()
        closed.close()
        writer = LineWriter(closed)
        writer.info("x")
        assert writer.lost == 1


def test_each_line_goes_to_every_stream_also_if_one_is_broken() -> None:
    closed, first, second = io.StringIO(), io.StringIO(), io.StringIO()
    closed.close()
    configure("info", "json", first, closed, second)
    get_logger("x").info("told")
    assert first.getvalue() == second.getvalue() != ""


def test_the_level_changes_for_loggers_that_are_there() -> None:
    out = io.StringIO()
    configure("info", "json", out)
    log = get_logger("x")
    log.debug("unheard")
    set_level("debug")
    log.debug("heard")
    set_level("error")
    log.warning("unheard")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["heard"]


def test_what_structlog_imports_for_others_is_loaded_when_it_is_used() -> None:
    script = (
        "import sys\n"
        "import netstore.ops.logging\n"
        "print(sorted({'asyncio', 'rich'} & set(sys.modules)))\n"
        "import structlog\n"
        "import asyncio\n"
        "print(structlog.stdlib.asyncio.get_running_loop is asyncio.get_running_loop)\n"
    )
    told = subprocess.run(
        (sys.executable, "-c", script),
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
        timeout=seconds(20),
        check=True,
    )
    assert told.stdout.splitlines() == ["[]", "True"]
