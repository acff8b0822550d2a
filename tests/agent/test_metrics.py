"""The text of a scrape."""

from __future__ import annotations

from netstore.agent.metrics import Family, counter, gauge, process, render


def test_the_text_of_families() -> None:
    families = [
        gauge("a_ready", "Whether it is.", value=True),
        Family("b", "gauge", "Two\nlines \\.", [({"check": 'x"\\\n', "more": "y"}, 0.25), ({}, -2)]),
        Family("empty", "gauge", "No samples.", []),
        counter("c_total", "Sum.", 2**53),
    ]
    assert render(families) == (
        "# HELP a_ready Whether it is.\n"
        "# TYPE a_ready gauge\n"
        "a_ready 1\n"
        "# HELP b Two\\nlines \\\\.\n"
        "# TYPE b gauge\n"
        'b{check="x\\"\\\\\\n",more="y"} 0.25\n'
        "b -2\n"
        "# HELP c_total Sum.\n"
        "# TYPE c_total counter\n"
        "c_total 9007199254740992\n"
    )


def test_the_metrics_of_this_process() -> None:
    values = {family.name: next(value for _, value in family.samples) for family in process()}
    assert values["process_resident_memory_bytes"] > 1_000_000
    assert values["process_open_fds"] >= 3
    assert values["process_start_time_seconds"] > 1_000_000_000
    assert values["process_cpu_seconds_total"] >= 0
