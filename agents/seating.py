"""What this host must have to be one of several that serve a replica together.

Looks at its network: the port where the engines are to meet, the interface by which they talk.
Called by `agents.bringing` before anything is begun, and again before the engine is started.
"""

import socket

import psutil

from agents import standing
from agents.wire import EngineKind, ReplicaOrder, Seat


class PortTaken(standing.Refused):
    """Another process has the port where the engines were to meet."""

    code = "port_taken"


def check(order: ReplicaOrder, seat: Seat) -> None:
    """Raise Refused unless the engine can take `seat`, PortTaken if rank 0 cannot listen there."""
    if order.spec.engine is EngineKind.CUSTOM:
        raise standing.Refused(
            f"{order.deployment!r} has an engine of its own, and those run on one host alone"
        )
    if seat.rank > 0:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", seat.master_port))
        except OSError as error:
            raise PortTaken(
                f"its engines cannot meet on port {seat.master_port}: {error.strerror or error}; "
                "give this host others with HEARTH_GROUP_PORTS"
            ) from error


def interface_of(address: str) -> str:
    """Return the network interface that has `address`, empty if none is known to."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address.partition("%")[0] == address for one in addresses):
            return name
    return ""
