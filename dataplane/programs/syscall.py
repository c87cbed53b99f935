"""bpf(2), thinly: file descriptors in and out, every refusal a ``BpfError`` with the kernel's errno.

    with obj_get(path) as program: ...
    map_update(fd, key, value)

Be aware: the union of ``bpf(2)`` is packed here with ``struct``, field by field as ``<linux/bpf.h>`` lays it out;
trailing fields that are left out are zero to the kernel.
"""

from __future__ import annotations

import ctypes
import errno as errnos
import os
import platform
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from dataplane.errors import BpfError, MissingDependencyError
from dataplane.types import IfIndex

TCX_INGRESS = 46
TCX_EGRESS = 47
"""``enum bpf_attach_type``, Linux 6.6."""

LINK_CGROUP = 3
LINK_TCX = 11
"""``enum bpf_link_type``."""

_NOEXIST = 1
_F_ALLOW_MULTI = 1 << 1
_F_BEFORE = 1 << 3
_F_AFTER = 1 << 4
_F_ID = 1 << 5
_F_LINK = 1 << 13

_PERCPU_TYPES = frozenset({5, 6, 10})  # percpu_hash, percpu_array, lru_percpu_hash
_BATCH = 1024  # entries that are read at once
_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "ppc64le": 361, "s390x": 351}


class _Command(IntEnum):
    """``enum bpf_cmd``."""

    MAP_CREATE = 0
    MAP_LOOKUP = 1
    MAP_UPDATE = 2
    MAP_DELETE = 3
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    TEST_RUN = 10
    PROG_FD_BY_ID = 13
    MAP_FD_BY_ID = 14
    INFO_BY_FD = 15
    QUERY = 16
    MAP_LOOKUP_BATCH = 24
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_FD_BY_ID = 30
    LINK_GET_NEXT_ID = 31
    ENABLE_STATS = 32
    LINK_DETACH = 34


class Fd:
    """A file descriptor that closes with its ``with`` block."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close it; a second time does nothing."""
        if self.number >= 0:
            os.close(self.number)
            self.number = -1


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """``struct bpf_prog_info``, as far as we read it."""

    id: int
    tag: str
    name: str
    run_ns: int
    runs: int
    """Both 0 unless statistics are enabled (``kernel.bpf_stats_enabled``)."""
    verified_instructions: int
    """How many the verifier walked through, on all paths."""
    map_ids: tuple[int, ...]
    xlated_bytes: int = 0
    """What the verifier made of it, 8 bytes an instruction."""
    jited_bytes: int = 0
    """What the JIT made of that; 0 where there is none."""
    loaded_ns: int = 0
    """When it was loaded: CLOCK_BOOTTIME."""


@dataclass(frozen=True, slots=True)
class MapInfo:
    """``struct bpf_map_info``, as far as we read it."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    name: str

    @property
    def per_cpu(self) -> bool:
        """Whether a lookup answers one value for each possible CPU."""
        return self.type in _PERCPU_TYPES


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """``struct bpf_link_info``, as far as we read it."""

    id: int
    program_id: int
    ifindex: IfIndex
    """Of a tcx link; 0 once the device is gone."""
    type: int = 0
    """``LINK_TCX``, ``LINK_CGROUP``, or of another kind."""
    attach_type: int = 0
    cgroup_id: int = 0
    """Of a link to a cgroup: the inode of its directory; 0 once it is detached."""

    @property
    def attached(self) -> bool:
        """Whether it is on a hook of the device or cgroup that it was made for."""
        return bool(self.ifindex or self.cgroup_id)


@dataclass(frozen=True, slots=True)
class Attached:
    """One program on a hook, in the order in which they run."""

    program_id: int
    link_id: int
    """0 where it is attached without a link."""


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """What a program did with one packet."""

    verdict: int
    """As the program returned it: signed."""
    packet: bytes
    nanoseconds: int
    """The average of the repeats."""


_libc = ctypes.CDLL(None, use_errno=True)
_NUMBER = _NUMBERS.get(platform.machine())


def _bpf(command: _Command, attributes: bytes | bytearray, verb: str, thing: str) -> int:
    if _NUMBER is None:
        raise MissingDependencyError(f"could not {verb} {thing}: bpf(2) has no known number on {platform.machine()}")
    size = len(attributes)
    buffer = (ctypes.c_char * size).from_buffer(bytearray(attributes) if isinstance(attributes, bytes) else attributes)
    result: int = _libc.syscall(_NUMBER, int(command), ctypes.byref(buffer), size)
    if result < 0:
        code = ctypes.get_errno()
        raise BpfError.from_errno(verb, thing, code, "bpf(2) needs root" if code == errnos.EPERM else "")
    return result


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


# -- pins -------------------------------------------------------------------------------------------------------------


def obj_pin(fd: int, path: Path) -> None:
    """Pin a program, map or link. Raises ``BpfError`` (``EEXIST`` where something is pinned there)."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(_Command.OBJ_PIN, struct.pack("=QII", _address(name), fd, 0), "pin", str(path))


def obj_get(path: str | Path) -> Fd:
    """Open what is pinned. Raises ``BpfError`` (``ENOENT`` where nothing is)."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return Fd(_bpf(_Command.OBJ_GET, struct.pack("=QII", _address(name), 0, 0), "open the pin", str(path)))


# -- what is behind a descriptor --------------------------------------------------------------------------------------


def _info(fd: int, size: int, thing: str, buffer: ctypes.Array[ctypes.c_char] | None = None) -> bytes:
    buffer = buffer or ctypes.create_string_buffer(size)
    _bpf(_Command.INFO_BY_FD, struct.pack("=IIQ", fd, size, _address(buffer)), "inspect", thing)
    return buffer.raw


_PROGRAM_INFO_SIZE = 232


def program_info(fd: int) -> ProgramInfo:
    """Raises ``BpfError``."""
    ids = (ctypes.c_uint32 * 64)()
    buffer = ctypes.create_string_buffer(_PROGRAM_INFO_SIZE)
    struct.pack_into("=IQ", buffer, 52, len(ids), ctypes.addressof(ids))
    raw = _info(fd, _PROGRAM_INFO_SIZE, "a BPF program", buffer)
    _, number = struct.unpack_from("=II", raw, 0)
    (map_count,) = struct.unpack_from("=I", raw, 52)
    run_ns, runs = struct.unpack_from("=QQ", raw, 192)
    (verified,) = struct.unpack_from("=I", raw, 216)
    jited, xlated = struct.unpack_from("=II", raw, 16)
    (loaded_ns,) = struct.unpack_from("=Q", raw, 40)
    return ProgramInfo(
        id=number,
        tag=raw[8:16].hex(),
        name=_text(raw[64:80]),
        run_ns=run_ns,
        runs=runs,
        verified_instructions=verified,
        map_ids=tuple(ids[:map_count]),
        xlated_bytes=xlated,
        jited_bytes=jited,
        loaded_ns=loaded_ns,
    )


def program_code(fd: int) -> bytes:
    """The instructions as the verifier left them, one ``struct bpf_insn`` after the other. Raises ``BpfError``."""
    code = ctypes.create_string_buffer(program_info(fd).xlated_bytes)
    buffer = ctypes.create_string_buffer(_PROGRAM_INFO_SIZE)
    struct.pack_into("=I", buffer, 20, len(code))
    struct.pack_into("=Q", buffer, 32, ctypes.addressof(code))
    _info(fd, _PROGRAM_INFO_SIZE, "a BPF program", buffer)
    return code.raw


def map_info(fd: int) -> MapInfo:
    """Raises ``BpfError``."""
    raw = _info(fd, 80, "a BPF map")
    kind, number, key_size, value_size, max_entries, _ = struct.unpack_from("=6I", raw, 0)
    return MapInfo(kind, number, key_size, value_size, max_entries, _text(raw[24:40]))


def link_info(fd: int) -> LinkInfo:
    """Raises ``BpfError``."""
    raw = _info(fd, 64, "a BPF link")
    kind, number, program_id, _ = struct.unpack_from("=4I", raw, 0)
    if kind == LINK_CGROUP:
        cgroup_id, attach_type = struct.unpack_from("=QI", raw, 16)
        return LinkInfo(number, program_id, IfIndex(0), kind, attach_type, cgroup_id)
    ifindex, attach_type = struct.unpack_from("=II", raw, 16)
    return LinkInfo(number, program_id, IfIndex(ifindex), kind, attach_type)


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode()


def memory(fd: int) -> int:
    """Bytes of the kernel's memory that a map or a program takes."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields.get("memlock", "0"))


def program_by_id(number: int) -> Fd:
    """Raises ``BpfError`` (``ENOENT`` where it is unloaded)."""
    return Fd(_bpf(_Command.PROG_FD_BY_ID, struct.pack("=III", number, 0, 0), "open", f"BPF program {number}"))


def link_by_id(number: int) -> Fd:
    """Raises ``BpfError`` (``ENOENT`` where it is gone)."""
    return Fd(_bpf(_Command.LINK_FD_BY_ID, struct.pack("=III", number, 0, 0), "open", f"BPF link {number}"))


def map_by_id(number: int) -> Fd:
    """Raises ``BpfError`` (``ENOENT`` where it is gone)."""
    return Fd(_bpf(_Command.MAP_FD_BY_ID, struct.pack("=III", number, 0, 0), "open", f"BPF map {number}"))


def link_ids() -> Iterator[int]:
    """The ids of all links of the machine, whoever made them. Raises ``BpfError``."""
    attributes = bytearray(12)
    while True:
        try:
            _bpf(_Command.LINK_GET_NEXT_ID, attributes, "list", "the BPF links")
        except BpfError as error:
            if error.errno == errnos.ENOENT:
                return
            raise
        (number,) = struct.unpack_from("=I", attributes, 4)
        yield number
        struct.pack_into("=I", attributes, 0, number)


# -- maps -------------------------------------------------------------------------------------------------------------


def _possible_cpus() -> int:
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().rpartition(",")[2]
    return int(last.rpartition("-")[2]) + 1


def value_bytes(info: MapInfo) -> int:
    """How many bytes a lookup answers."""
    return (info.value_size + 7) // 8 * 8 * _possible_cpus() if info.per_cpu else info.value_size


def map_lookup(fd: int, info: MapInfo, key: bytes) -> bytes | None:
    """The value, raw: of a per-CPU map, one after the other. None where the key is not there."""
    key_buffer = _key(info, key)
    value = ctypes.create_string_buffer(value_bytes(info))
    attributes = struct.pack("=IxxxxQQQ", fd, _address(key_buffer), _address(value), 0)
    try:
        _bpf(_Command.MAP_LOOKUP, attributes, "read", f'BPF map "{info.name}"')
    except BpfError as error:
        if error.errno == errnos.ENOENT:
            return None
        raise
    return value.raw


def map_create_entry(fd: int, info: MapInfo, key: bytes, value: bytes) -> bool:
    """Write one entry unless there is one with this key, as always in an array; whether it was written. Raises
    ``BpfError``, as ``map_update``."""
    try:
        map_update(fd, info, key, value, _NOEXIST)
    except BpfError as error:
        if error.errno != errnos.EEXIST:
            raise
        return False
    return True


def map_update(fd: int, info: MapInfo, key: bytes, value: bytes, flags: int = 0) -> None:
    """Write one entry. Raises ``BpfError`` (``E2BIG``, ``ENOSPC`` where the map is full)."""
    if len(value) != value_bytes(info):
        raise BpfError("write", f'BPF map "{info.name}"', f"a value of {len(value)} bytes, not {value_bytes(info)}")
    key_buffer = _key(info, key)
    value_buffer = ctypes.create_string_buffer(value, len(value))
    attributes = struct.pack("=IxxxxQQQ", fd, _address(key_buffer), _address(value_buffer), flags)
    _bpf(_Command.MAP_UPDATE, attributes, "write", f'BPF map "{info.name}"')


def map_delete(fd: int, info: MapInfo, key: bytes) -> bool:
    """Remove one entry; whether it was there. Entries of an array cannot be removed (``EINVAL``)."""
    key_buffer = _key(info, key)
    try:
        _bpf(
            _Command.MAP_DELETE,
            struct.pack("=IxxxxQQQ", fd, _address(key_buffer), 0, 0),
            "remove an entry of",
            f'BPF map "{info.name}"',
        )
    except BpfError as error:
        if error.errno == errnos.ENOENT:
            return False
        raise
    return True


def map_entries(fd: int, info: MapInfo) -> Iterator[tuple[bytes, bytes]]:
    """Every entry once, values as ``map_lookup`` answers them, many with one call; also while others come and go."""
    size, count = value_bytes(info), _BATCH
    place = ctypes.create_string_buffer(max(info.key_size, 4))
    following = ctypes.create_string_buffer(len(place))
    first = last = True
    while first or not last:
        keys, values = ctypes.create_string_buffer(count * info.key_size), ctypes.create_string_buffer(count * size)
        attributes = bytearray(
            struct.pack(
                "=QQQQIIQQ",
                *(0 if first else _address(place), _address(following), _address(keys), _address(values)),
                *(count, fd, 0, 0),
            )
        )
        try:
            _bpf(_Command.MAP_LOOKUP_BATCH, attributes, "read", f'BPF map "{info.name}"')
            last = False
        except BpfError as error:
            if error.errno == errnos.ENOSPC:  # so many entries share a place of the hash table
                count *= 2
                continue
            if error.errno != errnos.ENOENT:
                raise
            last = True
        (found,) = struct.unpack_from("=I", attributes, 32)
        yield from zip(_cut(keys.raw, info.key_size, found), _cut(values.raw, size, found), strict=True)
        place, following, first = following, place, False


def _cut(raw: bytes, size: int, count: int) -> list[bytes]:
    """The first so many pieces of this size."""
    return [raw[at : at + size] for at in range(0, count * size, size)]


def _key(info: MapInfo, key: bytes) -> ctypes.Array[ctypes.c_char]:
    if len(key) != info.key_size:
        raise BpfError("use", f'BPF map "{info.name}"', f"a key of {len(key)} bytes, not {info.key_size}")
    return ctypes.create_string_buffer(key, len(key))


# -- tcx --------------------------------------------------------------------------------------------------------------


def tcx_query(ifindex: IfIndex, attach_type: int) -> tuple[Attached, ...]:
    """All programs on a tcx hook, in order. Raises ``BpfError``: ``ENODEV``; ``EINVAL`` where the kernel has no tcx."""
    capacity = 64  # BPF_MPROG_MAX
    programs, links = (ctypes.c_uint32 * capacity)(), (ctypes.c_uint32 * capacity)()
    attributes = bytearray(
        struct.pack(
            "=IIIIQIxxxxQQQQ",
            *(ifindex, attach_type, 0, 0, ctypes.addressof(programs), capacity),
            *(0, ctypes.addressof(links), 0, 0),
        )
    )
    _bpf(_Command.QUERY, attributes, "list the tcx programs of", f"link {ifindex}")
    (count,) = struct.unpack_from("=I", attributes, 24)
    return tuple(Attached(programs[i], links[i]) for i in range(count))


def tcx_link_create(
    program: int, ifindex: IfIndex, *, before: int = 0, after: int = 0, attach_type: int = TCX_EGRESS
) -> Fd:
    """Attach a program by a link, last or next to the link with the ID ``before`` or ``after``. Raises ``BpfError``."""
    flags = (_F_BEFORE if before else _F_AFTER) | _F_LINK | _F_ID if before or after else 0
    attributes = struct.pack("=IIIIIxxxxQ", program, ifindex, attach_type, flags, before or after, 0)
    return Fd(_bpf(_Command.LINK_CREATE, attributes, "attach a BPF program to", f"link {ifindex}"))


def cgroup_link_create(program: int, cgroup: int, attach_type: int) -> Fd:
    """Attach a program to a cgroup, by the descriptor of its directory, after those of others. Raises ``BpfError``."""
    attributes = struct.pack("=IIII", program, cgroup, attach_type, 0)
    return Fd(_bpf(_Command.LINK_CREATE, attributes, "attach a BPF program to", "the root of the cgroups"))


@dataclass(frozen=True, slots=True)
class OnCgroup:
    """What is on one hook of a cgroup."""

    program_ids: tuple[int, ...]
    """In the order in which they run."""
    takes_more: bool
    """Whether another may be attached beside them."""


def cgroup_query(cgroup: int, attach_type: int) -> OnCgroup:
    """All programs on a cgroup's hook. Raises ``BpfError`` (``EINVAL`` where the kernel has no programs of cgroups)."""
    capacity = 64  # BPF_CGROUP_MAX_PROGS
    programs = (ctypes.c_uint32 * capacity)()
    attributes = bytearray(
        struct.pack("=IIIIQIxxxxQQQQ", cgroup, attach_type, 0, 0, ctypes.addressof(programs), capacity, 0, 0, 0, 0)
    )
    _bpf(_Command.QUERY, attributes, "list the programs of", "the root of the cgroups")
    (flags,), (count,) = struct.unpack_from("=I", attributes, 12), struct.unpack_from("=I", attributes, 24)
    takes_more = not count or (bool(flags & _F_ALLOW_MULTI) and count < capacity)
    return OnCgroup(tuple(programs[:count]), takes_more)


def link_update(link: int, program: int) -> None:
    """Replace the program of a link, atomically. Raises ``BpfError``."""
    _bpf(_Command.LINK_UPDATE, struct.pack("=IIII", link, program, 0, 0), "update", "a BPF link")


def link_detach(link: int) -> None:
    """Take a link off its hook, whoever else holds it. Raises ``BpfError``."""
    _bpf(_Command.LINK_DETACH, struct.pack("=I", link), "detach", "a BPF link")


# -- running ----------------------------------------------------------------------------------------------------------

_SKB_SIZE = 192  # struct __sk_buff
_TEST_COMPLETE = 1 << 2  # BPF_F_TEST_SKB_CHECKSUM_COMPLETE


def run_program(
    program: int,
    packet: bytes,
    *,
    ifindex: IfIndex,
    ingress_ifindex: int = 0,
    mark: int = 0,
    gso_size: int = 0,
    repeat: int = 1,
    complete: bool = False,
) -> ProgramRun:
    """Run a program on one Ethernet frame as if it left by ``ifindex``, a link of this namespace, after it came in by
    ``ingress_ifindex``, any number; with ``complete`` as one whose sum a device computed (``CHECKSUM_COMPLETE``, Linux
    6.13), which the kernel compares with the packet afterwards (``EBADMSG``). Raises ``BpfError``."""
    context = ctypes.create_string_buffer(_SKB_SIZE)
    for at, value in ((8, mark), (36, ingress_ifindex), (40, ifindex), (176, gso_size)):
        struct.pack_into("=I", context, at, value)
    data = ctypes.create_string_buffer(packet, len(packet))
    out = ctypes.create_string_buffer(len(packet) + 256)
    attributes = bytearray(
        struct.pack(
            "=IIIIQQIIIIQQIIIxxxx",
            *(program, 0, len(packet), len(out), _address(data), _address(out), repeat, 0),
            *(len(context), 0, _address(context), 0, _TEST_COMPLETE if complete else 0, 0, 0),
        )
    )
    _bpf(_Command.TEST_RUN, attributes, "run", "a BPF program")
    _, verdict, _, length = struct.unpack_from("=IiII", attributes, 0)
    (nanoseconds,) = struct.unpack_from("=I", attributes, 36)
    return ProgramRun(verdict, out.raw[:length], nanoseconds)


def enable_stats() -> Fd:
    """Have the kernel count runs and their time while the descriptor is open. Raises ``BpfError``."""
    return Fd(_bpf(_Command.ENABLE_STATS, struct.pack("=I", 0), "enable", "BPF statistics"))


# -- programs without a compiler --------------------------------------------------------------------------------------

_SCHED_CLS, _PROG_ARRAY = 3, 3  # of enum bpf_prog_type, and of enum bpf_map_type


def instruction(code: int, to: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    """A ``struct bpf_insn``."""
    registers = to << 4 | source if sys.byteorder == "big" else source << 4 | to
    return (
        bytes((code, registers))
        + offset.to_bytes(2, sys.byteorder, signed=True)
        + immediate.to_bytes(4, sys.byteorder, signed=True)
    )


def program_load(instructions: bytes, name: str) -> Fd:
    """Load a tc program that is given as instructions (``struct bpf_insn``, 8 bytes each). Raises ``BpfError``."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"Dual BSD/GPL")
    attributes = struct.pack(
        "=IIQQIIQII16sI",
        *(_SCHED_CLS, len(instructions) // 8, _address(code), _address(licence)),
        *(0, 0, 0, 0, 0, name.encode(), 0),
    )
    return Fd(_bpf(_Command.PROG_LOAD, attributes, "load", f'BPF program "{name}"'))


def program_array(program: int) -> Fd:
    """A map with one program, for tail calls to its key 0. Raises ``BpfError``."""
    thing = "an array of BPF programs"
    made = Fd(_bpf(_Command.MAP_CREATE, struct.pack("=IIII", _PROG_ARRAY, 4, 4, 1), "make", thing))
    key, value = ctypes.create_string_buffer(4), ctypes.create_string_buffer(struct.pack("=I", program), 4)
    attributes = struct.pack("=IxxxxQQQ", made.number, _address(key), _address(value), 0)
    try:
        _bpf(_Command.MAP_UPDATE, attributes, "write", thing)
    except BpfError:
        made.close()
        raise
    return made
