"""The C sources in ``bpf/`` as one translation unit: which files, in which order, compiled with which flags.

bcc rewrites map accesses in the main file alone, and programs compiled apart would not share maps. So the files are
joined, each behind a ``#line`` directive: messages of the compiler and of the verifier name the file and line that a
person edits.
"""

from __future__ import annotations

import hashlib
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import dataplane
from dataplane.errors import MissingDependencyError

ORDER = (
    "abi.h",
    "maps.h",
    "parse.h",
    "csum.h",
    "offload.h",
    "stale.h",
    "events.h",
    "isolation.c",
    "checksum.c",
    "fill.c",
    "guard.c",
    "localhost.c",
)
"""Every file of ours, after those that it includes."""

MAPS = (
    "networks",
    "settings",
    "origins",
    "published",
    "host_addresses",
    "containers",
    "ports",
    "port_addresses",
    "fill_ports",
    "flows",
    "checksum_counts",
    "filled",
    "isolation_drops",
    "offenders",
    "guard_drops",
    "guard_offenders",
    "peers",
    "events",
    "events_lost",
)
"""The maps of ``bpf/maps.h``, by name; all are pinned."""

_OWN_INCLUDE = re.compile(r'^#include "(.+)"$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Source:
    """A translation unit and how it is compiled."""

    text: str
    flags: tuple[str, ...]
    headers: Path
    """What bcc is given in place of a kernel source tree."""
    header_texts: tuple[str, ...]

    def digest(self, compiler: str) -> str:
        """16 hexadecimal digits that change with the code, the flags and the compiler."""
        parts = (compiler, *self.flags, *self.header_texts, self.text)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def source_directory() -> Path:
    """``bpf/`` beside the package, in a checkout and in an installed wheel alike. Raises ``MissingDependencyError``."""
    directory = Path(dataplane.__file__).resolve().parent.parent / "bpf"
    if not (directory / ORDER[0]).is_file():
        raise MissingDependencyError(
            f"could not find the BPF sources: there is no {directory}/{ORDER[0]}; install the package again"
        )
    return directory


def read_source(directory: Path | None = None) -> Source:
    """Join the files of ``ORDER``. Raises ``MissingDependencyError`` where they are not there."""
    directory = directory or source_directory()
    headers = directory / "headers"
    return Source(
        text="".join(_part(directory / name) for name in ORDER),
        flags=_flags(),
        headers=headers,
        header_texts=tuple(path.read_text() for path in sorted(headers.rglob("*.h"))),
    )


def _part(path: Path) -> str:
    def joined(include: re.Match[str]) -> str:
        return f"/* {include[1]} is above */"

    return f'#line 1 "{path.name}"\n' + _OWN_INCLUDE.sub(joined, path.read_text())


def _flags() -> tuple[str, ...]:
    flags = ["-I/usr/include", "-Wall", "-Wno-unused-function"]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    if multiarch:
        flags.insert(1, f"-I/usr/include/{multiarch}")
    return tuple(flags)
