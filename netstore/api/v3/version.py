"""The etcd version that this member reports; clients derive from it which features they may use.

It is 3.5.30 because

- kubeadm refuses a store below a version that it raises from release to release: 3.5.24 from Kubernetes 1.35
  on;
- kube-apiserver relies on watch progress notifications from 3.5.13 on, and they are reliable here;
- what 3.5 has is served: `/livez` and `/readyz` (3.5.11), the reason in `/health`, `AuthStatus`,
  `Maintenance.Downgrade` as far as 3.5 can do it, and all fields of `Status`;
- nothing needs 3.6, which would promise a change of the storage version and a downgrade to 3.5, and a client
  that trusts a claimed 3.7 may ask for `KV.RangeStream` first.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = "3.5.30"
"""`Status.version`, and `etcdserver` of `/version`. It has no suffix, which would sort before the version."""

CLUSTER_VERSION: Final = "3.5.0"
"""The cluster version; `etcdcluster` of `/version`."""
