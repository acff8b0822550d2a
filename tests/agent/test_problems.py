"""Problems are told once, and once more when they are over."""

from __future__ import annotations

from netstore.agent.problems import MAX_LINES, MAX_TOPICS, Journal, Roll
from tests.agent.fake_store import Pages


def test_a_problem_is_told_when_it_is_new_or_another_one() -> None:
    pages = Pages()
    journal = Journal(pages)
    for reason in ("a", "a", "b", "a"):
        journal.problem("store", "unreachable", reason=reason)
    assert [fields["reason"] for fields in pages.told("unreachable")] == ["a", "b", "a"]
    assert journal.open == {"store": "unreachable"}
    journal.over("store", "reached_again")
    journal.over("store", "reached_again")
    assert len(pages.told("reached_again")) == 1
    assert journal.open == {}


def test_topics_are_bounded() -> None:
    journal = Journal(Pages())
    for number in range(MAX_TOPICS + 10):
        journal.problem(str(number), "x")
    assert len(journal.open) == MAX_TOPICS


def test_a_roll_names_what_is_new_and_what_is_over() -> None:
    pages = Pages()
    roll = Roll(Journal(pages), "bad", "good")
    roll.call({"a": "1", "b": "2"})
    roll.call({"a": "1", "b": "3"})
    roll.call({"b": "3"})
    assert [(fields["name"], fields["reason"]) for fields in pages.told("bad")] == [
        ("a", "1"),
        ("b", "2"),
        ("b", "3"),
    ]
    assert pages.told("good") == [{"count": 1, "names": "a"}]


def test_a_roll_of_many_is_few_lines() -> None:
    pages = Pages()
    roll = Roll(Journal(pages), "bad", "good")
    roll.call({str(number): "x" for number in range(3000)})
    assert len(pages.lines) == MAX_LINES + 1
    assert pages.lines[-1] == ("bad", {"more": 3000 - MAX_LINES})
    roll.call({})
    assert len(pages.told("good")) == 1
    assert len(str(pages.told("good"))) < 200
