"""Clients on localhost: what they reach, and what they are told of whom they reached.

    sandbox_with_cgroups(sandbox)
    talk(world.host, "127.0.0.1", 8080)                         -> Talk(answer, peer, source), or the error's name
    talk(world.host, "::1", 8053, "udp", connected=False)

and the root of the cgroups, which all sandboxes share: who is on it for one of them.
"""

from __future__ import annotations

import errno
import json
import socket
from dataclasses import dataclass
from pathlib import Path

from dataplane.errors import BpfError
from dataplane.programs import cgroups, syscall
from dataplane.programs.compile import ATTACH_TYPES
from dataplane.types import LOCALHOST_PROGRAMS
from support.netns import Place, Sandbox

MOUNTED = "/run/cgroups"


@dataclass(frozen=True, slots=True)
class Talk:
    """What a client learned."""

    server: str
    client: str
    """Its address, as the server saw it."""
    peer: tuple[str, int]
    """Whom its socket is connected to, as it is told; where it is not connected, who the answer is from."""
    sender: tuple[str, int]
    """Who the answer is from, of a datagram; of a stream the peer."""


def with_cgroups(sandbox: Sandbox) -> None:
    """Have a root of the cgroups in a sandbox, where the machine outside mounts none."""
    if sandbox.call(_root_or_why).startswith("could not"):
        mount_cgroups(sandbox)


def mount_cgroups(sandbox: Sandbox) -> None:
    """Mount the hierarchy where nobody looks for it by name."""
    sandbox.run("mkdir", "-p", MOUNTED)
    sandbox.run("mount", "-t", "cgroup2", "none", MOUNTED)


def hide_cgroups(sandbox: Sandbox) -> None:
    """Have no cgroups in a sandbox, as on a host that mounts none."""
    sandbox.run("mount", "-t", "tmpfs", "none", "/sys/fs/cgroup")


def root_of(place: Place) -> str:
    """Where the root of the cgroups is, or why there is none."""
    return place.call(_root_or_why)


def on_root() -> dict[str, list[int]]:
    """The programs with names of ours on the root of the cgroups, by name, whomever they serve: their ids."""
    found: dict[str, list[int]] = {}
    with cgroups.opened_root() as root:
        for program in LOCALHOST_PROGRAMS:
            there = syscall.cgroup_query(root.number, ATTACH_TYPES[program.hook]).program_ids
            found[program.value] = [number for number in there if _name(number) == program.function]
    return found


def talk(
    place: Place, address: str, port: int, protocol: str = "tcp", *, connected: bool = True, bound: str = ""
) -> Talk | str:
    """Ask a server from a place; the name of the error where that fails, such as ECONNREFUSED or ETIMEDOUT."""
    return place.call(_talk, address, port, protocol, connected, bound)


def _talk(address: str, port: int, protocol: str, connected: bool, bound: str) -> Talk | str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as client:
        client.settimeout(1.0)
        try:
            if bound:
                client.bind((bound, 0))
            if connected:
                client.connect((address, port))
                client.sendall(b"hello")
            else:
                client.sendto(b"hello", (address, port))
            said, sender = client.recvfrom(2048)
            peer = client.getpeername() if connected else sender
        except TimeoutError:
            return "ETIMEDOUT"
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error.errno))
    fields = json.loads(said)
    return Talk(fields["server"], fields["peer"][0], peer[:2], (sender or peer)[:2])


def _root_or_why() -> str:
    try:
        return str(cgroups.find_root())
    except BpfError as error:
        return str(error)


def _name(number: int) -> str:
    try:
        with syscall.program_by_id(number) as program:
            return syscall.program_info(program.number).name
    except BpfError:
        return ""  # somebody else's sandbox has ended meanwhile


def route_localnet() -> list[str]:
    """The devices of this place with route_localnet."""
    paths = Path("/proc/sys/net/ipv4/conf").glob("*/route_localnet")
    return sorted(path.parent.name for path in paths if path.read_text().strip() == "1")
