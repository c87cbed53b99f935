"""Whole networks: a conflist's plugins as a runtime calls them, ours and the Go plugins'.

    chain = single(ours)                                      # or drop_ins(ours), go_chain(go)
    added = chain.call(starter, "ADD", container)
    added.result["ips"]
    chain.call(starter, "CHECK", container, added.result)
    chain.call(starter, "DEL", container, added.result)

All have the same keys: a bridge that is the gateway, addresses by host-local of one subnet, published ports, and
``"ingressPolicy": "same-bridge"``; no masquerade of egress.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cni import IFNAME, Container, configuration
from bench.figures import Results
from bench.figures.plots import Role
from bench.hosts.ours import Ours
from bench.instruments.starter import Done, Starter
from bench.peers.plugins import NETWORK, GoPlugins
from bench.place import Host

SINGLE, DROP_INS = "dataplane-bridge", "chain on our drop-ins"

_GO = "Go chain"

_BRIDGE = {
    "bridge": "br-bench",
    "isGateway": True,
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.77.0.0/16"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    },
}
_POLICY = {"ingressPolicy": "same-bridge"}
_Plugins = tuple[tuple[str, Mapping[str, object]], ...]
_TAKE_PORTS = {"portmap", SINGLE}


@dataclass(frozen=True, slots=True)
class Called:
    """One call of a whole chain."""

    verb: str
    done: tuple[Done, ...]
    """Its executables, in the order in which they ran."""
    result: Mapping[str, Any]
    """Of an ADD."""

    @property
    def milliseconds(self) -> float:
        """From exec to exit, summed up."""
        return sum(one.milliseconds for one in self.done)

    @property
    def cpu_milliseconds(self) -> float:
        """Of the processors, for the executables and all that they started."""
        return sum(one.cpu_microseconds for one in self.done) / 1e3

    @property
    def failure(self) -> str:
        """What the first that failed said; empty where none did."""
        return next((one.output.strip() or "nothing" for one in self.done if one.status), "")


@dataclass(frozen=True, slots=True)
class Chain:
    """A conflist, and who answers for what it did."""

    name: str
    plugins: tuple[tuple[Path, Mapping[str, object]], ...]
    environment: Callable[[str, Container, str], dict[str, str]]
    """By verb, container and plugin."""
    published: Callable[[], Collection[int]]
    """The ports of the host that its rules lead to a container."""

    def call(
        self,
        starter: Starter,
        verb: str,
        container: Container,
        result: Mapping[str, Any] | None = None,
        *,
        check: bool = True,
    ) -> Called:
        """ADD and CHECK in order, DEL in reverse. ADD hands each plugin the result of the one before, the others get
        that of the last. Raises ``BenchError`` where one fails and is checked."""
        done = list[Done]()
        for path, keys in reversed(self.plugins) if verb == "DEL" else self.plugins:
            ports = container.ports if path.name in _TAKE_PORTS else ()
            text = configuration(path.name, NETWORK, ports, result, **keys)
            done.append(starter.run(path, self.environment(verb, container, path.name), text, check=check))
            if done[-1].status and verb != "DEL":
                break
            if verb == "ADD":
                result = json.loads(done[-1].output)
        return Called(verb, tuple(done), result or {})


def single(ours: Ours) -> Chain:
    """Ours: one plugin for all of it."""
    return Chain(SINGLE, ((ours.plugin(SINGLE), {**_BRIDGE, **_POLICY}),), _served(ours), ours.published)


def drop_ins(ours: Ours) -> Chain:
    """The chain of the Go plugins, on ours that stand in for them: as it is after ``dpctl install --drop-in``."""
    plugins: _Plugins = (("bridge", _BRIDGE), ("portmap", {}), ("firewall", _POLICY))
    return Chain(DROP_INS, tuple((ours.plugin(name), keys) for name, keys in plugins), _served(ours), ours.published)


def go_chain(go: GoPlugins) -> Chain:
    """The Go plugins of a peer: bridge, which starts host-local, portmap by the peer's backend, and firewall."""
    plugins: _Plugins = (("bridge", _BRIDGE), ("portmap", go.peer.keys), ("firewall", _POLICY))
    name = f"{_GO} {go.peer.version}, {go.peer.backend}"
    return Chain(name, tuple((go.plugin(name), keys) for name, keys in plugins), go.environment, go.published)


def go_roles(results: Results) -> dict[str, Role]:
    """The Go chains that were measured, by name: the first is what people run. Pure."""
    names = sorted({one.variant for one in results.samples if one.variant.startswith(f"{_GO} ")})
    return {name: Role.TODAY_TOO if place else Role.TODAY for place, name in enumerate(names)}


def wrong(host: Host, chain: Chain, container: Container, result: Mapping[str, Any], others: Collection[int]) -> str:
    """Why a container is not attached as its result says, by what the kernel has: its ports and the others' published,
    its address on its interface. With no result: why it is not gone. Empty where all is as it should be."""
    wanted = {*others, *(int(str(one["hostPort"])) for one in container.ports if result)}
    if (there := set(chain.published())) != wanted:
        return f"{len(wanted):,} ports should be published, and {len(there):,} are"
    listed = host.existing(container.name).run("ip", "-json", "-4", "address", "show", "dev", IFNAME, check=False)
    held = {f"{a['local']}/{a['prefixlen']}" for one in json.loads(listed or "[]") for a in one.get("addr_info", [])}
    given = {str(one["address"]) for one in result.get("ips", ())}
    return "" if held == given else f"its addresses should be {sorted(given)}, and are {sorted(held)}"


def _served(ours: Ours) -> Callable[[str, Container, str], dict[str, str]]:
    return lambda verb, container, _: ours.environment(verb, container)
