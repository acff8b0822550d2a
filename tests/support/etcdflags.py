"""The flags that each minor release of etcd has, in any of its patch releases up to 3.4.45, 3.5.33, 3.6.14
and 3.7.1, as its source and `etcd --help` list them. `help` is left out.
"""

from __future__ import annotations

from typing import Final

_ALL: Final = """
advertise-client-urls auth-token auth-token-ttl auto-compaction-mode auto-compaction-retention auto-tls
backend-batch-interval backend-batch-limit bcrypt-cost cert-file cipher-suites
client-cert-allowed-hostname client-cert-auth client-crl-file config-file cors data-dir
discovery-fallback discovery-srv discovery-srv-name election-timeout enable-grpc-gateway enable-pprof
force-new-cluster grpc-keepalive-interval grpc-keepalive-min-time grpc-keepalive-timeout
heartbeat-interval host-whitelist initial-advertise-peer-urls initial-cluster initial-cluster-state
initial-cluster-token initial-election-tick-advance key-file listen-client-http-urls listen-client-urls
listen-metrics-urls listen-peer-urls log-level log-outputs logger max-concurrent-streams
max-request-bytes max-snapshots max-txn-ops max-wals metrics name peer-auto-tls peer-cert-allowed-cn
peer-cert-allowed-hostname peer-cert-file peer-client-cert-auth peer-crl-file peer-key-file
peer-trusted-ca-file pre-vote quota-backend-bytes snapshot-count strict-reconfig-check tls-max-version
tls-min-version trusted-ca-file unsafe-no-fsync version wal-dir
"""
_3_4: Final = """
debug discovery discovery-proxy enable-v2 experimental-backend-bbolt-freelist-type
experimental-compaction-batch-limit experimental-corrupt-check-time experimental-enable-lease-checkpoint
experimental-enable-lease-checkpoint-persist experimental-enable-v2v3 experimental-initial-corrupt-check
experimental-peer-skip-client-san-verification experimental-warning-apply-duration
experimental-watch-progress-notify-interval log-output log-package-levels
next-cluster-version-compatible proxy proxy-dial-timeout proxy-failure-wait proxy-read-timeout
proxy-refresh-interval proxy-write-timeout
"""
_3_5: Final = """
backend-bbolt-freelist-type client-cert-file client-key-file discovery discovery-proxy
enable-log-rotation enable-v2 experimental-bootstrap-defrag-threshold-megabytes
experimental-compact-hash-check-enabled experimental-compact-hash-check-time
experimental-compaction-batch-limit experimental-compaction-sleep-interval
experimental-corrupt-check-time experimental-distributed-tracing-address
experimental-distributed-tracing-instance-id experimental-distributed-tracing-sampling-rate
experimental-distributed-tracing-service-name experimental-downgrade-check-time
experimental-enable-distributed-tracing experimental-enable-lease-checkpoint
experimental-enable-lease-checkpoint-persist experimental-enable-v2v3 experimental-initial-corrupt-check
experimental-memory-mlock experimental-peer-skip-client-san-verification
experimental-snapshot-catchup-entries experimental-stop-grpc-service-on-defrag
experimental-txn-mode-write-with-shared-buffer experimental-warning-apply-duration
experimental-watch-progress-notify-interval log-rotation-config-json peer-client-cert-file
peer-client-key-file proxy proxy-dial-timeout proxy-failure-wait proxy-read-timeout
proxy-refresh-interval proxy-write-timeout raft-read-timeout raft-write-timeout
self-signed-cert-validity socket-reuse-address socket-reuse-port v2-deprecation
"""
_3_6: Final = """
backend-bbolt-freelist-type bootstrap-defrag-threshold-megabytes client-cert-file client-key-file
compact-hash-check-time compaction-batch-limit compaction-sleep-interval corrupt-check-time discovery
discovery-cacert discovery-cert discovery-dial-timeout discovery-endpoints
discovery-insecure-skip-tls-verify discovery-insecure-transport discovery-keepalive-time
discovery-keepalive-timeout discovery-key discovery-password discovery-proxy discovery-request-timeout
discovery-token discovery-user distributed-tracing-address distributed-tracing-instance-id
distributed-tracing-sampling-rate distributed-tracing-service-name downgrade-check-time
enable-distributed-tracing enable-log-rotation experimental-bootstrap-defrag-threshold-megabytes
experimental-compact-hash-check-enabled experimental-compact-hash-check-time
experimental-compaction-batch-limit experimental-compaction-sleep-interval
experimental-corrupt-check-time experimental-distributed-tracing-address
experimental-distributed-tracing-instance-id experimental-distributed-tracing-sampling-rate
experimental-distributed-tracing-service-name experimental-downgrade-check-time
experimental-enable-distributed-tracing experimental-enable-lease-checkpoint
experimental-enable-lease-checkpoint-persist experimental-initial-corrupt-check
experimental-memory-mlock experimental-peer-skip-client-san-verification
experimental-snapshot-catchup-entries experimental-stop-grpc-service-on-defrag
experimental-txn-mode-write-with-shared-buffer experimental-warning-apply-duration
experimental-warning-unary-request-duration experimental-watch-progress-notify-interval feature-gates
log-format log-rotation-config-json max-learners memory-mlock peer-client-cert-file peer-client-key-file
peer-skip-client-san-verification raft-read-timeout raft-write-timeout self-signed-cert-validity
snapshot-catchup-entries socket-reuse-address socket-reuse-port v2-deprecation warning-apply-duration
warning-unary-request-duration watch-progress-notify-interval
"""
_3_7: Final = """
backend-bbolt-freelist-type bootstrap-defrag-threshold-megabytes client-cert-file client-key-file
compact-hash-check-time compaction-batch-limit compaction-sleep-interval corrupt-check-time
discovery-cacert discovery-cert discovery-dial-timeout discovery-endpoints
discovery-insecure-skip-tls-verify discovery-insecure-transport discovery-keepalive-time
discovery-keepalive-timeout discovery-key discovery-password discovery-request-timeout discovery-token
discovery-user distributed-tracing-address distributed-tracing-instance-id
distributed-tracing-sampling-rate distributed-tracing-service-name downgrade-check-time
enable-distributed-tracing enable-log-rotation feature-gates log-format log-rotation-config-json
max-learners memory-mlock peer-client-cert-file peer-client-key-file peer-skip-client-san-verification
raft-read-timeout raft-write-timeout self-signed-cert-validity snapshot-catchup-entries
socket-reuse-address socket-reuse-port v2-deprecation warning-apply-duration
warning-unary-request-duration watch-progress-notify-interval
"""

FLAGS_OF: Final = {
    release: frozenset((_ALL + more).split())
    for release, more in (("3.4", _3_4), ("3.5", _3_5), ("3.6", _3_6), ("3.7", _3_7))
}
"""Release -> names without dashes."""
