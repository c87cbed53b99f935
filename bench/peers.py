"""Whoever we are compared with: Debian's Go plugins, ``nft`` as a process, and libnftables in a process that lives.

    GoPlugins(host).backend            "iptables-nft", or what else these plugins write their rules by
    NftProcess(host)                   one element of a map, by "nft -f -"
    Libnftables(host)                  one element of a map, in process

Be aware: the portmap and firewall of Debian 12 (1.1.1) know iptables only; nftables came to portmap with 1.6. What
``iptables`` is on Debian 12, iptables-nft, writes nftables rules in iptables' form. So that is the backend that is
compared here, and every table says so.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from ipaddress import ip_interface
from pathlib import Path

from bench.cni import Container, configuration, environment
from bench.native import BenchError
from bench.place import SYSTEM_PATH, Host
from bench.rulesets import portmap_chain, portmap_rules
from bench.starter import Done, Starter
from dataplane.namespaces import inside
from dataplane.nft.client import LibNftables
from dataplane.nft.objects import Comment, Element, Port, Set
from dataplane.nft.transaction import Transaction, add, create, delete
from dataplane.types import Protocol

GO_PLUGINS = Path("/usr/lib/cni")
NETWORK = "bench"

_MAP = Set("bench", ("inet_proto", "inet_service"), ("ipv4_addr", "inet_service"))
_CHUNK = 500  # elements of one transaction


class GoPlugins:
    """The Go plugins on one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        missing = [name for name in ("bridge", "host-local", "portmap", "firewall") if not (GO_PLUGINS / name).exists()]
        if missing:
            raise BenchError(
                f"could not find {', '.join(missing)} in {GO_PLUGINS}: install the package containernetworking-plugins"
            )

    @property
    def backend(self) -> str:
        """How portmap writes its rules: what it is linked with, and what iptables is on this machine."""
        if b"sigs.k8s.io/knftables" in (GO_PLUGINS / "portmap").read_bytes():
            return "nftables"
        return "iptables-nft" if "nf_tables" in self._host.run("iptables", "-V") else "iptables-legacy"

    def environment(self, verb: str, container: Container) -> dict[str, str]:
        """The parameters of a call."""
        return environment(verb, container, str(GO_PLUGINS))

    def preload(self, starter: Starter, containers: Sequence[Container]) -> None:
        """Publish the ports of these: the first by an ADD, the others by rules of just that form, all at once.

        An ADD for each would take the better part of an hour. Raises ``BenchError`` where the form is another.
        """
        if not containers:
            return
        first, *others = containers
        text = configuration("portmap", NETWORK, first.ports, first.previous_result())
        starter.run(GO_PLUGINS / "portmap", self.environment("ADD", first), text)
        saved = self._host.run("iptables-save", "-t", "nat")
        found = re.search(r"^:(CNI-DN-\w+)", saved, re.MULTILINE)
        if found is None:
            raise BenchError(f"could not read the rules of portmap: none of\n{saved[:2000]}")
        written = [line for line in saved.splitlines() if found[1] in line and line.startswith("-A")]
        if sorted(written) != sorted(portmap_rules(first, NETWORK)):
            raise BenchError("could not preload: this portmap writes other rules than those that are known here")
        lines = ["*nat", *(f":{portmap_chain(container, NETWORK)} - [0:0]" for container in others)]
        for container in others:
            lines += portmap_rules(container, NETWORK)
        self._host.run("iptables-restore", "--noflush", text="\n".join([*lines, "COMMIT", ""]))


class NftProcess:
    """One element at a time, by a process each: ``nft -f -``."""

    def __init__(self, host: Host, present: int) -> None:
        found = shutil.which("nft", path=SYSTEM_PATH)
        if found is None:
            raise BenchError("could not find nft: install the package nftables")
        self._nft = Path(found)
        _fill(host, present)

    def change(self, starter: Starter, verb: str, port: int) -> Done:
        """ADD or DEL one."""
        return starter.run(self._nft, {"PATH": "/usr/sbin:/usr/bin"}, _change(verb, port).text(), ("-f", "-"))


class Libnftables:
    """One element at a time, by libnftables in this process, in a namespace of its own."""

    def __init__(self, host: Host, present: int) -> None:
        self._netns = host.netns
        _fill(host, present)

    def changes(self, port: int, pairs: int) -> list[tuple[str, float]]:
        """ADD and DEL one, so many times: verb and milliseconds."""

        def there() -> list[tuple[str, float]]:
            nft = LibNftables()
            nft.run(_change("ADD", port))  # the library is loaded and its socket open
            nft.run(_change("DEL", port))
            spent = []
            for _ in range(pairs):
                for verb in ("ADD", "DEL"):
                    transaction = _change(verb, port)
                    began = time.perf_counter_ns()
                    nft.run(transaction)
                    spent.append((verb, (time.perf_counter_ns() - began) / 1e6))
            return spent

        with self._netns.open("rb") as netns:
            return inside(netns.fileno(), there)


def _element(port: int) -> Element:
    value = (ip_interface("10.77.0.2/16").ip, Port(80))
    return Element(_MAP.name, (Protocol.TCP, Port(port)), value, Comment.owner(NETWORK, "one", "eth0"))


def _change(verb: str, port: int) -> Transaction:
    return Transaction((create(_element(port)) if verb == "ADD" else delete(_element(port)),))


def _fill(host: Host, present: int) -> None:
    """A table with a map of so many elements."""
    host.run("nft", "-f", "-", text=Transaction((add(), add(_MAP))).text())
    for start in range(0, present, _CHUNK):
        chunk = range(start, min(start + _CHUNK, present))
        host.run("nft", "-f", "-", text=Transaction(tuple(add(_element(10000 + one)) for one in chunk)).text())
