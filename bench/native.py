"""The programs that measure, in C: built with the system's compiler when a run begins, gone when it ends.

    native = build(directory)        -> native.start, native.noop, native.watch, native.flow, native.knock,
                                        native.roundtrip, native.newflow, native.flood,
                                        native.stream, native.steady

Static where the system has a static libc, so that starting them is the floor; ``static`` says which it was.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from dataplane.errors import DataplaneError

_SOURCES = Path(__file__).resolve().parent / "native"


class BenchError(DataplaneError):
    """Something that a measurement needs is not there, or did not do what it must."""


@dataclass(frozen=True, slots=True)
class Native:
    """Where the programs are."""

    directory: Path
    static: bool

    @property
    def start(self) -> Path:
        """Starts executables and times them."""
        return self.directory / "start"

    @property
    def noop(self) -> Path:
        """Does nothing."""
        return self.directory / "noop"

    @property
    def watch(self) -> Path:
        """Tells of nftables transactions."""
        return self.directory / "watch"

    @property
    def flow(self) -> Path:
        """Numbered UDP packets."""
        return self.directory / "flow"

    @property
    def knock(self) -> Path:
        """New TCP connections."""
        return self.directory / "knock"

    @property
    def roundtrip(self) -> Path:
        """Round trips and connections, timed one by one."""
        return self.directory / "roundtrip"

    @property
    def newflow(self) -> Path:
        """First packets of flows, timed one by one."""
        return self.directory / "newflow"

    @property
    def flood(self) -> Path:
        """Datagrams that must not arrive."""
        return self.directory / "flood"

    @property
    def stream(self) -> Path:
        """Bulk TCP."""
        return self.directory / "stream"

    @property
    def steady(self) -> Path:
        """UDP at a steady rate."""
        return self.directory / "steady"


def build(directory: Path) -> Native:
    """Compile all into a directory. Raises ``BenchError``."""
    static = True
    for source in sorted(_SOURCES.glob("*.c")):
        static = _compile(source, directory / source.stem, static=static)
    return Native(directory, static)


def _compile(source: Path, program: Path, *, static: bool) -> bool:
    """Compile one; whether it became static. Not every system has a static libc."""
    command = ["cc", "-O2", "-o", str(program), str(source)]
    said = ""
    for way in (True, False) if static else (False,):
        try:
            done = subprocess.run(
                [*command, *(["-static"] if way else [])], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise BenchError("could not build what measures: there is no cc; install the package gcc") from None
        if done.returncode == 0:
            return way
        said = done.stderr.strip()
    raise BenchError(f"could not compile {source.name}: {said}")
