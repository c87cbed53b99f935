"""Where the running kernel keeps what no BPF helper tells, read in its BTF and passed to the compiler as macros.

    definitions() -> ("-DIP_SUMMED_BYTE=128", "-DIP_SUMMED_SHIFT=5")

``struct sk_buff`` differs from kernel to kernel, and our programs are compiled on the kernel that they run on, so the
place of a field is a constant of theirs. It is no part of their digest: what is pinned dies with the kernel.

Be aware: the kernel's BTF is 5 MB, and libbpf needs 10 ms and twice the memory to read it. So the child that compiles
reads it, which ends soon, and nobody else.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dataplane.errors import BpfError
from dataplane.programs import syscall

_STRUCT, _UNION = 4, 5  # BTF_KIND_*
_TYPE = struct.Struct("=III")  # struct btf_type: name, info, size or type
_MEMBER = struct.Struct("=III")  # struct btf_member: name, type, offset
_BYTE = 8
_PROBE_READ_KERNEL = 113  # of enum bpf_func_id


@dataclass(frozen=True, slots=True)
class BitField:
    """Where some bits of a struct are."""

    offset: int
    """Bits from the start of the struct."""
    width: int
    """Bits; 0 for a member that is no bit field."""

    @property
    def byte(self) -> int:
        """The byte that they are in; those that we ask for are in one."""
        return self.offset // _BYTE

    @property
    def shift(self) -> int:
        """By how much that byte is shifted right to have them lowest."""
        first = self.offset % _BYTE
        return first if sys.byteorder == "little" else _BYTE - first - self.width


class Btf:
    """The types of the running kernel; close it after use."""

    def __init__(self, libbpf: ctypes.CDLL, types: int) -> None:
        self._libbpf = libbpf
        self._types = types

    def bit_field(self, name: str, member: str) -> BitField | None:
        """A member of a struct, also where it is in anonymous structs and unions inside; None where there is none."""
        number = self._libbpf.btf__find_by_name_kind(self._types, name.encode(), _STRUCT)
        return self._find(number, member, 0) if number > 0 else None

    def close(self) -> None:
        self._libbpf.btf__free(self._types)

    def _find(self, number: int, member: str, base: int) -> BitField | None:
        address = self._libbpf.btf__type_by_id(self._types, number)
        _, about, _ = _TYPE.unpack(ctypes.string_at(address, _TYPE.size))
        if about >> 24 & 0x1F not in {_STRUCT, _UNION}:
            return None
        raw = ctypes.string_at(address + _TYPE.size, (about & 0xFFFF) * _MEMBER.size)
        for name_at, inner, place in _MEMBER.iter_unpack(raw):
            # With bit fields among the members, their width is in the upper bits of the place.
            found = BitField(base + (place & 0xFFFFFF), place >> 24) if about >> 31 else BitField(base + place, 0)
            name = self._libbpf.btf__name_by_offset(self._types, name_at).decode()
            if name == member:
                return found
            deeper = None if name else self._find(inner, member, found.offset)
            if deeper:
                return deeper
        return None


@contextmanager
def kernel_types() -> Iterator[Btf | None]:
    """The running kernel's BTF; None where it has none (``CONFIG_DEBUG_INFO_BTF``), or where there is no libbpf."""
    try:
        libbpf = ctypes.CDLL("libbpf.so.1")
    except OSError:
        yield None
        return
    libbpf.libbpf_set_print.argtypes = (ctypes.c_void_p,)
    libbpf.libbpf_set_print.restype = ctypes.c_void_p
    libbpf.btf__load_vmlinux_btf.restype = ctypes.c_void_p
    libbpf.libbpf_get_error.argtypes = (ctypes.c_void_p,)
    libbpf.libbpf_get_error.restype = ctypes.c_long
    libbpf.btf__free.argtypes = (ctypes.c_void_p,)
    libbpf.btf__find_by_name_kind.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32)
    libbpf.btf__type_by_id.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    libbpf.btf__type_by_id.restype = ctypes.c_void_p
    libbpf.btf__name_by_offset.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    libbpf.btf__name_by_offset.restype = ctypes.c_char_p
    printing = libbpf.libbpf_set_print(None)  # without BTF it says so on standard error, where the compiler is read
    types = libbpf.btf__load_vmlinux_btf()
    libbpf.libbpf_set_print(printing)
    if not types or libbpf.libbpf_get_error(types):
        yield None
        return
    opened = Btf(libbpf, types)
    try:
        yield opened
    finally:
        opened.close()


def definitions() -> tuple[str, ...]:
    """The macros of ``bpf/offload.h``; none where there is no BTF, or where programs may not read the kernel's memory:
    the programs then make do with what helpers tell."""
    with kernel_types() as types:
        field = types.bit_field("sk_buff", "ip_summed") if types else None
    if field is None or field.width != 2 or field.offset % _BYTE + field.width > _BYTE or not _can_read_kernel():
        return ()
    return (f"-DIP_SUMMED_BYTE={field.byte}", f"-DIP_SUMMED_SHIFT={field.shift}")


def _can_read_kernel() -> bool:
    """Whether the kernel loads programs that call ``bpf_probe_read_kernel()``: not where it is locked down to
    confidentiality (kernel_lockdown(7)), or was built without tracing."""
    code = (
        syscall.instruction(0xBF, to=3, source=1)  # r3 = the packet
        + syscall.instruction(0xBF, to=1, source=10)  # r1 = r10 - 8
        + syscall.instruction(0x07, to=1, immediate=-8)
        + syscall.instruction(0xB7, to=2, immediate=1)  # r2 = 1 byte
        + syscall.instruction(0x85, immediate=_PROBE_READ_KERNEL)
        + syscall.instruction(0xB7)  # return 0
        + syscall.instruction(0x95)
    )
    try:
        with syscall.program_load(code, "dp_reads_kernel"):
            return True
    except BpfError:
        return False
