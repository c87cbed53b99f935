"""The processes by which portmap 1.9.1 publishes ports with its nftables backend: the same calls of nft, in its order.

    calls = PortmapCalls(Nft(starter))
    calls.add(container).milliseconds          # nft --version; nft --check; nft -f - with a rule a port
    calls.delete(container).milliseconds       # for ip and ip6 each: those two, three listings as JSON, nft -f -

An ADD is three processes and a DEL twelve. Rules are deleted by their handles, and these are found by listing the
chains as JSON. portmap serves no change of an attachment: what replaces one is a DEL and an ADD.

Be aware: milliseconds are those of nft alone. What portmap itself takes (its start, and reading JSON of megabytes) is
not counted, to its advantage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bench.cni import Container
from bench.instruments.starter import Done
from bench.peers.nft import Nft
from bench.peers.rulesets import PORTMAP_TABLE, portmap_nft_rules

FAMILIES = ("ip", "ip6")
TABLE = PORTMAP_TABLE.split()[1]
CHAINS = ("hostports", "hostip_hostports", "masquerading")
"""Those that rules of a container may be in."""

# What knftables writes before the rules of a container, at each ADD.
_SKELETON = """\
add table ip cni_hostport { comment "CNI portmap plugin" ; }
add chain ip cni_hostport hostports
add chain ip cni_hostport hostip_hostports
add chain ip cni_hostport hostports_all
flush chain ip cni_hostport hostports_all
add rule ip cni_hostport hostports_all jump hostip_hostports
add rule ip cni_hostport hostports_all jump hostports
add chain ip cni_hostport prerouting { type nat hook prerouting priority -100 ; }
flush chain ip cni_hostport prerouting
add rule ip cni_hostport prerouting fib daddr type local jump hostports_all
add chain ip cni_hostport output { type nat hook output priority -100 ; }
flush chain ip cni_hostport output
add rule ip cni_hostport output fib daddr type local jump hostports_all
add chain ip cni_hostport masquerading { type nat hook postrouting priority 100 ; }
"""


@dataclass(frozen=True, slots=True)
class Spent:
    """What the calls of one ADD or DEL took together."""

    milliseconds: float
    calls: int
    rules: int
    """How many it added, or found and deleted."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.milliseconds + other.milliseconds, self.calls + other.calls, self.rules + other.rules)


class PortmapCalls:
    """See the module."""

    def __init__(self, nft: Nft) -> None:
        self._nft = nft

    def add(self, container: Container) -> Spent:
        """What an ADD calls. Raises ``BenchError``."""
        text = added(container)
        done = [*self._begin("ip"), self._nft.change(text)]
        return _spent(done, text.count(_comment(container.name)))

    def delete(self, container: Container) -> Spent:
        """What a DEL calls. Raises ``BenchError``."""
        done, rules = list[Done](), 0
        for family in FAMILIES:
            done += self._begin(family)
            lines = ""
            for chain in CHAINS:
                # A chain that is not there is no failure: IPv6 was never published.
                listed = self._nft.run("--json", "list", "chain", family, TABLE, chain, check=False)
                done.append(listed)
                if not listed.status:
                    lines += deleted(family, chain, handles(listed.output, container.name))
            rules += lines.count("\n")
            done.append(self._nft.change(lines))
        return _spent(done, rules)

    def _begin(self, family: str) -> list[Done]:
        """What knftables asks before anything else: which nft, and whether it may."""
        test = f'add table {family} {TABLE} {{ comment "test" ; }}\n'
        return [self._nft.run("--version"), self._nft.change(test, "--check")]


def added(container: Container) -> str:
    """What an ADD hands to nft. Pure."""
    rules = (
        f"add rule {PORTMAP_TABLE} {chain} {rule}\n"
        for chain, rules in portmap_nft_rules(container).items()
        for rule in rules
    )
    return "".join([_SKELETON, *rules])


def handles(listed: str, name: str) -> list[int]:
    """The handles of the rules that carry a container's name, in a chain as nft lists it in JSON. Pure."""
    rules: Iterable[Mapping[str, object]] = (one["rule"] for one in json.loads(listed)["nftables"] if "rule" in one)
    return [handle for rule in rules if rule.get("comment") == name and isinstance(handle := rule["handle"], int)]


def deleted(family: str, chain: str, handles: Iterable[int]) -> str:
    """What a DEL hands to nft of one chain. Pure."""
    return "".join(f"delete rule {family} {TABLE} {chain} handle {handle}\n" for handle in handles)


def _comment(name: str) -> str:
    return f'comment "{name}"'


def _spent(done: Iterable[Done], rules: int) -> Spent:
    calls = list(done)
    return Spent(sum(one.milliseconds for one in calls), len(calls), rules)
