"""What flanneld needs for the same, measured before: it is not packaged, so `make bench` cannot run it.

flanneld 0.9 with etcd 3.4.23 (v2) in the same kind of namespaces, on a machine of 2 cores with Linux 6.18.
Wherever these are shown they are marked as not measured in the run.
"""

from __future__ import annotations

from typing import Final

FLANNELD: Final = {
    ("start, wall", 1000): "0.81 / 0.94 / 1.38 s",
    ("start, CPU", 1000): "0.90 / 0.99 / 1.13 s",
    ("start, wall", 3000): "6.6 / 7.8 / 11.3 s",
    ("start, CPU", 3000): "7.5 / 8.7 / 9.7 s",
    ("live, writing them", 1000): "1.10 s",
    ("live, last route", 1000): "1.68 s",
    ("live, CPU", 1000): "1.45 s",
    ("live, writing them", 3000): "2.65 s",
    ("live, last route", 3000): "8.19 s",
    ("live, CPU", 3000): "8.3 s",
    ("repair, most", 1000): "2.8 to 8.5 s",
}
"""(what, leases) -> figure; all three runs where there were three."""
