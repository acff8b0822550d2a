"""The metrics of the process, which those of the store and of the agent share."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from prometheus_client import generate_latest
from prometheus_client.registry import CollectorRegistry

from netstore import exposition
from netstore.exposition import counter, counters, counting_by, gauge, gauges, histogram, histograms, text
from netstore.histogram import Histogram
from tests.support.patience import seconds
from tests.support.profiled import profiled

if TYPE_CHECKING:
    from prometheus_client.core import Metric

NAMES = {
    "process_cpu_seconds",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_virtual_memory_max_bytes",
    "process_start_time_seconds",
    "process_open_fds",
    "process_max_fds",
}


def test_the_process_began_before_now_and_after_the_machine() -> None:
    found = {family.name: family.samples[0].value for family in exposition.process()}
    assert found.keys() == NAMES
    now = time.time()
    booted = now - time.clock_gettime(time.CLOCK_BOOTTIME)
    assert booted - 1 <= found["process_start_time_seconds"] <= now + 1


def test_what_cannot_be_read_leaves_out_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise PermissionError

    monkeypatch.setattr(exposition, "open_descriptors", refuse)
    assert {family.name for family in exposition.process()} == NAMES - {"process_open_fds"}


class Kept:
    """Families for the library's own writer."""

    def __init__(self, *families: Metric) -> None:
        self.families = families

    def collect(self) -> tuple[Metric, ...]:
        return self.families


def some(number: float) -> list[Metric]:
    """Families of all kinds, in which each number depends on this one."""
    observed = Histogram((0.001, 1.0, 2e6))
    for value in (0.0005, number, 3e6):
        observed.observe(value)
    odd = ('quoted "a"', "back\\slash\nline", "\u2028é")
    return [
        gauge("a_gauge", "Help with \\ and\na line.", number),
        gauges("b_gauge", "H.", ("x", "y", "z"), [(odd, number), (("1", "2", "3"), -number)]),
        counter("c_total", "H.", number * 1e6),
        counters("d_total", "H.", ("z", "a"), [(("1", "2"), number), (("1", "3"), True)]),
        counting_by("e", "H.", ("x",), [(("1",), float("inf")), (("2",), float("nan")), (("3",), -1e9)]),
        histogram("f_seconds", "H.", observed),
        histograms("g_seconds", "H.", ("To",), [(("b",), observed, 2), (("a",), observed, 0)]),
        gauges("h_empty", "H.", ("x",), []),
    ]


@pytest.mark.parametrize("number", [0, 1, 0.25, 1e-7, 999_999.5, 1_000_000, 12_345_678.9, -0.0])
def test_what_is_kept_of_a_scrape_is_what_the_library_writes(number: float) -> None:
    for each in (3, number, number):
        families = some(each)
        registry = CollectorRegistry()
        registry.register(Kept(*(family for family in families if family.samples)))
        assert text(families) == generate_latest(registry)


def test_a_scrape_writes_numbers_only() -> None:
    text(some(1))
    with profiled() as calls:
        text(some(2))
    assert calls["text"] == 1
    assert calls["generate_latest"] == calls["_written"] == calls["_bound"] == 0


def test_what_is_kept_is_bounded() -> None:
    kept = exposition._labels.cache_info()
    assert kept.maxsize == exposition.MOST_LABELS
    text([gauges("many", "H.", ("x",), [((str(place),), 1) for place in range(exposition.MOST_LABELS + 9)])])
    assert exposition._labels.cache_info().currsize == exposition.MOST_LABELS
    assert exposition._bucket_labels.cache_info().maxsize == exposition.MOST_HISTOGRAMS


@pytest.mark.root
def test_the_shipped_unit_hides_nothing_that_is_needed() -> None:
    """ProcSubset=pid: /proc has nothing but processes."""
    ask = "from netstore import exposition; print(*(family.name for family in exposition.process()))"
    script = (
        f'mount -t proc -o subset=pid proc /proc && test ! -e /proc/stat && exec "{sys.executable}" -c "$1"'
    )
    told = subprocess.run(
        ("unshare", "--mount", "sh", "-c", script, "sh", ask),
        check=True,
        capture_output=True,
        text=True,
        timeout=seconds(30),
    )
    assert set(told.stdout.split()) == NAMES
