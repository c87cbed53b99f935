"""Where the kernel keeps a field: bits of a struct, as bytes and shifts of a C program."""

from __future__ import annotations

import ctypes
import errno
import sys
from pathlib import Path

import pytest

from dataplane.errors import BpfError
from dataplane.programs import btf, syscall
from support import needs

SIZES = {"little": 5, "big": 1}


def test_a_bit_field_is_in_a_byte() -> None:
    """Bits 5 and 6 of byte 128, counted as the machine counts them."""
    field = btf.BitField(offset=128 * 8 + 5, width=2)
    assert (field.byte, field.shift) == (128, SIZES[sys.byteorder])


def test_the_running_kernel_is_asked() -> None:
    """Members are found by name, in anonymous unions and structs as well; what is not there is None."""
    needs.root()
    needs.that(Path("/sys/kernel/btf/vmlinux").exists(), "a kernel with BTF (CONFIG_DEBUG_INFO_BTF)")
    with btf.kernel_types() as types:
        assert types
        first = types.bit_field("sk_buff", "next")  # in a struct in a union
        assert first == btf.BitField(0, 0)
        summed = types.bit_field("sk_buff", "ip_summed")
        assert summed
        assert summed.width == 2
        assert types.bit_field("sk_buff", "no_such_member") is None
        assert types.bit_field("no_such_struct", "next") is None
    assert btf.definitions() == (f"-DIP_SUMMED_BYTE={summed.byte}", f"-DIP_SUMMED_SHIFT={summed.shift}")


def test_without_libbpf_there_are_no_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs are compiled all the same."""

    def missing(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert btf.definitions() == ()


def test_a_kernel_that_refuses_to_be_read_is_asked_by_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where lockdown takes bpf_probe_read_kernel() away, the programs are compiled without it, and load."""

    def refused(_code: bytes, name: str) -> syscall.Fd:
        raise BpfError.from_errno("load", f'BPF program "{name}"', errno.EINVAL)

    monkeypatch.setattr(syscall, "program_load", refused)
    assert btf.definitions() == ()
