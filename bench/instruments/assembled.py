"""Two tc programs that no compiler makes, to measure others by: one does nothing, one goes before another.

    with nothing() as program: ...                   # "go on": r0 = -1, exit
    with before(other, 50, octets) as program: ...   # stores two bytes at 50, then runs the other as its tail call

``before`` puts back what a program changed, so that each of a million runs on one packet finds it as the first did.
Instructions are ``struct bpf_insn``; the names are those of include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from dataplane.programs import syscall
from dataplane.programs.syscall import Fd

_INSTRUCTION = struct.Struct("<BBhi")
_MOV64_REG, _MOV64_IMM, _ADD64_IMM, _CALL, _EXIT = 0xBF, 0xB7, 0x07, 0x85, 0x95
_ST_H, _LD_IMM64 = 0x6A, 0x18
_MAP_FD = 1  # BPF_PSEUDO_MAP_FD
_SKB_STORE_BYTES, _TAIL_CALL = 9, 12
_GO_ON = -1  # TC_ACT_UNSPEC
_SLOT = -8  # on the stack


def nothing(name: str = "bench_nothing") -> Fd:
    """A program that does nothing, under any name. Raises ``BpfError``."""
    return syscall.program_load(_joined(_op(_MOV64_IMM, 0, imm=_GO_ON), _op(_EXIT)), name)


@contextmanager
def before(program: int, at: int, octets: bytes) -> Iterator[Fd]:
    """A program that stores two bytes in the packet and goes on to another. Raises ``BpfError``."""
    (word,) = struct.unpack("=H", octets)
    with (
        syscall.program_array(program) as array,
        syscall.program_load(
            _joined(
                _op(_MOV64_REG, 6, 1),
                _op(_ST_H, 10, offset=_SLOT, imm=word),
                _op(_MOV64_IMM, 2, imm=at),
                _op(_MOV64_REG, 3, 10),
                _op(_ADD64_IMM, 3, imm=_SLOT),
                _op(_MOV64_IMM, 4, imm=len(octets)),
                _op(_MOV64_IMM, 5, imm=0),
                _op(_CALL, imm=_SKB_STORE_BYTES),
                _op(_MOV64_REG, 1, 6),
                _op(_LD_IMM64, 2, _MAP_FD, imm=array.number),
                _op(0),  # the upper half
                _op(_MOV64_IMM, 3, imm=0),
                _op(_CALL, imm=_TAIL_CALL),
                _op(_MOV64_IMM, 0, imm=_GO_ON),
                _op(_EXIT),
            ),
            "bench_before",
        ) as made,
    ):
        yield made


def _op(code: int, to: int = 0, source: int = 0, *, offset: int = 0, imm: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, source << 4 | to, offset, imm)


def _joined(*instructions: bytes) -> bytes:
    return b"".join(instructions)
