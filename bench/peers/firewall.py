"""What the firewall plugin has in the kernel for networks with ``ingressPolicy: same-bridge``: rules of iptables. Pure.

    host.run("iptables-restore", text=loaded([Network("br0", IPv4Address("10.77.0.2"))]))
    stages(networks), accepts(networks), forward()         # line by line, as iptables-save prints them

The plugin prepends a rule a network to each of two stages: what comes from a bridge and is not for it goes to the
second stage, and what is for any of the bridges is dropped there. A packet that may pass meets all rules of the first
stage, and, where it is from one of the networks, all of the second. Version 1.1.1 was looked at; tests compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

FIRST, SECOND, ACCEPTS, ADMIN = "CNI-ISOLATION-STAGE-1", "CNI-ISOLATION-STAGE-2", "CNI-FORWARD", "CNI-ADMIN"
"""The plugin's chains."""

_COMMENT = '-m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge)"'


@dataclass(frozen=True, slots=True)
class Network:
    """A bridge, and the address of the container on it."""

    bridge: str
    container: IPv4Address

    @property
    def gateway(self) -> IPv4Address:
        """The bridge's own address."""
        return self.container - 1


def stages(networks: Sequence[Network], suffix: str = "") -> list[str]:
    """The rules that ``ingressPolicy`` writes for these networks; ``suffix`` is of the names of the chains."""
    first, second = FIRST + suffix, SECOND + suffix
    newest = [network.bridge for network in reversed(networks)]
    return [
        *(f"-A {first} -i {bridge} ! -o {bridge} {_COMMENT} -j {second}" for bridge in newest),
        f"-A {first} {_COMMENT} -j RETURN",
        *(f"-A {second} -o {bridge} {_COMMENT} -j DROP" for bridge in newest),
        f"-A {second} {_COMMENT} -j RETURN",
    ]


def accepts(networks: Sequence[Network], suffix: str = "") -> list[str]:
    """What else the plugin writes: a jump to an administrator's chain, and two rules a container."""
    chain = ACCEPTS + suffix
    rules = [f'-A {chain} -m comment --comment "CNI firewall plugin admin overrides" -j {ADMIN}']
    for network in networks:
        rules.append(f"-A {chain} -d {network.container}/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
        rules.append(f"-A {chain} -s {network.container}/32 -j ACCEPT")
    return rules


def forward() -> list[str]:
    """How the plugin leads forwarded packets to its rules."""
    return [
        f"-A FORWARD {_COMMENT} -j {FIRST}",
        f'-A FORWARD -m comment --comment "CNI firewall plugin rules" -j {ACCEPTS}',
    ]


def loaded(networks: Sequence[Network]) -> str:
    """All of it after an ADD on each network, for iptables-restore."""
    chains = [f":{chain} - [0:0]" for chain in (ADMIN, ACCEPTS, FIRST, SECOND)]
    rules = [*forward(), *accepts(networks), *stages(networks)]
    return "\n".join(["*filter", ":FORWARD ACCEPT [0:0]", *chains, *rules, "COMMIT", ""])
