"""What a program costs the kernel before it runs: instructions, stack, and the time that loading it takes.

    costs(load, emitted)        in the compiler's child, which can load a program again and again
    measured()                  runs that child; the costs
    stack_depth(code)           pure

Be aware: times are ratios to the loading of a reference program that never changes, in the same run, and both are CPU
time of this thread: a busy machine changes neither much.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import dataplane
from dataplane.errors import BpfError
from dataplane.programs import syscall
from dataplane.types import Program

_ROUNDS = 7
"""How often each program is loaded; the quickest counts."""
_TIME_LIMIT = 90.0
_REFERENCE_LOOPS = 8000

_FRAME = 10  # r10, the frame pointer
_ALU64_ADD_K, _ALU64_MOV_X = 0x07, 0xBF
_LDX, _ST, _STX, _JMP, _JMP32 = 1, 2, 3, 5, 6
_CALL, _EXIT = 0x85, 0x95
_LD_IMM64 = 0x18


@dataclass(frozen=True, slots=True)
class Cost:
    """One program, as one compiler and one kernel made it."""

    program: str
    emitted: int
    """Instructions that the compiler made."""
    verified: int
    """Instructions that the verifier walked through, on all paths; the kernel refuses more than a million."""
    xlated: int
    """Instructions that the verifier left: with what it inlined."""
    stack: int
    """Bytes, of 512."""
    load: float
    """Time to load it, by that of the reference program."""

    def fields(self) -> dict[str, str | float]:
        """As JSON has it."""
        return {name: getattr(self, name) for name in Cost.__slots__}


def costs(load: Callable[[Program], int], emitted: Mapping[Program, int]) -> list[Cost]:
    """Measure every program; ``load`` loads one anew and answers its descriptor. Raises ``BpfError``."""
    reference: list[int] = []
    times: dict[Program, list[int]] = {program: [] for program in Program}
    found: dict[Program, Cost] = {}
    for _ in range(_ROUNDS):
        begun = time.thread_time_ns()
        with syscall.program_load(reference_code(), "dp_reference"):
            reference.append(time.thread_time_ns() - begun)
        for program in Program:
            begun = time.thread_time_ns()
            fd = load(program)
            times[program].append(time.thread_time_ns() - begun)
            with syscall.Fd(fd):
                if program not in found:
                    found[program] = _cost(program, fd, emitted[program])
    return [replace(cost, load=round(min(times[one]) / min(reference), 3)) for one, cost in found.items()]


def _cost(program: Program, fd: int, emitted: int) -> Cost:
    about = syscall.program_info(fd)
    return Cost(
        program=program.value,
        emitted=emitted,
        verified=about.verified_instructions,
        xlated=about.xlated_bytes // 8,
        stack=stack_depth(syscall.program_code(fd)),
        load=0.0,
    )


def reference_code() -> bytes:
    """A loop that the verifier walks through turn by turn: r0 counts to ``_REFERENCE_LOOPS``."""
    return b"".join(
        (
            syscall.instruction(0xB7),  # r0 = 0
            syscall.instruction(_ALU64_ADD_K, immediate=1),  # r0 += 1
            syscall.instruction(0xA5, offset=-2, immediate=_REFERENCE_LOOPS),  # if r0 < ... goto the line above
            syscall.instruction(_EXIT),
        )
    )


def stack_depth(code: bytes) -> int:
    """How far below the frame pointer a program reaches, in bytes.

    Followed are the frame pointer itself and what is computed from it within a block, which is how compilers make
    addresses of variables.
    """
    lowest = 0
    derived: dict[int, int] = {_FRAME: 0}  # register -> its distance to the frame pointer
    targets = _jump_targets(code)
    at = 0
    while at * 8 < len(code):
        opcode, to, source, offset, immediate = _decoded(code, at)
        kind = opcode & 7
        if at in targets:
            derived = {_FRAME: 0}
        base = source if kind == _LDX else to if kind in {_ST, _STX} else None
        if base in derived:
            lowest = min(lowest, derived[base] + offset)
        if opcode == _ALU64_MOV_X and source in derived:
            derived[to] = derived[source]
        elif opcode == _ALU64_ADD_K and to in derived:
            derived[to] += immediate
            lowest = min(lowest, derived[to])
        elif opcode == _CALL:
            derived = {register: place for register, place in derived.items() if register > 5}
        elif kind in {_JMP, _JMP32}:
            pass  # writes no register
        elif kind not in {_ST, _STX}:
            derived.pop(to, None)
        at += 2 if opcode == _LD_IMM64 else 1
    return -lowest


def _jump_targets(code: bytes) -> frozenset[int]:
    targets, at = set(), 0
    while at * 8 < len(code):
        opcode, _, _, offset, immediate = _decoded(code, at)
        if opcode & 7 in {_JMP, _JMP32} and opcode not in {_CALL, _EXIT}:
            far = opcode == (_JMP32 | 0x00)  # gotol: the immediate is the distance
            targets.add(at + 1 + (immediate if far else offset))
        at += 2 if opcode == _LD_IMM64 else 1
    return frozenset(targets)


def _decoded(code: bytes, at: int) -> tuple[int, int, int, int, int]:
    raw = code[at * 8 : at * 8 + 8]
    first, second = raw[1] & 0xF, raw[1] >> 4
    to, source = (second, first) if sys.byteorder == "big" else (first, second)
    offset = int.from_bytes(raw[2:4], sys.byteorder, signed=True)
    return raw[0], to, source, offset, int.from_bytes(raw[4:8], sys.byteorder, signed=True)


def measured() -> list[Cost]:
    """Compile the sources and measure every program, in a child. Raises ``BpfError``."""
    root = str(Path(dataplane.__file__).resolve().parent.parent)
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "dataplane.programs.compile", "--measure"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIME_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BpfError("measure", "the BPF programs", f"not done within {_TIME_LIMIT:.0f} s") from error
    if child.returncode:
        said = child.stderr.strip().splitlines()
        raise BpfError("measure", "the BPF programs", "\n".join(said[-20:]) or f"it ended with {child.returncode}")
    return [Cost(**fields) for fields in json.loads(child.stdout)]
