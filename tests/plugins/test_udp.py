"""The backend udp is refused."""

from __future__ import annotations

import pytest
from netstore_plugins.udp import Udp

from netstore.agent.backend import Refused, options
from netstore.network.config import DEFAULT_BACKEND, parse_network


def test_it_says_what_to_use_instead_also_where_no_backend_is_named() -> None:
    network = parse_network(b'{"Network":"10.23.0.0/16"}')
    assert network.backend_type == DEFAULT_BACKEND == Udp.manifest.name
    with pytest.raises(Refused, match=r'"Type":"vxlan".*"host-gw".*without a Backend section means udp'):
        Udp(options(Udp.manifest, network))
