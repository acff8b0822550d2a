"""The etcd version that this member reports; clients derive from it which features they may use (v3 API,
which version to claim).

kube-apiserver relies on watch progress notifications from 3.5.13 on, and they are reliable here. Nothing that
came with 3.6 is claimed.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = "3.5.13"
"""`Status.version`, and `etcdserver` of `/version`. It has no suffix, which would sort before the version."""

CLUSTER_VERSION: Final = "3.5.0"
"""The cluster version; `etcdcluster` of `/version`."""
