"""A host with podman, a client outside, and two networks made in each of the ways that users have.

with PodmanHost.started(Setup.STOCK, tmp_path) as host:
    host.podman.run_web("web", "--network", host.front, "-p", "18080:80")
    fetch(host.client, plan.HOST4, 18080)
    host.podman.remove_all()
    assert host.left() == {}

setup    the networks' plugins                        by
single   dataplane-bridge                             back, IPv4: dpctl install; front, dual stack: the same entry
stock    bridge, portmap, firewall, tuning            podman network create, on our drop-ins
mixed    the same, of which bridge is Debian's        podman network create, on our portmap, firewall and host-local
chained  Debian's bridge, dataplane                   a conflist of the user's
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

from support import needs, plan
from support.netns import Namespace, Sandbox, outer_state
from support.podman import Podman
from support.residue import residue
from support.traffic import serve

DPCTL = Path(sys.executable).with_name("dpctl")
GO_PLUGINS = Path("/usr/lib/cni")
_EXAMPLE = "10-dataplane.conflist"
"""What ``dpctl install`` makes."""


class Setup(StrEnum):
    """How networks are made."""

    SINGLE = "single"
    STOCK = "stock"
    MIXED = "mixed"
    CHAINED = "chained"


class PodmanHost:
    """The whole. Containers of ``front`` and those of ``back`` reach each other by published ports alone.

    ``front6`` and ``back6`` tell which of the two networks has IPv6.
    """

    def __init__(self, setup: Setup, root: Path, host: Sandbox) -> None:
        self.setup, self.host = setup, host
        self._root, self._networks = root, root / "net.d"
        for name in ("bridge", "host-local", "tuning"):
            needs.file(GO_PLUGINS / name, package="containernetworking-plugins")
        self.front6 = setup is not Setup.CHAINED
        self.back6 = setup in {Setup.STOCK, Setup.MIXED}
        own, drop_ins = root / "bin", root / "drop-ins"
        host.run(DPCTL, "install", "--cni-bin", own, "--conf", self._networks, "--drop-in", "--drop-in-bin", drop_ins)
        self._example = (self._networks / _EXAMPLE).read_text()
        if setup is not Setup.SINGLE:
            (self._networks / _EXAMPLE).unlink()
        self.client = _client(host)
        self.podman = Podman(host, root, self._plugin_directories(own, drop_ins), self._networks)
        self.podman.make_image()

    @classmethod
    @contextmanager
    def started(cls, setup: Setup, root: Path) -> Iterator[PodmanHost]:
        """Install everything. At the end nothing is left, and the machine outside is as it was."""
        needs.root()
        before = outer_state()
        host = Sandbox()
        try:
            made = cls(setup, root, host)
        except BaseException:
            host.stop()
            raise
        try:
            yield made
        finally:
            try:
                made.podman.stop()
            finally:
                made.host.stop()  # after a power cut it is another one
        assert outer_state() == before, "the tests left something on the machine they run on"

    @cached_property
    def front(self) -> str:
        """The name of the one network."""
        return self._made(plan.FRONT)

    @cached_property
    def back(self) -> str:
        """The name of the other; made only where it is used, because podman asks all plugins of all networks."""
        return self._made(plan.BACK)

    def create(self, network: plan.Network, *options: str, dual_stack: bool = True) -> str:
        """``podman network create``; the name."""
        words = ["--subnet", network.subnet4, *(["--ipv6", "--subnet", network.subnet6] if dual_stack else [])]
        self.podman("network", "create", *words, *options, network.name)
        return network.name

    def power_cut(self, *, leases_kept: bool) -> None:
        """Everything that runs ends at once. The machine that starts has what was on disk, and a new /run and kernel.

        Leases are on disk; where podman comes from a distribution, systemd-tmpfiles removes them at boot.
        """
        disk = self._root / "var-lib-cni"
        self.host.run("cp", "-aT", "/var/lib/cni", disk)
        self.host.stop()
        self.host = Sandbox()
        self.host.run("mkdir", "-p", "/var/lib/cni")
        self.host.run("cp", "-aT", disk, "/var/lib/cni")
        self.host.run("rm", "-r", disk, *([] if leases_kept else ["/var/lib/cni/networks"]))
        self.client = _client(self.host)
        self.podman.after_power_cut(self.host)

    def broken_settings(self) -> str:
        """A file that nothing of ours can work with: what runs with it as DATAPLANE_CONFIG fails."""
        file = self._root / "broken.toml"
        file.write_text("nonsense = 1")
        return str(file)

    def left(self) -> dict[str, list[str]]:
        """What there is of containers, on the host and in what podman's libcni remembers."""
        cached = self.host.run("find", "/var/lib/cni/results", "-type", "f").stdout.split()
        found = self.host.run("ls", "/run/netns").stdout.split()
        namespaces = [name for name in found if name != self.client.name]
        kinds = {"cached results": cached, "namespaces": namespaces}
        return residue(self.host) | {kind: things for kind, things in kinds.items() if things}

    def leases(self, network: str) -> list[str]:
        """The addresses that are taken, by the files that say so."""
        found = self.host.run("ls", f"/var/lib/cni/networks/{network}").stdout.split()
        return sorted(name for name in found if name != "lock" and not name.startswith("last_reserved_ip."))

    def ports(self) -> list[dict[str, Any]]:
        """What dpctl says is published."""
        listed: list[dict[str, Any]] = json.loads(self.host.run(DPCTL, "ports", "--json").stdout)["ports"]
        return listed

    def _plugin_directories(self, own: Path, drop_ins: Path) -> list[Path]:
        if self.setup is Setup.CHAINED:
            return [own, GO_PLUGINS]
        suggested = [drop_ins, own, GO_PLUGINS]
        if self.setup is not Setup.MIXED:
            return suggested
        first = self._root / "first"
        first.mkdir()
        (first / "bridge").symlink_to(GO_PLUGINS / "bridge")
        return [first, *suggested]

    def _made(self, network: plan.Network) -> str:
        """One of the two networks; its name."""
        if self.setup in {Setup.STOCK, Setup.MIXED}:
            return self.create(network, "-o", "isolate=true")
        if self.setup is Setup.SINGLE and network is plan.BACK:
            return "dataplane"  # as it was installed
        conflist = self._chained(network) if self.setup is Setup.CHAINED else self._edited(network)
        (self._networks / f"20-{network.name}.conflist").write_text(json.dumps(conflist))
        return network.name

    def _edited(self, network: plan.Network) -> dict[str, Any]:
        """The example with a name, a bridge and ranges of its own."""
        conflist: dict[str, Any] = json.loads(self._example)
        (entry,) = conflist["plugins"]
        entry |= {"bridge": network.device, "ipam": _ipam(network, dual_stack=True)}
        return {**conflist, "name": network.name}

    def _chained(self, network: plan.Network) -> dict[str, Any]:
        bridge = {"type": "bridge", "bridge": network.device, "isGateway": True, "hairpinMode": True}
        ours = {"type": "dataplane", "capabilities": {"portMappings": True}, "ipMasq": True}
        plugins = [{**bridge, "ipam": _ipam(network, dual_stack=False)}, ours]
        return {"cniVersion": "0.4.0", "name": network.name, "plugins": plugins}


def _ipam(network: plan.Network, *, dual_stack: bool) -> dict[str, Any]:
    subnets: list[IPv4Network | IPv6Network] = [network.subnet4]
    if dual_stack:
        subnets.append(network.subnet6)
    return {
        "type": "host-local",
        "ranges": [[{"subnet": str(subnet)}] for subnet in subnets],
        "routes": [{"dst": "::/0" if subnet.version == 6 else "0.0.0.0/0"} for subnet in subnets],
    }


def _client(host: Sandbox) -> Namespace:
    """A machine outside, which knows the way to the host and not to its containers, and serves there."""
    place = host.namespace("client")
    addresses = (f"{plan.HOST4}/24 {plan.HOST6}/64", f"{plan.CLIENT4}/24 {plan.CLIENT6}/64")
    host.link(plan.OUTSIDE.device, place, "eth0", *addresses)
    serve(place, "client", "tcp", 80, "::")
    return place
