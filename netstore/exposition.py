"""Metrics in the text format that Prometheus collects: families made of plain numbers, and those of the
process.

Every number is read when somebody asks; nothing is registered. The format is the work of prometheus_client;
what it writes of a sample before the number, and of a family before its samples, is the same in each scrape
and is kept, with a bound: a store has about 800 samples, and writing them anew took 10 ms.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from netstore.histogram import Histogram

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_EXPONENT_FROM: Final = 1e6
"""Where Go begins to write numbers with an exponent."""

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

_UNLIMITED: Final = (1 << 64) - 1
"""RLIM_INFINITY as the kernel has it (getrlimit(2)), and as other programs tell it."""

_BOOTED: Final = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
"""When the machine was started, in seconds since 1970 by the clock as it was when this process began."""


MOST_LABELS: Final = 4_096
"""Combinations of labels whose text is kept, 1 KiB each at most; more are written anew each time."""

MOST_HISTOGRAMS: Final = 256
"""The same for those of a whole histogram, with its bounds."""


class _Collected:
    """What `generate_latest` asks for families."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class _Labels(dict[str, str]):
    """Labels with what is written of their samples before the number, by the names of these."""

    __slots__ = ("starts",)

    def __init__(self, *pairs: tuple[str, str]) -> None:
        super().__init__(pairs)
        self.starts: dict[str, str] = {}


@lru_cache(MOST_LABELS)
def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> _Labels:
    return _Labels(*zip(names, values, strict=True))


@lru_cache(MOST_HISTOGRAMS)
def _bucket_labels(
    names: tuple[str, ...], values: tuple[str, ...], bounds: tuple[float, ...]
) -> list[_Labels]:
    """Those of the buckets of a series, and of its sum and count."""
    pairs = tuple(zip(names, values, strict=True))
    buckets = [_Labels(*pairs, ("le", bound)) for bound in (*map(_bound, bounds), "+Inf")]
    return [*buckets, _Labels(*pairs)]


def text(families: Iterable[Metric]) -> bytes:
    """The text of a scrape. Families without samples are left out. They must be of this module."""
    lines: list[str] = []
    for family in families:
        if not family.samples:
            continue
        lines.append(_head(family.name, family.documentation, family.type))
        for sample in family.samples:
            starts = sample.labels.starts  # type: ignore[attr-defined]  # they are `_Labels`
            start = starts.get(sample.name)
            if start is None:
                start = starts[sample.name] = _written(family, sample)[2].removesuffix("0.0")
            value = float(sample.value)
            lines.append(f"{start}{value if -_EXPONENT_FROM < value < _EXPONENT_FROM else _large(value)}\n")
    return "".join(lines).encode()


def _written(family: Metric, sample: Sample) -> list[str]:
    """The lines of a family that has one sample, whose value is 0."""
    alone = Metric(family.name, family.documentation, family.type)
    alone.add_sample(sample.name, sample.labels, 0.0)
    return generate_latest(_Collected([alone])).decode().split("\n")


@lru_cache(MOST_LABELS)
def _head(name: str, help_text: str, kind: str) -> str:
    family = Metric(name, help_text, kind)
    return "".join(f"{line}\n" for line in _written(family, Sample(name, {}, 0.0))[:2])


def _large(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]  # it has no annotations


def gauge(name: str, help_text: str, value: float) -> Metric:
    """A gauge with one sample."""
    return gauges(name, help_text, (), [((), value)])


def counter(name: str, help_text: str, value: float) -> Metric:
    """A counter with one sample; its name ends in `_total`."""
    return counters(name, help_text, (), [((), value)])


def counting(name: str, help_text: str, value: float) -> Metric:
    """A counter whose name does not end in `_total`, as some of etcd's."""
    return counting_by(name, help_text, (), [((), value)])


def gauges(
    name: str, help_text: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    """A gauge with a sample for each combination of labels."""
    return _filled(GaugeMetricFamily(name, help_text, labels=labels), name, labels, samples)


def counters(
    name: str, help_text: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    """A counter with a sample for each combination of labels; its name ends in `_total`."""
    return _filled(CounterMetricFamily(name, help_text, labels=labels), name, labels, samples)


def counting_by(
    name: str, help_text: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    """The same where the name does not end in `_total`: the library makes no counter of such a name, so the
    type is not told.
    """
    return _filled(Metric(name, help_text, "unknown"), name, labels, samples)


def _filled(
    family: Metric, name: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    names = tuple(labels)
    family.samples = [Sample(name, _labels(names, tuple(values)), value) for values, value in samples]
    return family


def histogram(name: str, help_text: str, observed: Histogram) -> Metric:
    """A histogram with one series."""
    return histograms(name, help_text, (), [((), observed, 0)])


def histograms(
    name: str,
    help_text: str,
    labels: Sequence[str],
    samples: Iterable[tuple[Sequence[str], Histogram, int]],
) -> Metric:
    """A histogram with a series for each combination of labels: what was observed, and how many more of the
    smallest.
    """
    family = HistogramMetricFamily(name, help_text, labels=labels)
    names, bucket = tuple(labels), f"{name}_bucket"
    for values, observed, total in samples:
        *buckets, rest = _bucket_labels(names, tuple(values), observed.bounds)
        for place, count in zip(buckets, observed.counts, strict=True):
            total += count  # noqa: PLW2901 - it is the sum so far
            family.samples.append(Sample(bucket, place, total))
        family.samples.append(Sample(f"{name}_count", rest, total))
        family.samples.append(Sample(f"{name}_sum", rest, observed.sum))
    return family


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
        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        yield gauge(
            "process_virtual_memory_max_bytes",
            "How much virtual memory the process may have; all that 64 bits can tell without a limit.",
            _UNLIMITED if most == resource.RLIM_INFINITY else most,
        )
        yield gauge("process_start_time_seconds", "Start of the process, in seconds since 1970.", started)
    with contextlib.suppress(OSError):
        yield gauge("process_open_fds", "Open file descriptors.", open_descriptors())
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    yield gauge("process_max_fds", "How many file descriptors may be open.", most)


def open_descriptors() -> int:
    """How many file descriptors this process has open. OSError where /proc is hidden."""
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))  # noqa: PTH116, PTH208
