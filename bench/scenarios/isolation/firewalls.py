"""Whether the firewall plugin writes the rules that are compared here: asked of the plugin itself, and of iptables.

verbatim(host, Path("/usr/lib/cni/firewall"))        # on a host that has no rules yet
backend(host)                                        # "iptables-nft", or why its rules cannot be compared
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.cni import Container, configuration, environment
from bench.native import BenchError
from bench.peers.firewall import Network, accepts, forward, stages
from bench.peers.plugins import version_of
from bench.place import SYSTEM_PATH, Host
from bench.scenarios.isolation.rules import HERE_NETWORK, THERE_NETWORK

PLUGIN = "firewall"
_PAIR = (HERE_NETWORK, THERE_NETWORK)


def backend(host: Host) -> str:
    """How iptables writes rules here: with which backend. Raises ``BenchError`` where it is not nftables', which alone
    can be switched without writing them anew."""
    if shutil.which("iptables-restore", path=SYSTEM_PATH) is None:
        raise BenchError("there is no iptables-restore; install the package iptables")
    if "nf_tables" not in host.run("iptables", "-V"):
        raise BenchError("iptables is not iptables-nft here")
    return "iptables-nft"


def verbatim(host: Host, plugin: Path) -> bool:
    """Whether a firewall plugin that adds two networks ("same-bridge") writes, chain for chain and in this order, the
    rules of ``bench.peers.firewall``. Its rules stay on the host. Raises ``BenchError`` where it fails."""
    place = host.namespace("container")  # newer plugins refuse a container in the namespace that they run in
    try:
        for network in _PAIR:
            container = _container(network, place.path)
            previous = container.previous_result()
            text = configuration(PLUGIN, network.bridge, previous=previous, ingressPolicy="same-bridge")
            host.run(plugin, env=environment("ADD", container, str(plugin.parent), PATH=SYSTEM_PATH), text=text)
    finally:
        host.run("ip", "netns", "delete", place.name)
    saved = host.run("iptables-save", "-t", "filter").splitlines()
    wanted = [*forward(), *stages(_PAIR), *accepts(_PAIR)]
    return _by_chain(line for line in saved if line.startswith("-A ")) == _by_chain(wanted)


def compared(host: Host, directories: Sequence[Path]) -> tuple[bool, list[str]]:
    """Whether a plugin of these directories writes the rules that are compared, or none is there to be asked; and what
    a reader must know about that. Leaves no rules on the host."""
    found = [directory / PLUGIN for directory in directories if (directory / PLUGIN).exists()]
    if not found:
        return True, [
            f"no {PLUGIN} plugin is in {', '.join(map(str, directories))}: its rules are those of version 1.1.1"
        ]
    notes, same = [], []
    for plugin in found:
        try:
            same.append(verbatim(host, plugin))
            said = "are compared, rule for rule" if same[-1] else "are others than those that are compared"
        except BenchError as error:
            said = f"are not known: {error}"
        host.run("nft", "flush", "ruleset")
        notes.append(f"the rules of {PLUGIN} {version_of(plugin.parent)} {said}")
    return any(same), notes


def _container(network: Network, netns: str) -> Container:
    name = network.bridge.replace("br-", "c-")
    return Container(name, netns, f"{network.container}/24", str(network.gateway), network.bridge, f"v{name}")


def _by_chain(rules: Iterable[str]) -> dict[str, list[str]]:
    chains: defaultdict[str, list[str]] = defaultdict(list)
    for rule in rules:
        chains[rule.split()[1]].append(rule)
    return dict(chains)
