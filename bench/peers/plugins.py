"""The Go plugins of given directories, each a peer for every backend that its portmap has.

    for peer in found((Path("/usr/lib/cni"),)):      # Peer("portmap 1.1.1, iptables-nft", ...): one a backend
        go = GoPlugins(host, peer)
        go.preload(starter, containers)              # their ports are published, in the form that it writes itself
        go.published()                               # the ports of the host that its rules lead somewhere

Be aware: what ``iptables`` is on a machine decides how portmap writes its rules: iptables-nft, which writes nftables
rules in iptables' form, or iptables-legacy. nftables without iptables came to portmap with 1.6, and has to be asked
for: such a portmap is two peers. firewall knows no nftables to this day: in a chain it always uses iptables.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bench.cni import Container, configuration, environment
from bench.instruments.starter import Starter
from bench.native import BenchError
from bench.peers.rulesets import PORTMAP_TABLE, portmap_iptables, portmap_nft
from bench.place import SYSTEM_PATH, Host

NETWORK = "bench"

PORTMAP = ("portmap",)
CHAIN = ("bridge", "host-local", *PORTMAP, "firewall")
_DOCUMENTS = Path("../../share/doc/containernetworking-plugins/changelog.Debian.gz")


class Backend(StrEnum):
    """How portmap writes its rules."""

    IPTABLES_NFT = "iptables-nft"
    IPTABLES_LEGACY = "iptables-legacy"
    NFTABLES = "nftables"


@dataclass(frozen=True, slots=True)
class Peer:
    """The plugins of a directory, with one of the backends of its portmap."""

    directory: Path
    version: str
    backend: Backend

    @property
    def name(self) -> str:
        """As tables have it."""
        return f"portmap {self.version}, {self.backend}"

    @property
    def keys(self) -> Mapping[str, object]:
        """What portmap's entry of a conflist needs for this backend."""
        return {"backend": "nftables"} if self.backend is Backend.NFTABLES else {}


def found(directories: Sequence[Path], plugins: Sequence[str] = CHAIN) -> list[Peer]:
    """Everyone in these directories, and no two of one name. Raises ``BenchError`` where any of these plugins is
    missing, which are those that are to be started."""
    installed = _installed_iptables()
    peers = list[Peer]()
    for directory in directories:
        missing = [name for name in plugins if not (directory / name).exists()]
        if missing:
            raise BenchError(
                f"could not find {', '.join(missing)} in {directory}: install the package containernetworking-plugins"
            )
        newer = [Backend.NFTABLES] if knows_nftables(directory / "portmap") else []
        backends = [*([installed] if installed else []), *newer]
        if not backends:
            raise BenchError(f"could not compare with {directory}/portmap: it needs iptables; install that package")
        version = version_of(directory)
        if any(peer.version == version for peer in peers):
            version = f"{version} of {directory}"
        peers += [Peer(directory, version, backend) for backend in backends]
    return peers


def knows_nftables(portmap: Path) -> bool:
    """Whether an executable has the nftables backend: the name of its table is in it."""
    return PORTMAP_TABLE.split()[1].encode() in portmap.read_bytes()


def version_of(directory: Path) -> str:
    """Of the plugins: as they say it, or as the package that they are from does; else where they are."""
    asked = subprocess.run(
        [directory / "portmap"], capture_output=True, text=True, env={}, stdin=subprocess.DEVNULL, check=False
    )
    if said := re.search(r"plugin v(\d\S*)", asked.stderr + asked.stdout):
        return said[1]
    changelog = directory / _DOCUMENTS
    if changelog.exists():
        with gzip.open(changelog, "rt", encoding="utf-8") as text:
            if newest := re.search(r"\((?:\d+:)?([\d.]+)", text.readline()):
                return newest[1]
    return f"of {directory}"


class GoPlugins:
    """One peer on one host."""

    def __init__(self, host: Host, peer: Peer) -> None:
        self.peer = peer
        self._host = host
        self._iptables_only = host.directory / "iptables-only"
        self._iptables_only.mkdir()
        if iptables := shutil.which("iptables", path=SYSTEM_PATH):
            (self._iptables_only / "iptables").symlink_to(iptables)

    def plugin(self, name: str) -> Path:
        """An executable."""
        return self.peer.directory / name

    def environment(self, verb: str, container: Container, plugin: str) -> dict[str, str]:
        """The parameters of a call.

        portmap 1.1.1 looks for IPv6 rules in a CHECK of a container that has no such address, and fails, unless there
        is no ip6tables: so no portmap finds it in a CHECK. That is two executions less for it.
        """
        given = environment(verb, container, str(self.peer.directory))
        if plugin == "portmap" and verb == "CHECK" and self.peer.backend is not Backend.NFTABLES:
            given["PATH"] = str(self._iptables_only)
        return given

    def portmap(self, container: Container) -> str:
        """portmap's entry of a conflist, for a container."""
        return configuration("portmap", NETWORK, container.ports, container.previous_result(), **self.peer.keys)

    def preload(self, starter: Starter, containers: Sequence[Container]) -> None:
        """Publish the ports of these: the first by an ADD, then all of them at once, by rules of just that form.

        An ADD for each would take the better part of an hour. Raises ``BenchError`` where the form is another.
        """
        if not containers:
            return
        first = containers[0]
        starter.run(self.plugin("portmap"), self.environment("ADD", first, "portmap"), self.portmap(first))
        written, known = self._rules(), self._form((first,))
        if _lines(written) != _lines(known):
            raise BenchError(
                f"could not preload: {self.peer.name} writes other rules than those that are known here:\n{written}"
            )
        if self.peer.backend is Backend.NFTABLES:
            self._host.run("nft", "-f", "-", text=f"delete table {PORTMAP_TABLE}\n{self._form(containers)}")
        else:
            self._host.run("iptables-restore", text=self._form(containers))

    def published(self) -> Collection[int]:
        """The ports of the host that portmap's rules lead to a container: asked of the one backend that it uses."""
        pattern = r"dport (\d+) .*\bdnat to" if self.peer.backend is Backend.NFTABLES else r"--dport (\d+) -j DNAT"
        return [int(port) for port in re.findall(pattern, self._rules())]

    def _form(self, containers: Sequence[Container]) -> str:
        if self.peer.backend is Backend.NFTABLES:
            return portmap_nft(containers)
        return portmap_iptables(containers, NETWORK)

    def _rules(self) -> str:
        """What is there; nothing where portmap has not made its table yet."""
        if self.peer.backend is Backend.NFTABLES:
            return self._host.run("nft", "list", "table", *PORTMAP_TABLE.split(), check=False)
        return self._host.run("iptables-save", "-t", "nat")


def _installed_iptables() -> Backend | None:
    iptables = shutil.which("iptables", path=SYSTEM_PATH)
    if iptables is None:
        return None
    said = subprocess.run([iptables, "-V"], capture_output=True, text=True, check=True).stdout
    return Backend.IPTABLES_NFT if "nf_tables" in said else Backend.IPTABLES_LEGACY


def _lines(rules: str) -> list[str]:
    """Chains and rules, without counters, comments and what only surrounds them; their order is not compared."""
    kept = (re.sub(r" \[\d+:\d+\]$", "", line.strip()) for line in rules.splitlines())
    return sorted(line for line in kept if line and line[0] not in "#}" and not re.match(r":[A-Z]+ ACCEPT", line))
