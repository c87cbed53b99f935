"""Sandboxes: a host of its own for one test, made of namespaces, that takes everything with it when it ends.

    sandbox                             net + mount + pid namespace: the "host"
      /run           an empty tmpfs        /sys/fs/bpf       a fresh bpffs
      /var/lib       an overlay, kept in /run               lo up
      /run/netns/NAME                      sandbox.namespace("NAME"): a further network namespace

    with Sandbox() as host:
        client = host.namespace("client")
        host.link("uplink", client, "eth0", "192.0.2.1/24", "192.0.2.55/24")
        client.run("ping", "-c1", "192.0.2.1")
        addresses = host.call(my_function, argument)     # in a forked child of this process, inside

Be aware: files outside those mounts are the real ones. Process IDs inside differ from those outside.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from bench.place import FIRST
from support.needs import SYSTEM_PATH

T = TypeVar("T")

NO_DROP_INS = ("--drop-in-bin", "/run/none")
"""For ``dpctl uninstall``: its default is a directory of the machine outside."""

_NAMESPACES = ("mnt", "pid", "net")
_LIBC = ctypes.CDLL(None, use_errno=True)


class CommandFailedError(AssertionError):
    """A command in a sandbox ended with another status than 0; the text carries all that it printed."""


def _reap(process: subprocess.Popen[str]) -> None:
    """Wait for a process and close its pipes, so that its end is not blamed on a later test."""
    process.kill()
    process.wait(timeout=30)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


class Place:
    """Somewhere commands run: the sandbox's host, or one of its further network namespaces."""

    def __init__(self, name: str, sandbox: Sandbox, enter: tuple[str, ...], path: str) -> None:
        self.name, self.sandbox, self.path = name, sandbox, path
        self._enter = enter

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def run(
        self,
        *argv: object,
        check: bool = True,
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. ``env`` adds to a small, clean environment. Raises ``CommandFailedError``."""
        done = subprocess.run(
            [*self._enter, *map(str, argv)],
            input=input.encode() if isinstance(input, str) else input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            env=_environment(env),
            timeout=timeout,
            check=False,
        )
        text = subprocess.CompletedProcess(
            [str(word) for word in argv],
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )
        if check and text.returncode:
            raise CommandFailedError(
                f"{' '.join(text.args)} in {self.name}: exit status {text.returncode}\n{text.stdout}{text.stderr}"
            )
        return text

    def spawn(
        self,
        *argv: object,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[str] | None = subprocess.DEVNULL,
        stdout: int | IO[str] | None = subprocess.PIPE,
        stderr: int | IO[str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a command that runs on; it ends with the sandbox at the latest."""
        process = subprocess.Popen(
            [*self._enter, *map(str, argv)], stdin=stdin, stdout=stdout, stderr=stderr, env=_environment(env), text=True
        )
        self.sandbox.adopt(process)
        return process

    @staticmethod
    def signal(process: subprocess.Popen[str], number: int) -> None:
        """Send a signal to a spawned command itself, not to the nsenter around it."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), number)

    def ip(self, *words: object) -> str:
        """Run iproute2's ``ip``; what it printed."""
        return self.run("ip", *words).stdout

    def sysctl(self, name: str, value: object) -> None:
        """Write below /proc/sys, by a path such as ``net/ipv4/ip_forward``."""
        self.run("tee", f"/proc/sys/{name}", input=str(value))

    def python(self, code: str, *argv: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run Python code with the interpreter that runs the tests."""
        return self.run(sys.executable, "-c", code, *argv, **options)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function here, in a forked child of this process; what it returned or raised comes back pickled."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            self._answer_and_exit(write, function, args)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(child, 0)
        if not answer:
            raise CommandFailedError(f"{function.__qualname__} in {self.name}: the child died without an answer")
        ok, value = pickle.loads(answer)
        if ok:
            return value  # type: ignore[no-any-return]  # whatever the function returned
        raise value

    def _answer_and_exit(self, write: int, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        # Never returns: a second pytest must not come out of the fork.
        status = 1
        try:
            self._setns()
            inner = os.fork()  # only a child is inside the pid namespace
            status = os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) if inner else _answer(write, function, args)
        except BaseException:  # noqa: BLE001 - see above
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status if status >= 0 else 1)

    def _setns(self) -> None:
        # All are opened before the first is entered: afterwards /proc is another one.
        for descriptor in [_open(f"/proc/{self.sandbox.pid}/ns/{kind}") for kind in _NAMESPACES]:
            _enter(descriptor)

    def exists(self, path: str | Path) -> bool:
        """Whether a path exists, seen from here."""
        return self.run("test", "-e", path, check=False).returncode == 0


class Namespace(Place):
    """A further network namespace of a sandbox; its ``path`` is what CNI_NETNS would be."""

    def _setns(self) -> None:
        super()._setns()
        _enter(_open(self.path))


class Sandbox(Place):
    """A host of its own. Use it as a context manager, or call ``stop()``."""

    def __init__(self, name: str = "host") -> None:
        self._children: list[subprocess.Popen[str]] = []
        self._init = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
             "--propagation", "private", "--", "sh", "-c", FIRST],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment(None), text=True,
        )  # fmt: skip
        assert self._init.stdout is not None
        if self._init.stdout.readline() != "ready\n":
            raise CommandFailedError(f"could not make a sandbox: {self._init.communicate()[1].strip()}")
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text()
        self.pid = int(children.split()[0])
        """The first process inside, as seen from outside."""
        enter = ("nsenter", f"--target={self.pid}", "--mount", "--net", "--pid")
        super().__init__(name, self, enter, f"/proc/{self.pid}/ns/net")
        self._namespaces: dict[str, Namespace] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def adopt(self, process: subprocess.Popen[str]) -> None:
        """Remember a process that is to be reaped when the sandbox ends."""
        self._children.append(process)

    def stop(self) -> None:
        """End every process inside; the namespaces, links, mounts and BPF pins go with them."""
        first = os.pidfd_open(self.pid)
        try:
            for process in self._children:  # an nsenter stops when its child is stopped, and would not reap it then
                process.send_signal(signal.SIGCONT)
            self._init.kill()  # --kill-child: the first process follows, and with it all others of its pid namespace
            if not select.select([first], [], [], 30.0)[0]:
                raise CommandFailedError(f"the sandbox {self.name} (process {self.pid}) does not end")
        finally:
            os.close(first)
            for process in (*self._children, self._init):
                _reap(process)

    def namespace(self, name: str) -> Namespace:
        """The network namespace ``/run/netns/<name>``, made at the first call, with lo up."""
        if name not in self._namespaces:
            self.run("ip", "netns", "add", name)
            self._namespaces[name] = self.existing(f"/run/netns/{name}")
            self._namespaces[name].run("ip", "link", "set", "lo", "up")
        return self._namespaces[name]

    def existing(self, path: str) -> Namespace:
        """A network namespace that somebody else made in here, a runtime for one."""
        # nsenter opens the path of --net= before it changes the mount namespace, so two of them in a row.
        return Namespace(path.rpartition("/")[2], self, (*self._enter, "nsenter", f"--net={path}"), path)

    def remove_namespace(self, name: str) -> None:
        """Delete a network namespace, as a runtime does before or after DEL."""
        self._namespaces.pop(name, None)
        self.run("ip", "netns", "delete", name)

    def link(self, name: str, peer: Namespace, peer_name: str, address: str = "", peer_address: str = "") -> None:
        """Connect the host's new device ``name`` to ``peer``'s ``peer_name`` by a veth pair, both up.

        An address is ``"192.0.2.1/24"``, or several with spaces between them.
        """
        self.ip("link", "add", name, "type", "veth", "peer", "name", peer_name, "netns", peer.name)
        for place, device, addresses in ((self, name, address), (peer, peer_name, peer_address)):
            for one in addresses.split():
                place.ip("address", "add", one, "dev", device, *(["nodad"] if ":" in one else []))
            place.ip("link", "set", device, "up")

    def bridge(self, name: str, address: str = "") -> None:
        """Make a bridge, up."""
        self.ip("link", "add", name, "type", "bridge", "forward_delay", "0")
        for one in address.split():
            self.ip("address", "add", one, "dev", name, *(["nodad"] if ":" in one else []))
        self.ip("link", "set", name, "up")

    def plug(self, bridge: str, name: str, peer: Namespace, peer_name: str = "eth0", address: str = "") -> None:
        """Connect a namespace to a bridge of the host by a veth pair, as a container is."""
        self.link(name, peer, peer_name, peer_address=address)
        self.ip("link", "set", name, "master", bridge)


def wait_until(condition: Callable[[], T], timeout: float = 5.0, what: str = "") -> T:
    """Ask until the answer is true, for at most ``timeout`` seconds; the answer. Raises ``AssertionError``."""
    end = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout:g} s: {what or condition}")
        time.sleep(0.01)
    return answer


def outer_state() -> dict[str, list[str]]:
    """What tests must leave alone on the machine they run on."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True, env=_environment(None))
    return {
        "links": sorted(line.split(": ")[1] for line in links.stdout.splitlines()),
        "/run/netns": _names("/run/netns"),
        "/run/dataplane": _names("/run/dataplane"),
        "/sys/fs/bpf": _names("/sys/fs/bpf"),
        "/var/lib/cni": _names("/var/lib/cni"),
        "mounts": sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
    }


def _names(directory: str) -> list[str]:
    path = Path(directory)
    return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    venv = str(Path(sys.executable).parent)
    return {"PATH": f"{venv}:{SYSTEM_PATH}", "HOME": "/root", "LANG": "C.UTF-8", **(extra or {})}


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _enter(descriptor: int) -> None:
    try:
        if _LIBC.setns(descriptor, 0):
            error = ctypes.get_errno()
            raise OSError(error, f"setns: {os.strerror(error)}")
    finally:
        os.close(descriptor)


def _answer(write: int, function: Callable[..., object], args: tuple[Any, ...]) -> int:
    try:
        answer: tuple[bool, object] = (True, function(*args))
    except BaseException as error:  # noqa: BLE001 - it is raised again in the parent
        error.add_note("raised in a sandbox:\n" + traceback.format_exc())
        answer = (False, error)
    try:
        packed = pickle.dumps(answer)
        pickle.loads(packed)  # exceptions with arguments of their own may pack and not unpack
    except Exception as reason:  # noqa: BLE001 - an object may raise anything as it is pickled
        packed = pickle.dumps((False, CommandFailedError(f"cannot pass {answer[1]!r} on: {reason!r}")))
    with os.fdopen(write, "wb") as pipe:
        pipe.write(packed)
    return 0
