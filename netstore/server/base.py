"""What a member is built on before it has an identity: ports, data folder, reactor, protocols, join token."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from netstore.api.v3 import services as v3
from netstore.collector import Collector
from netstore.disk.datadir import DataDir
from netstore.disk.threads import watch_threads
from netstore.meter import Meter
from netstore.net.grpc.headers import TIMEOUT_FIELD
from netstore.net.grpc.protocols import Services
from netstore.net.grpc.server import GrpcServer
from netstore.net.http1.server import Cors, Http1Server
from netstore.net.http2 import Http2Server
from netstore.net.http2.exchange import opener
from netstore.net.negotiation import SessionFactory
from netstore.net.reactor import Limits, Reactor
from netstore.node.clock import SystemClock
from netstore.node.identity import Enrollment
from netstore.node.jointoken import find_token
from netstore.node.loop import Loop
from netstore.node.timekeeper import Deadlines
from netstore.ops.descriptors import most_connections
from netstore.ops.enrollment import member_settings
from netstore.ops.logging import get_logger
from netstore.ops.lowered import Bounded
from netstore.ops.ports import Ports
from netstore.ops.start import Start
from netstore.peer.handshake import Secret
from netstore.peer.join import Applicant
from netstore.peer.listener import MAX_INCOMING_STREAMS
from netstore.runqueue import RunQueue

if TYPE_CHECKING:
    from contextlib import ExitStack

    from netstore.api.http.router import Router
    from netstore.net.exchange import Exchange
    from netstore.ops.notify import ServiceManager
    from netstore.ops.store import StoreConfig


class Base:
    """The parts of one member that need no identity, in the order in which they are built."""

    router: Router
    """Of HTTP requests; set before clients are served."""
    probe_router: Router
    """Of the ports for metrics and probes alone; likewise."""

    def __init__(self, config: StoreConfig, parts: ExitStack, manager: ServiceManager) -> None:
        """NetstoreError if the configuration cannot be used on this machine; by then nothing is written but
        the folder itself and the token. What must be closed is registered in `parts`.
        """
        self.config = config
        self.parts = parts
        self.manager = manager
        self.log = get_logger("server")
        self.clock = SystemClock(self.log)
        self.start = Start(manager, self.clock.monotonic, self.log)
        self.ports = Ports(config)
        parts.callback(self.ports.close)
        self.folder = DataDir.lock(config.data_dir, config.wal_dir)
        parts.callback(self.folder.close)
        self.ports.certify()
        if self.folder.narrowed:
            self.log.warning("files_made_private", files=self.folder.narrowed, mode="0600")
        self.bounded = Bounded(config)
        for each in self.bounded.lowered:
            self.log.warning("setting_lowered", **each._asdict())
        self.shares = self.bounded.shares
        self._build_loop()
        self._build_protocols()
        self._build_enrollment()

    def _build_loop(self) -> None:
        config, parts = self.config, self.parts
        self.http1 = Http1Server(
            self._handle,
            head_limit=config.max_header_bytes,
            body_limit=config.max_body_bytes,
            cors=Cors(config.cors),
        )
        self.probes = Http1Server(
            self._handle_probe, head_limit=config.max_header_bytes, body_limit=0, cors=Cors(())
        )
        self.meter = Meter(self.clock.monotonic, get_logger("loop"), config.loop_budget_ms / 1000)
        gc.callbacks.append(self.meter.collecting)
        parts.callback(gc.callbacks.remove, self.meter.collecting)
        run_queue = RunQueue()
        parts.callback(run_queue.close)
        self.collector = Collector(self.clock.monotonic)
        parts.callback(self.collector.end)
        self.reactor = Reactor(
            Limits(
                most_connections(config.max_connections, MAX_INCOMING_STREAMS, self.log),
                config.slow_client_seconds,
                self.shares.clients,
            ),
            self.http1,
            get_logger("net"),
            self.clock.monotonic,
            self.meter,
            worked=self.collector.worked,
            waited=run_queue.waited,
        )
        parts.callback(watch_threads(self.reactor.call_soon))
        self.deadlines = Deadlines(self.clock)
        self.loop = Loop(self.meter)

    def _build_protocols(self) -> None:
        self.grpc = GrpcServer(
            Services({}, {}),
            self.clock.monotonic,
            self.deadlines.after,
            get_logger("grpc"),
            message_limit=self.bounded.request_bytes + v3.BEYOND_REQUEST,
            plain=opener(self._handle, self.http1),
            soon=self.reactor.call_soon,
            rounds=self.reactor,
        )
        self.http2 = Http2Server(
            self.grpc,
            lambda: self.reactor.now,
            varying=TIMEOUT_FIELD,
            soon=self.reactor.call_soon,
        )
        self.sessions = SessionFactory(self.http2)

    def _build_enrollment(self) -> None:
        settings = member_settings(self.config)
        token = find_token(settings, self.folder, certified=self.ports.certifies_peers, log=self.log)
        self.secret = None if token is None else Secret(token)
        applicant = Applicant(
            self.reactor, settings, credentials=self.ports.peer_credentials, secret=self.secret
        )
        self.enrollment = Enrollment(settings, self.folder, applicant.list_members, applicant.join, self.log)

    def _handle(self, exchange: Exchange) -> None:
        self.router.handle(exchange)

    def _handle_probe(self, exchange: Exchange) -> None:
        self.probe_router.handle(exchange)
