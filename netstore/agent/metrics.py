"""Metrics as text in the Prometheus exposition format 0.0.4. Pure, but for `process`.

The names begin with `netstore_agent_`; those about the process are the ones that Prometheus clients share.
The format is a few lines of text, so no library is loaded for it: the agent starts on every node of a site
and holds little memory.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

Sample = tuple["Mapping[str, str]", float]
"""Labels and value."""


class Family(NamedTuple):
    """Samples of one name that differ in their labels."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: Iterable[Sample]


def gauge(name: str, text: str, value: float) -> Family:
    """A gauge with one sample."""
    return Family(name, "gauge", text, [({}, value)])


def counter(name: str, text: str, value: float) -> Family:
    """A counter with one sample; its name ends in `_total`."""
    return Family(name, "counter", text, [({}, value)])


def render(families: Iterable[Family]) -> str:
    """The text of a scrape. Families without samples are left out."""
    lines: list[str] = []
    for name, kind, text, samples in families:
        shown = [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples]
        if shown:
            help_text = text.replace("\\", "\\\\").replace("\n", "\\n")
            lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", *shown]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return "{" + pairs + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def process() -> list[Family]:
    """Processor time, memory and descriptors of this process, from proc(5); empty where /proc is hidden."""
    try:
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123 - read as bytes, once
            fields = file.read().rpartition(b")")[2].split()
        with open("/proc/stat", "rb") as file:  # noqa: PTH123
            boot = next(line.split()[1] for line in file if line.startswith(b"btime "))
        descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    except (OSError, StopIteration):
        return []
    spent = (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
    started = int(boot) + int(fields[19]) / _TICKS_PER_SECOND
    return [
        counter("process_cpu_seconds_total", "Processor time used, in seconds.", spent),
        gauge("process_resident_memory_bytes", "Resident memory.", int(fields[21]) * _PAGE_BYTES),
        gauge("process_start_time_seconds", "Start of the process, in seconds since 1970.", started),
        gauge("process_open_fds", "Open file descriptors.", descriptors),
    ]
