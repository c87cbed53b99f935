"""Hosts to measure on: each a network, mount and process namespace of its own, that takes everything with it.

    with Host("ours", directory) as host:
        web = host.namespace("web")                      # /run/netns/web
        host.wire("br0", web, "10.77.0.2/16")            # plugged into a bridge, as a container is
        host.run("nft", "flush", "ruleset")
        process = web.spawn(native.knock, "accept", 80)

Inside, /run is an empty tmpfs, /sys/fs/bpf a fresh bpffs, and what is written below /var/lib ends with the host.
Several hosts live side by side, so that what is compared can be asked in turns.

Be aware: what is started here is in process groups of its own: a Ctrl-C on the terminal reaches this process alone,
which takes the hosts down in order.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from bench.native import BenchError
from dataplane.namespaces import inside

T = TypeVar("T")

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# setpriv: a bench that is killed takes its hosts with it.
_UNSHARE = (
    "setpriv", "--pdeathsig", "KILL",
    "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", "--",
)  # fmt: skip

FIRST = """
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock /run/.var/upper /run/.var/work
mount -t overlay -o lowerdir=/var/lib,upperdir=/run/.var/upper,workdir=/run/.var/work overlay /var/lib
mount -t bpf -o mode=700 bpf /sys/fs/bpf
ip link set lo up
trap '' CHLD
echo ready
exec sleep infinity
"""
"""The first process of a host: it mounts, says so, and waits. SIGCHLD ignored makes the kernel reap what is orphaned to
it, as an init would."""

_TIMEOUT = 600.0  # seconds: ten thousand rules are put in place by one command

_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000
_LIBC = ctypes.CDLL(None, use_errno=True)


class Place:
    """Somewhere commands run."""

    def __init__(self, name: str, enter: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self.name, self._enter, self._environment = name, enter, environment

    def run(self, *argv: object, check: bool = True, text: str = "", env: Mapping[str, str] | None = None) -> str:
        """Run a command to its end; what it printed. Raises ``BenchError`` where it fails and is checked."""
        done = subprocess.run(
            [*self._enter, *map(str, argv)],
            input=text,
            capture_output=True,
            text=True,
            env={**self._environment, **(env or {})},
            timeout=_TIMEOUT,
            check=False,
            process_group=0,
        )
        if check and done.returncode:
            said = (done.stderr or done.stdout).strip()[-2000:]
            raise BenchError(f"could not run {' '.join(map(str, argv))[:200]} on {self.name}: {said}")
        return done.stdout

    def mac(self, device: str) -> str:
        """A link's hardware address."""
        return str(json.loads(self.run("ip", "-json", "link", "show", "dev", device))[0]["address"])

    def spawn(
        self,
        *argv: object,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        stderr: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command that runs on; the caller ends it."""
        return subprocess.Popen(
            [*self._enter, *map(str, argv)],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**self._environment, **(env or {})},
            process_group=0,
        )


class Namespace(Place):
    """A further network namespace of a host; ``path`` is what CNI_NETNS would be."""

    def __init__(self, name: str, path: str, enter: tuple[str, ...], environment: Mapping[str, str]) -> None:
        super().__init__(name, enter, environment)
        self.path = path


class Host(Place):
    """See the module."""

    def __init__(self, name: str, directory: Path) -> None:
        self.directory = directory / name
        self.directory.mkdir(parents=True)
        environment = {"PATH": SYSTEM_PATH, "HOME": "/root", "LANG": "C.UTF-8"}
        self._first = subprocess.Popen(
            [*_UNSHARE, "sh", "-c", FIRST],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=environment,
            process_group=0,
        )
        if self._first.stdout is None or self._first.stdout.readline() != b"ready\n":
            self._first.wait()
            raise BenchError(f"could not make the host {name}: see above; it takes root")
        self.pid = children(self._first.pid)[0]
        """Its first process, as seen from outside."""
        super().__init__(name, ("nsenter", f"--target={self.pid}", "--mount", "--net", "--pid"), environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process inside; the rest goes with them. Nothing where that was done. Raises ``BenchError`` where
        one does not end."""
        if self._first.returncode is not None:
            return
        first = os.pidfd_open(self.pid)
        try:
            self._first.kill()  # --kill-child: the first process follows, and with it all of its namespace
            if not select.select([first], [], [], 60.0)[0]:
                raise BenchError(f"could not end the host {self.name}: process {self.pid} lives on")
        finally:
            os.close(first)
            self._first.wait()
            if self._first.stdout is not None:
                self._first.stdout.close()

    @property
    def netns(self) -> Path:
        """Its network namespace, as seen from outside."""
        return Path(f"/proc/{self.pid}/ns/net")

    def outside(self, path: str) -> Path:
        """A path of the host, as seen from outside."""
        return Path(f"/proc/{self.pid}/root{path}")

    def inside(self, work: Callable[[], T]) -> T:
        """What ``work`` returns on this host, or raises: in a thread of this process that sees its links and its files,
        bpffs among them. Raises ``BenchError`` where it cannot be entered."""

        def there() -> T:
            mounts = os.open(f"/proc/{self.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            try:
                # A mount namespace is entered by a thread that shares root and current directory with no other.
                if _LIBC.unshare(_CLONE_FS) or _LIBC.setns(mounts, _CLONE_NEWNS):
                    raise BenchError(f"could not enter the host {self.name}: {os.strerror(ctypes.get_errno())}")
            finally:
                os.close(mounts)
            return work()

        with self.netns.open("rb") as netns:
            return inside(netns.fileno(), there)

    def namespace(self, name: str) -> Namespace:
        """Make a network namespace, with lo up."""
        self.namespaces([name])
        return self.existing(name)

    def namespaces(self, names: list[str]) -> list[Namespace]:
        """Make many at once: two commands for all."""
        self.run("ip", "-batch", "-", text="".join(f"netns add {name}\n" for name in names))
        self._in_each(dict.fromkeys(names, "link set lo up"))
        return [self.existing(name) for name in names]

    def bridge(self, name: str, address: str) -> None:
        """A bridge, up, with an address."""
        # One that snoops joins a group, and its IGMP is traffic that nobody made.
        self.run("ip", "link", "add", name, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        self.run("ip", "address", "add", address, "dev", name)
        self.run("ip", "link", "set", name, "up")

    def wire(self, bridge: str, peer: Namespace, address: str, gateway: str) -> str:
        """Plug a namespace into a bridge, its end is eth0; the name of the host's end."""
        return self.wires(bridge, [(peer, address)], gateway)[0]

    def wires(self, bridge: str, peers: Sequence[tuple[Namespace, str]], gateway: str) -> list[str]:
        """Plug many in, each with its address: two commands for all."""
        names = [f"v{peer.name}"[:15] for peer, _ in peers]
        self.run(
            "ip", "-batch", "-",
            text="".join(
                f"link add {name} type veth peer name eth0 netns {peer.name}\nlink set {name} master {bridge} up\n"
                for name, (peer, _) in zip(names, peers, strict=True)
            ),
        )  # fmt: skip
        way = f"link set eth0 up\nroute add default via {gateway}"
        self._in_each({peer.name: f"address add {address} dev eth0\n{way}" for peer, address in peers})
        return names

    def _in_each(self, commands: Mapping[str, str]) -> None:
        """Lines for ip(8) in each of these namespaces. They are read by a shell that nobody has to enter twice."""
        self.run("sh", "-e", text="".join(f"ip -n {name} -batch - <<.\n{text}\n.\n" for name, text in commands.items()))

    def join(self, name: str, device: str, address: str, peer_address: str) -> Namespace:
        """A machine beside the host: a namespace behind a device with an address, the host is its gateway."""
        peer = self.namespace(name)
        self.run("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", name)
        self.run("ip", "address", "add", address, "dev", device)
        self.run("ip", "link", "set", device, "up")
        peer.run("ip", "address", "add", peer_address, "dev", "eth0")
        peer.run("ip", "link", "set", "eth0", "up")
        peer.run("ip", "route", "add", "default", "via", address.partition("/")[0])
        return peer

    def existing(self, name: str) -> Namespace:
        """A network namespace that was made before."""
        path = f"/run/netns/{name}"
        return Namespace(name, path, (*self._enter, "nsenter", f"--net={path}"), self._environment)


def children(pid: int) -> list[int]:
    """The processes that a process started and that live."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def send(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to what ``spawn`` started: the command itself, not the nsenter before it."""
    if process.poll() is None:
        innermost = process.pid
        with suppress(FileNotFoundError, ProcessLookupError):  # it ends in this moment
            while below := children(innermost):
                innermost = below[0]
            os.kill(innermost, number)


def end(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGKILL) -> None:
    """End what ``spawn`` started, and close its pipes."""
    send(process, number)
    process.wait(timeout=60)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def wait_for(condition: Callable[[], bool], seconds: float, pause: float = 0.005) -> bool:
    """Ask until it is so; whether it was within the time."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(pause)
    return True
