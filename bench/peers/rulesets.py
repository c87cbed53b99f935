"""What others have in the kernel for many published ports, as text to load at once: ADDs would take hours. Pure.

    present = crowd(10_000)                                     # containers that publish so many ports
    host.run("nft", "-f", "-", text=portmap_nft(present))       # a rule per port, as portmap writes them with nftables
    host.run("iptables-restore", text=portmap_iptables(present, "bench"))
    host.run("nft", "-f", "-", text=pure_map(present))          # an element per port: as good as nft gets

What publishes one port is the same text, of one container. ``firewall.py`` has the rules that let packets through.

The forms are those of real ADDs: portmap 1.9.1 (backend nftables) and 1.1.1 (iptables), rule for rule and in their
order. Tests compare both with what the executables leave behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha512
from ipaddress import IPv4Address, ip_interface

from bench.cni import Container, port
from dataplane.types import Protocol

FIRST_PORT = 5000
"""Of a crowd; smaller numbers are left to what is measured."""
PORTS_EACH = 10
"""Of a container of a crowd. One or two are usual; more favour portmap on iptables, which has a rule for 15 of them."""
MOST = 60_000
"""Ports of one protocol that a crowd can publish."""

PORTMAP_TABLE = "ip cni_hostport"
MAP_TABLE, MAP_TABLE6 = "ip published", "ip6 published"
CONTAINERS, CONTAINERS6 = "10.77.0.0/16", "fd00:77::/64"
"""The networks that all containers are on."""

_FIRST_ADDRESS = IPv4Address("10.77.4.0")
_GATEWAY = "10.77.0.1"
_MULTIPORT = 15
"""Ports that one multiport match of iptables takes: portmap writes a rule for each so many."""
_PROTOCOLS = (Protocol.TCP, Protocol.UDP)
_LOADED_AT_ONCE = 500
"""Elements of one command: nft reads many short ones, or one endless one, more slowly."""

_IPTABLES_CHAINS = ("CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK")
_IPTABLES_RULES = (
    "-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
    "-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
    '-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ',
    "-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE",
    '-A CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark 0x2000/0x2000',
)


def crowd(
    count: int, ports_each: int = PORTS_EACH, protocols: Sequence[Protocol] = _PROTOCOLS, first: int = FIRST_PORT
) -> list[Container]:
    """Containers that publish so many ports in all, each number once for each protocol, and that nobody runs.

    No ports are a range: host and container numbers differ. Raises ``ValueError`` for more numbers than there are.
    """
    numbers = -(-count // len(protocols))
    if first + numbers > 1 << 16:
        raise ValueError(f"{count:,} ports of {len(protocols)} protocols do not fit between {first} and 65535")
    wanted = [(first + number, protocol) for number in range(numbers) for protocol in protocols][:count]
    made = []
    for number, start in enumerate(range(0, count, ports_each)):
        ports = tuple(
            port(host, 1 + place // len(protocols), protocol)
            for place, (host, protocol) in enumerate(wanted[start : start + ports_each])
        )
        name = f"other{number}"
        address = f"{_FIRST_ADDRESS + number}/16"
        made.append(Container(name, f"/run/netns/{name}", address, _GATEWAY, "br-bench", f"v{name}", ports))
    return made


def around(first: Container, middle: Container, last: Container, others: Sequence[Container]) -> list[Container]:
    """These three, at the places that their names say, among others."""
    half = len(others) // 2
    return [first, *others[:half], middle, *others[half:], last]


def portmap_nft(containers: Iterable[Container]) -> str:
    """The table of portmap with its nftables backend, after an ADD of each: a rule a port, two rules a container."""
    published, masquerading = list[str](), list[str]()
    for container in containers:
        rules = portmap_nft_rules(container)
        published += rules["hostports"]
        masquerading += rules["masquerading"]
    chains = {
        "hostports": published,
        "hostip_hostports": [],
        "hostports_all": ["jump hostip_hostports", "jump hostports"],
        "prerouting": [
            "type nat hook prerouting priority dstnat; policy accept;",
            "fib daddr type local jump hostports_all",
        ],
        "output": [
            "type nat hook output priority -100; policy accept;",
            "fib daddr type local jump hostports_all",
        ],
        "masquerading": ["type nat hook postrouting priority srcnat; policy accept;", *masquerading],
    }
    return _table(PORTMAP_TABLE, ['\tcomment "CNI portmap plugin"', *_chains(chains)])


def portmap_nft_rules(container: Container) -> dict[str, list[str]]:
    """What portmap adds for a container with its nftables backend, by chain."""
    own, comment = _address(container), f'comment "{container.name}"'
    return {
        "hostports": [
            f"{one['protocol']} dport {one['hostPort']} dnat to {_target(container, one, ':')} {comment}"
            for one in container.ports
        ],
        "masquerading": [f"ip saddr {one} ip daddr {own} masquerade {comment}" for one in (own, "127.0.0.1")],
    }


def portmap_iptables(containers: Iterable[Container], network: str) -> str:
    """The nat table of portmap with iptables, after an ADD of each, for iptables-restore: a chain a container."""
    chains, rules = list(_IPTABLES_CHAINS), list(_IPTABLES_RULES)
    for container in containers:
        chains.append(portmap_chain(container, network))
        rules += portmap_rules(container, network)
    return "\n".join(["*nat", *(f":{chain} - [0:0]" for chain in chains), *rules, "COMMIT", ""])


def portmap_chain(container: Container, network: str) -> str:
    """The name of the chain that portmap makes for a container."""
    return f"CNI-DN-{sha512(f'{network}{container.name}'.encode()).hexdigest()[:21]}"


def portmap_rules(container: Container, network: str) -> list[str]:
    """What portmap 1.1.1 adds for a container's ports, as iptables-save prints it."""
    chain, own = portmap_chain(container, network), ip_interface(container.address)
    comment = rf'"dnat name: \"{network}\" id: \"{container.name}\""'
    rules = []
    for protocol in dict.fromkeys(one["protocol"] for one in container.ports):
        ports = [str(one["hostPort"]) for one in container.ports if one["protocol"] == protocol]
        for start in range(0, len(ports), _MULTIPORT):
            listed = ",".join(ports[start : start + _MULTIPORT])
            rules.append(
                f"-A CNI-HOSTPORT-DNAT -p {protocol} -m comment --comment {comment}"
                f" -m multiport --dports {listed} -j {chain}"
            )
    for one in container.ports:
        match = f"-p {one['protocol']} -m {one['protocol']} --dport {one['hostPort']}"
        rules += [
            f"-A {chain} -s {own.network} {match} -j CNI-HOSTPORT-SETMARK",
            f"-A {chain} -s 127.0.0.1/32 {match} -j CNI-HOSTPORT-SETMARK",
            f"-A {chain} {match} -j DNAT --to-destination {_target(container, one, ':')}",
        ]
    return rules


def pure_map(containers: Iterable[Container]) -> str:
    """What who knows nftables well writes by hand: one look-up for all ports, and two rules for those who call their
    own host. Nothing in it grows but the map."""
    local = f"ct status dnat ip saddr 127.0.0.0/8 ip daddr {CONTAINERS} masquerade"
    return _map(MAP_TABLE, CONTAINERS, containers, local)


def pure_map6(containers: Iterable[Container]) -> str:
    """The same by IPv6, whose loopback leads nowhere else."""
    return _map(MAP_TABLE6, CONTAINERS6, containers)


def _map(name: str, network: str, containers: Iterable[Container], *local: str) -> str:
    ip = name.split(maxsplit=1)[0]
    kind = "ipv4_addr" if ip == "ip" else "ipv6_addr"
    elements = [
        f"{one['protocol']} . {one['hostPort']} : {_target(container, one, ' . ')}"
        for container in containers
        for one in container.ports
    ]
    look_up = f"fib daddr type local dnat {ip} to meta l4proto . th dport map @ports"
    table = _table(
        name,
        [
            "\tmap ports {",
            f"\t\ttype inet_proto . inet_service : {kind} . inet_service",
            "\t}",
            *_chains(
                {
                    "prerouting": ["type nat hook prerouting priority dstnat; policy accept;", look_up],
                    "output": ["type nat hook output priority -100; policy accept;", look_up],
                    "postrouting": [
                        "type nat hook postrouting priority srcnat; policy accept;",
                        f"ct status dnat {ip} saddr {network} {ip} daddr {network} masquerade",
                        *local,
                    ],
                }
            ),
        ],
    )
    chunks = (elements[start : start + _LOADED_AT_ONCE] for start in range(0, len(elements), _LOADED_AT_ONCE))
    return table + "".join(f"add element {name} ports {{ {', '.join(chunk)} }}\n" for chunk in chunks)


def _address(container: Container) -> str:
    return str(ip_interface(container.address).ip)


def _target(container: Container, mapping: Mapping[str, object], between: str) -> str:
    return f"{_address(container)}{between}{mapping['containerPort']}"


def _table(name: str, lines: Iterable[str]) -> str:
    return "\n".join([f"table {name} {{", *lines, "}", ""])


def _chains(chains: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """In the form in which nft reads and prints them."""
    for name, rules in chains.items():
        yield f"\tchain {name} {{"
        yield from (f"\t\t{rule}" for rule in rules)
        yield "\t}"
