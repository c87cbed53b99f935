"""What is between a client and a container, with the same names and addresses on every host.

    client = edge(host)                                    # another machine, and a host that forwards
    web = plugged(host)                                    # a container on a bridge of its own

        client ---- uplink [ host ] br-bench0 ---- web0
    10.0.2.2        10.0.2.15       10.77.0.1      10.77.1.2

    client, web = veth(host, ["10.0.2.2/24"], ["10.0.2.15/24"])     # no host between: both ends of a veth

A client computes its checksums itself, as what comes from a network has them; a container leaves its own to be
completed by a device (CHECKSUM_PARTIAL), as neighbours on one machine do.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.cni import Container
from bench.instruments.segments import Feature, switch
from bench.place import Host, Namespace, Place
from bench.stage import NET

EDGE, UPLINK, BRIDGE = "eth0", "uplink", "br-bench0"
HOST, CLIENT = "10.0.2.15", "10.0.2.2"
GATEWAY, CONTAINER = f"10.{NET}.0.1", f"10.{NET}.1.2"


def edge(host: Host) -> Namespace:
    """A client on another machine, beside a host that forwards."""
    client = host.join("client", UPLINK, f"{HOST}/24", f"{CLIENT}/24")
    host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    sum_in_software(host, client)
    return client


def plugged(host: Host, place: int = 0) -> Container:
    """A container on a bridge of its own, with an address and no ports; ``BRIDGE`` and ``CONTAINER`` are the first."""
    bridge, gateway, address = f"br-bench{place}", f"10.{NET + place}.0.1", f"10.{NET + place}.1.2/16"
    host.bridge(bridge, f"{gateway}/16")
    web = host.namespace(f"web{place}")
    link = host.wire(bridge, web, address, gateway)
    return Container(web.name, web.path, address, gateway, bridge, link)


def veth(host: Host, near: Sequence[str], far: Sequence[str]) -> tuple[Namespace, Namespace]:
    """A client and a container at the two ends of a veth, each with its addresses and their prefix lengths."""
    client, web = host.namespaces(["client", "web0"])
    batch(host, [f"link add {EDGE} netns {client.name} type veth peer name {EDGE} netns {web.name}"])
    for end, addresses in ((client, near), (web, far)):
        batch(end, [*(f"address add {one} dev {EDGE} nodad" for one in addresses), f"link set {EDGE} up"])
    sum_in_software(host, client)
    return client, web


def sum_in_software(host: Host, namespace: Namespace) -> None:
    """Have the kernel compute checksums before it sends by eth0 of a namespace. Raises ``BenchError``."""
    switch(host.outside(namespace.path), EDGE, {Feature.SUMS: False})


def batch(place: Place, lines: Sequence[str]) -> None:
    """Lines for ip(8), by one process."""
    place.run("ip", "-batch", "-", text="".join(f"{line}\n" for line in lines))
