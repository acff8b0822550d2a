"""Metrics in the text format that Prometheus collects: families made of plain numbers, and those of the
process.

Everything is read when somebody asks; nothing is registered, and nothing is kept. The format is the work of
prometheus_client.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from netstore.histogram import Histogram

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_EXPONENT_FROM: Final = 1e6
"""Where Go begins to write numbers with an exponent."""

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

_BOOTED: Final = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
"""When the machine was started, in seconds since 1970 by the clock as it was when this process began."""


class _Collected:
    """What `generate_latest` asks for families."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def text(families: Iterable[Metric]) -> bytes:
    """The text of a scrape. Families without samples are left out."""
    return generate_latest(_Collected(family for family in families if family.samples))


def gauge(name: str, help_text: str, value: float) -> Metric:
    """A gauge with one sample."""
    return GaugeMetricFamily(name, help_text, value=value)


def counter(name: str, help_text: str, value: float) -> Metric:
    """A counter with one sample; its name ends in `_total`."""
    return CounterMetricFamily(name, help_text, value=value)


def counting(name: str, help_text: str, value: float) -> Metric:
    """A counter whose name does not end in `_total`, as some of etcd's."""
    return counting_by(name, help_text, (), [((), value)])


def gauges(
    name: str, help_text: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    """A gauge with a sample for each combination of labels."""
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def counters(
    name: str, help_text: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    """A counter with a sample for each combination of labels; its name ends in `_total`."""
    family = CounterMetricFamily(name, help_text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def counting_by(
    name: str, help_text: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    """The same where the name does not end in `_total`: the library makes no counter of such a name, so the
    type is not told.
    """
    family = Metric(name, help_text, "unknown")
    for values, value in samples:
        family.add_sample(name, dict(zip(labels, values, strict=True)), value)
    return family


def histogram(name: str, help_text: str, observed: Histogram) -> Metric:
    """A histogram with one series."""
    return histograms(name, help_text, (), [((), observed)])


def histograms(
    name: str,
    help_text: str,
    labels: Sequence[str],
    samples: Iterable[tuple[Sequence[str], Histogram]],
) -> Metric:
    """A histogram with a series for each combination of labels."""
    family = HistogramMetricFamily(name, help_text, labels=labels)
    for values, observed in samples:
        family.add_metric(values, cumulative(observed), observed.sum)
    return family


def cumulative(observed: Histogram, below: int = 0) -> list[tuple[str, float]]:
    """The observations at most as large as each bound, with `below` more of the smallest."""
    total, found = below, []
    for bound, count in zip((*map(_bound, observed.bounds), "+Inf"), observed.counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found


def _bound(bound: float) -> str:
    """As Go writes it, so that old and new series of one collector are the same."""
    if bound == int(bound) and bound < _EXPONENT_FROM:
        return str(int(bound))
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]  # it has no annotations


def process() -> Iterator[Metric]:
    """Processor time, memory and descriptors of this process, from proc(5). What cannot be read is left out.
    Only files of the process itself are read: a service manager may hide the others.
    O(descriptors), 0.3 us each, with kernels before 6.2.
    """
    with contextlib.suppress(OSError):
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123 - read as bytes, once
            fields = file.read().rpartition(b")")[2].split()
        spent = (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
        started = _BOOTED + int(fields[19]) / _TICKS_PER_SECOND
        yield counter("process_cpu_seconds_total", "Processor time used, in seconds.", spent)
        yield gauge("process_resident_memory_bytes", "Resident memory.", int(fields[21]) * _PAGE_BYTES)
        yield gauge("process_virtual_memory_bytes", "Virtual memory.", int(fields[20]))
        yield gauge("process_start_time_seconds", "Start of the process, in seconds since 1970.", started)
    with contextlib.suppress(OSError):
        yield gauge("process_open_fds", "Open file descriptors.", open_descriptors())
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    yield gauge("process_max_fds", "How many file descriptors may be open.", most)


def open_descriptors() -> int:
    """How many file descriptors this process has open. OSError where /proc is hidden."""
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))  # noqa: PTH116, PTH208
