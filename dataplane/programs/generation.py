"""A generation of programs and maps: what one load has pinned, all of it open.

    generation = opened(digest)                      None where not everything is pinned
    generation.is_pinned(digest)                     whether that is what is pinned still
    generation["networks"], generation.described("networks"), generation.program_id("dp_isolation")

Programs read the maps that they were loaded with. Pins may be removed at any time, and what is loaded then has maps of
its own, which are empty: what is put into maps and what is attached after that must be of one generation. This one is
whole for as long as anybody has it, pinned or not; its descriptors close with it.
"""

from __future__ import annotations

import errno
import weakref
from collections.abc import Iterable

from dataplane.errors import BpfError
from dataplane.programs import loading, syscall


class Generation:
    """See the module."""

    def __init__(self, digest: str, identity: loading.Identity, descriptors: dict[str, syscall.Fd]) -> None:
        self._digest, self._identity, self._descriptors = digest, identity, descriptors
        self._descriptions: dict[str, syscall.MapInfo] = {}
        self._program_ids: dict[str, int] = {}
        weakref.finalize(self, _close, tuple(descriptors.values()))

    def __getitem__(self, name: str) -> int:
        """The descriptor of a program, by its function, or of a map."""
        return self._descriptors[name].number

    def is_pinned(self, digest: str) -> bool:
        """Whether it is what is pinned for this digest, and all of it is. Raises ``BpfError``."""
        return digest == self._digest and loading.finished(digest) == self._identity

    def described(self, map_name: str) -> syscall.MapInfo:
        """What the kernel says about a map, which does not change. Raises ``BpfError``."""
        if map_name not in self._descriptions:
            self._descriptions[map_name] = syscall.map_info(self[map_name])
        return self._descriptions[map_name]

    def program_id(self, function: str) -> int:
        """The kernel's number of a program. Raises ``BpfError``."""
        if function not in self._program_ids:
            self._program_ids[function] = syscall.program_info(self[function]).id
        return self._program_ids[function]


def opened(digest: str) -> Generation | None:
    """All that is pinned for a digest; None where anything is missing. Raises ``BpfError``."""
    identity = loading.finished(digest)
    if identity is None:
        return None
    descriptors: dict[str, syscall.Fd] = {}
    try:
        for name in loading.PINS:
            descriptors[name] = syscall.obj_get(f"{loading.BASE}/{digest}/{name}")
    except BpfError as error:
        _close(descriptors.values())
        if error.errno != errno.ENOENT:
            raise
        return None
    generation = Generation(digest, identity, descriptors)
    # Another one may have taken its place while it was opened, and only its last pins be here.
    return generation if generation.is_pinned(digest) else None


def _close(descriptors: Iterable[syscall.Fd]) -> None:
    for descriptor in descriptors:
        descriptor.close()
