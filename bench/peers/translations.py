"""Published ports as others write them: text for ``nft -f`` and ``iptables-restore``. Pure.

    nft_map((Forwarded(Protocol.UDP, 39000, address, 9000), ...))      # one rule, one map: as good as nft gets
    portmap_nft(...)                                                   # plugins 1.9: a rule for each port
    portmap(...), firewall(address, device)                            # plugins 1.1: iptables

Rules that count cost what counting costs: those of iptables always count, those of nft here never do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from dataplane.types import Address, Protocol

OWNER = "c0"
"""The container ID in comments."""

_MULTIPORT = 15
"""Ports that one multiport match of iptables takes: portmap writes a rule for each so many."""
_DN = "CNI-DN-d0507b5b1218d318cee5b"


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A port of the host, and where it leads."""

    protocol: Protocol
    port: int
    address: Address
    inner: int

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.address.version


def nft_map(ports: Iterable[Forwarded], networks: Iterable[IPv4Network | IPv6Network]) -> str:
    """All ports in one map a family, asked for addresses of this host alone; connections of a network to itself, and
    those that leave it, are masqueraded."""
    by_version = _by_version(ports)
    lines = ["table inet published {"]
    for version, listed in by_version.items():
        elements = ", ".join(f"{one.protocol} . {one.port} : {one.address} . {one.inner}" for one in listed)
        lines.append(f"map ports{version} {{")
        lines.append(f"type inet_proto . inet_service : ipv{version}_addr . inet_service")
        lines += [f"elements = {{ {elements} }}", "}"]
    for chain, hook in (("in", "prerouting"), ("out", "output")):
        lines += [f"chain {chain} {{", f"type nat hook {hook} priority -100"]
        for version in by_version:
            to = f"{_ip(version)} to meta l4proto . th dport map @ports{version}"
            lines.append(f"fib daddr type local dnat {to}")
        lines.append("}")
    lines += ["chain source {", "type nat hook postrouting priority 100"]
    for network in networks:
        ip = _ip(network.version)
        lines.append(f"ct status dnat {ip} saddr {network} {ip} daddr {network} masquerade")
        lines.append(f"{ip} saddr {network} {ip} daddr != {network} masquerade")
    return "\n".join([*lines, "}", "}", ""])


def portmap_nft(ports: Sequence[Forwarded]) -> str:
    """What portmap writes by nft for IPv4, as 1.9 does: a rule for each port."""
    address = ports[0].address
    rules = (
        f"ip protocol {one.protocol} th dport {one.port} dnat ip addr . port to {one.address} . {one.inner}"
        f' comment "{OWNER}"'
        for one in ports
    )
    lines = ['table ip cni_hostport { comment "CNI portmap plugin"', "chain hostip_hostports {", "}"]
    lines += ["chain hostports {", *rules, "}"]
    for hook in ("prerouting", "output"):
        jumps = ("jump hostip_hostports", "fib daddr type local jump hostports")
        lines += [f"chain {hook} {{", f"type nat hook {hook} priority -100", *jumps, "}"]
    lines += ["chain masquerading {", "type nat hook postrouting priority 100"]
    lines += [f'ip saddr {source} ip daddr {address} masquerade comment "{OWNER}"' for source in (address, "127.0.0.1")]
    return "\n".join([*lines, "}", "}", ""])


def portmap(ports: Sequence[Forwarded], network: IPv4Network, name: str) -> str:
    """What portmap writes by iptables for IPv4, until 1.5 always: 1.1.1 was looked at."""
    lines = [
        "*nat",
        *(f":{chain} - [0:0]" for chain in (_DN, "CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK")),
        "-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
        "-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
        '-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ',
    ]
    for one in ports:
        match = f"-p {one.protocol} -m {one.protocol} --dport {one.port}"
        lines += [
            f"-A {_DN} -s {network} {match} -j CNI-HOSTPORT-SETMARK",
            f"-A {_DN} -s 127.0.0.1/32 {match} -j CNI-HOSTPORT-SETMARK",
            f"-A {_DN} {match} -j DNAT --to-destination {one.address}:{one.inner}",
        ]
    comment = rf'"dnat name: \"{name}\" id: \"{OWNER}\""'
    for protocol in sorted({one.protocol for one in ports}):
        numbers = [one.port for one in ports if one.protocol == protocol]
        for start in range(0, len(numbers), _MULTIPORT):
            listed = ",".join(map(str, numbers[start : start + _MULTIPORT]))
            match = f"-p {protocol} -m comment --comment {comment} -m multiport --dports {listed}"
            lines.append(f"-A CNI-HOSTPORT-DNAT {match} -j {_DN}")
    return "\n".join([
        *lines,
        "-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE",
        '-A CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark 0x2000/0x2000',
        "COMMIT",
        "",
    ])  # fmt: skip


def firewall(address: Address, device: str) -> str:
    """What firewall writes by iptables for one container of one network, with ``ingressPolicy: same-bridge``."""
    policy = '-m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge)"'
    chains = ("CNI-ADMIN", "CNI-FORWARD", "CNI-ISOLATION-STAGE-1", "CNI-ISOLATION-STAGE-2")
    return "\n".join([
        "*filter",
        *(f":{chain} - [0:0]" for chain in chains),
        f"-A FORWARD {policy} -j CNI-ISOLATION-STAGE-1",
        '-A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD',
        '-A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN',
        f"-A CNI-FORWARD -d {address}/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"-A CNI-FORWARD -s {address}/32 -j ACCEPT",
        f"-A CNI-ISOLATION-STAGE-1 -i {device} ! -o {device} {policy} -j CNI-ISOLATION-STAGE-2",
        f"-A CNI-ISOLATION-STAGE-1 {policy} -j RETURN",
        f"-A CNI-ISOLATION-STAGE-2 -o {device} {policy} -j DROP",
        f"-A CNI-ISOLATION-STAGE-2 {policy} -j RETURN",
        "COMMIT",
        "",
    ])  # fmt: skip


def _ip(version: int) -> str:
    return "ip" if version == 4 else "ip6"


def _by_version(ports: Iterable[Forwarded]) -> dict[int, list[Forwarded]]:
    found: dict[int, list[Forwarded]] = {}
    for one in ports:
        found.setdefault(one.version, []).append(one)
    return dict(sorted(found.items()))
