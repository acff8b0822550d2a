"""Which etcd this member says it is: clients decide by it what they may ask for (v3 API, which version to
claim).

kube-apiserver takes progress of watches for true from 3.5.13 on, which is what is promised here. Nothing that
came with 3.6 is claimed.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = "3.5.13"
"""`Status.version`, and `etcdserver` of `/version`. Without a suffix: one would sort below it."""

CLUSTER_VERSION: Final = "3.5.0"
"""What the members agree on; `etcdcluster` of `/version`."""
