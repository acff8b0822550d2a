"""Problems are logged when they begin and when they end."""

from __future__ import annotations

from netstore.agent.problems import CHANGE_INTERVAL, MAX_LINES, MAX_TOPICS, ProblemList, ProblemLog
from tests.support.log import KeptLog


def test_a_problem_is_logged_when_it_is_new_or_changed() -> None:
    recorded = KeptLog()
    problem_log = ProblemLog(recorded)
    for reason in ("a", "a", "b", "a"):
        problem_log.report("store", "unreachable", reason=reason)
    assert [fields["reason"] for fields in recorded.told("unreachable")] == ["a", "b", "a"]
    assert problem_log.open == {"store": "unreachable"}
    problem_log.resolve("store", "reached_again")
    problem_log.resolve("store", "reached_again")
    assert len(recorded.told("reached_again")) == 1
    assert problem_log.open == {}


def test_topics_are_bounded() -> None:
    problem_log = ProblemLog(KeptLog())
    for number in range(MAX_TOPICS + 10):
        problem_log.report(str(number), "x")
    assert len(problem_log.open) == MAX_TOPICS


def test_new_and_resolved_problems_are_logged_by_name() -> None:
    recorded = KeptLog()
    now = [0.0]
    problems = ProblemList(ProblemLog(recorded), "bad", "good", lambda: now[0])
    problems.update({"a": "1", "b": "2"})
    now[0] += CHANGE_INTERVAL
    problems.update({"a": "1", "b": "3"})
    problems.update({"b": "3"})
    assert [(fields["name"], fields["reason"]) for fields in recorded.told("bad")] == [
        ("a", "1"),
        ("b", "2"),
        ("b", "3"),
    ]
    assert recorded.told("good") == [{"count": 1, "names": "a"}]


def test_many_problems_are_few_lines() -> None:
    recorded = KeptLog()
    problems = ProblemList(ProblemLog(recorded), "bad", "good", lambda: 0.0)
    problems.update({str(number): "x" for number in range(3000)})
    assert len(recorded.lines) == MAX_LINES + 1
    assert recorded.lines[-1] == ("bad", {"more": 3000 - MAX_LINES})
    problems.update({})
    assert len(recorded.told("good")) == 1
    assert len(str(recorded.told("good"))) < 200


def test_a_reason_that_changes_all_the_time_is_logged_once_in_a_while() -> None:
    recorded = KeptLog()
    now = [0.0]
    problems = ProblemList(ProblemLog(recorded), "bad", "good", lambda: now[0])
    for number in range(100):
        problems.update({"a": str(number)})
        assert problems.problems == {"a": str(number)}
    assert [fields["reason"] for fields in recorded.told("bad")] == ["0"]
    now[0] += CHANGE_INTERVAL
    problems.update({"a": "99"})
    assert [fields["reason"] for fields in recorded.told("bad")] == ["0", "99"]
