"""nftables as anybody may use it: ``nft`` as a process a change, and libnftables in a process that has it loaded.

    host.run("nft", "-f", "-", text=pure_map(crowd(1000)))        # bench.peers.rulesets
    Nft(starter).change(one_port("create", 40000)).milliseconds   # from exec to exit
    Library(host).change(one_port("delete", 40000))               # milliseconds of the call

Be aware: the door of our engine (``dataplane.nft.client``) sends elements by netlink itself. Here it is the library
that reads the text, asks the kernel, and writes.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from bench.instruments.starter import Done, Starter
from bench.native import BenchError
from bench.peers.rulesets import MAP_TABLE
from bench.place import SYSTEM_PATH, Host
from dataplane.namespaces import inside
from dataplane.nft.client import command, new_library

_TARGET = "10.77.1.99"


def executable() -> Path:
    """The system's. Raises ``BenchError``."""
    found = shutil.which("nft", path=SYSTEM_PATH)
    if found is None:
        raise BenchError("could not find nft: install the package nftables")
    return Path(found)


class Nft:
    """A process for each change, or question."""

    def __init__(self, starter: Starter, program: Path | None = None) -> None:
        """By the system's nft, or by another."""
        self._starter, self._program = starter, program or executable()

    def change(self, text: str, *options: str, check: bool = True) -> Done:
        """``nft -f -``. Raises ``BenchError`` where it fails and is checked."""
        return self.run(*options, "-f", "-", text=text, check=check)

    def run(self, *words: str, text: str = "", check: bool = True) -> Done:
        """Any words. Raises ``BenchError`` where it fails and is checked."""
        return self._starter.run(self._program, {"PATH": SYSTEM_PATH}, text, words, check=check)


class Library:
    """libnftables, loaded, with a socket that stays in the namespace of a host."""

    def __init__(self, host: Host) -> None:
        """Raises ``MissingDependencyError``."""
        with host.netns.open("rb") as netns:
            self._library = inside(netns.fileno(), new_library)

    def change(self, text: str) -> float:
        """Milliseconds of the call. Raises ``NftError``."""
        began = time.perf_counter_ns()
        command(self._library, text, "change", "what is measured")
        return (time.perf_counter_ns() - began) / 1e6


def one_port(verb: str, port: int) -> str:
    """Text that creates, adds or deletes one TCP port of the map of ``rulesets.pure_map``. Pure."""
    return f"{verb} element {MAP_TABLE} ports {{ tcp . {port} : {_TARGET} . 80 }}\n"
