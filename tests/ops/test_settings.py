"""Every setting of both programs, with values of all kinds."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from netstore.ops.agent import AGENT
from netstore.ops.kinds import BadValue
from netstore.ops.store import STORE
from tests.support.settings import told

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.ops.layers import Layered
    from netstore.ops.settings import Setting

_TOML = st.recursive(
    st.none().map(lambda _: dt.date(2020, 1, 1))
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(
        ["http://a:1", "a=http://b:1,c=d", "*", "0", "/", "(?P<a", "a{1000}", "\u0661", "\ud800"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)

_SETTINGS = st.sampled_from([(layered, each) for layered in (STORE, AGENT) for each in layered.settings()])


class TestEveryValue:
    """No value makes anything but a configuration or one line."""

    @given(_SETTINGS, _TOML)
    def test_from_a_document(self, which: tuple[Layered[Any], Setting], value: object) -> None:
        _, each = which
        try:
            found = each.kind.read(value)
            each.kind.check(found)
            line = str(each.kind.show(found))
        except BadValue as bad:
            line = str(bad)
        assert line.isprintable()

    @given(_SETTINGS, st.text(max_size=40) | st.integers().map(str) | st.floats().map(str))
    def test_from_a_flag(self, which: tuple[Layered[Any], Setting], value: str) -> None:
        layered, each = which
        line = told(layered, f"--{each.flags[-1]}={value}")
        assert line.isprintable()
        assert not line or line.startswith(each.key) or "(default)" in line

    @given(st.lists(st.tuples(_SETTINGS, st.integers(-10, 100_000)), max_size=6))
    def test_numbers_together(self, several: list[tuple[tuple[Layered[Any], Setting], int]]) -> None:
        for layered in (STORE, AGENT):
            argv = [f"--{each.flags[0]}={number}" for (owner, each), number in several if owner is layered]
            assert told(layered, *argv).isprintable()

    def test_reports_can_be_read_back(self, tmp_path: Path) -> None:
        file = tmp_path / "netstore.toml"
        first = STORE.load(["--initial-cluster=default=http://a:1,b=http://b:1", "--cors="], {})
        second = AGENT.load(['--iface-regex=^"a\\d,b', "--iface=a,b", "--lease-ttl=60"], {})
        file.write_text(f"{STORE.report(first)}\n\n{AGENT.report(second)}\n")
        environ = {"NETSTORE_CONFIG_FILE": str(file)}
        assert STORE.load([], environ).config == first.config
        assert AGENT.load([], environ).config == second.config
