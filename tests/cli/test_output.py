"""The three forms of an answer, and that nothing in them acts on a terminal."""

from __future__ import annotations

import codecs
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.cli.output import Form, Table, document, field, plain, printable, readable, render, table

HOSTILE = "\x1b[31mred\x1b[0m\r\n\t\x00\x07\x7f\x9b31m\u202e\u2028\u2066\ud800\ue000end"

ESCAPE = re.compile(r"\\(\\|n|r|t|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")


def read_back(text: str) -> str:
    """What a script does to undo the escapes of a plain field."""
    return ESCAPE.sub(lambda found: codecs.decode(found[0], "unicode_escape"), text)


@pytest.mark.parametrize("show", [printable, field])
def test_hostile_text_is_one_inert_line(show: object) -> None:
    assert callable(show)
    shown = show(HOSTILE)
    assert shown.isprintable()
    assert shown == (r"\x1b[31mred\x1b[0m\r\n\t\x00\x07\x7f\x9b31m\u202e\u2028\u2066\ud800\ue000end")


def test_text_of_the_world_stays_as_it_is() -> None:
    text = 'grüße 北京 \u05e9\u05dc\u05d5\u05dd 🙂 {"a": 1}'
    assert printable(text) == text
    assert readable(text) == text


def test_a_value_shown_by_itself_keeps_its_lines() -> None:
    assert readable("a\tb\nc\x1bd\re") == "a\tb\nc\\x1bd\\re"


@given(st.text())
def test_plain_fields_can_be_read_back(text: str) -> None:
    shown = field(text)
    assert shown.isprintable()
    assert read_back(shown) == text


@given(st.lists(st.tuples(st.text(), st.none() | st.integers()), max_size=4))
def test_plain_is_one_line_a_row_and_one_tab_between_cells(rows: list[tuple[str, int | None]]) -> None:
    lines = plain(rows).split("\n")
    assert lines.pop() == ""
    cells = [line.split("\t") for line in lines]
    assert [(read_back(text), number) for text, number in cells] == [
        (text, "" if number is None else str(number)) for text, number in rows
    ]


@given(
    st.recursive(
        st.none() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_is_one_ascii_line_that_means_the_same(content: object) -> None:
    text = document(content)
    assert text.isascii()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    assert json.loads(text) == content


def test_table_aligns_and_marks_what_is_missing() -> None:
    view = Table(("NAME", "TTL"), [("a-long-name", 5), ("b", None)])
    assert (
        table(view, columns=None)
        == "NAME          TTL\n─────────────────\na-long-name   5\nb             -\n"
    )


def test_table_without_a_terminal_is_never_folded() -> None:
    value = "x" * 3000
    assert value in table(Table(("A", "B"), [("1", value)]), columns=None)


def test_table_folds_at_the_edge_of_the_terminal_and_loses_nothing() -> None:
    value = "".join(chr(ord("a") + number % 26) for number in range(200))
    lines = table(Table(("A", "B"), [("1", value)]), columns=40).splitlines()
    assert max(map(len, lines)) <= 40
    assert "".join(line[4:] for line in lines[2:]) == value


URL = "https://store-1.control-plane.example.com:2379"
WORDS = ("10.244.100.0/24", "8e9e05c52164694d", URL, f"{URL}:", "ab" * 32)


@pytest.mark.parametrize("columns", [40, 60, 80])
@pytest.mark.parametrize("word", WORDS)
def test_table_breaks_no_url_id_or_short_word_and_folds_the_rest(word: str, columns: int) -> None:
    prose = "the archive is damaged, and nothing is restored across that: a file of it cannot be read"
    lines = table(Table(("WHAT", "PROBLEM"), [(word, prose), (prose, word)]), columns=columns).splitlines()
    assert [line.split()[0] for line in lines].count(word) == 1
    assert [line.split()[-1] for line in lines].count(word) == 1
    assert " ".join(lines).split().count("nothing") == 2
    assert max(map(len, lines)) <= max(columns, 2 * len(word) + 3)


@given(
    st.lists(st.lists(st.text("ab ./:", max_size=60), min_size=3, max_size=3), min_size=1, max_size=3),
    st.integers(12, 100),
)
def test_table_is_wider_than_the_terminal_only_for_words(rows: list[list[str]], columns: int) -> None:
    view = Table(("A", "B", "C"), [(a, b, c) for a, b, c in rows])
    words = [max((len(word) for row in rows for word in row[place].split()), default=1) for place in range(3)]
    drawn = table(view, columns=columns).splitlines()
    assert max(map(len, drawn)) <= max(columns, sum(words) + 6)
    broken = table(view, columns=columns, breaks_words=True).splitlines()
    assert max(map(len, broken)) <= columns


def test_table_breaks_what_is_no_word_of_anybody() -> None:
    lines = table(Table(("A", "B"), [("https://" + "x" * 300, "1")]), columns=40).splitlines()
    assert max(map(len, lines)) <= 40


def test_table_escapes_markup_of_any_kind() -> None:
    drawn = table(Table(("A",), [(HOSTILE,), ("[bold]b[/bold] :smile:",)]), columns=None)
    assert "\x1b" not in drawn
    assert "[bold]b[/bold] :smile:" in drawn


@pytest.mark.parametrize(
    ("form", "text"),
    [(Form.JSON, '{"a":1}\n'), (Form.PLAIN, "1\n"), (Form.TABLE, "A\n─\n1\n")],
)
def test_each_form_has_its_own_view(form: Form, text: str) -> None:
    assert render(form, {"a": 1}, Table(("A",), [(1,)])) == text
