"""The wheel: it carries the program in C, or says why it does not; and what the program has in common with Python."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from control.protocol import queue, wire
from plugin.native import installed
from plugin.native.build import compile_shim
from plugin.shim import MAX_STDIN
from plugin.versions import SUPPORTED_VERSIONS
from support import needs

ROOT = Path(__file__).parent.parent.parent
NATIVE = ROOT / "plugin" / "native"
PT_INTERP = 3
"""A program that needs libraries has such a segment."""


def build(directory: Path, compiler: str) -> Path:
    """Build the wheel with a compiler."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run(
        [*command, directory, ROOT], env={**os.environ, "CC": compiler}, capture_output=True, timeout=100, check=True
    )
    (wheel,) = directory.glob("*.whl")
    return wheel


def segments(elf: bytes) -> list[int]:
    """The types of a program's segments (elf(5), 64 bits)."""
    (offset,), (size, count) = struct.unpack_from("Q", elf, 32), struct.unpack_from("HH", elf, 54)
    return [struct.unpack_from("I", elf, offset + index * size)[0] for index in range(count)]


def test_a_wheel_without_a_compiler(tmp_path: Path) -> None:
    """It is pure, and holds the reason in the place of the program; what benches compile is in it, headers too."""
    wheel = build(tmp_path, "/nonexistent/cc")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as content:
        assert "plugin/native/shim" not in content.namelist()
        assert {f"bench/native/{one.name}" for one in (ROOT / "bench" / "native").iterdir()} <= set(content.namelist())
        reason = content.read("plugin/native/not-built").decode()
    assert reason == "no C compiler (/nonexistent/cc: No such file or directory)\n"


def test_a_wheel_with_a_compiler(tmp_path: Path) -> None:
    """It is for this platform and any Python, and holds a program that needs no library and runs."""
    needs.command("cc", package="gcc")
    wheel = build(tmp_path, "cc")
    assert "-py3-none-linux_" in wheel.name
    with zipfile.ZipFile(wheel) as content:
        assert "plugin/native/not-built" not in content.namelist()
        program = Path(content.extract("plugin/native/shim", tmp_path))
    program.chmod(0o755)
    assert PT_INTERP not in segments(program.read_bytes())
    said = subprocess.run(
        [program], env={"CNI_COMMAND": "VERSION"}, stdin=subprocess.DEVNULL, capture_output=True, check=True
    )
    assert b'"supportedVersions"' in said.stdout


@pytest.mark.parametrize(
    ("compiler", "why"),
    [
        ("/nonexistent/cc -m32", "no C compiler (/nonexistent/cc: No such file or directory)"),
        ("false", "the C compiler (false) failed: it ended with status 1"),
        ("sh -c 'echo note; echo x.c:1: error: no >&2; exit 1'", "the C compiler (sh) failed: x.c:1: error: no"),
    ],
)
def test_why_there_is_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, why: str) -> None:
    """One line, with the compiler's own words."""
    monkeypatch.setenv("CC", compiler)
    assert compile_shim(tmp_path / "shim") == why


def _constant(file: str, name: str) -> str:
    found = re.search(rf"\b{name}(?:\[\])? = (.*?)(?:,| }})?;? *(?://.*)?$", (NATIVE / file).read_text(), re.MULTILINE)
    assert found, name
    return found[1]


def test_both_languages_say_the_same() -> None:
    """Versions, limits and words that both the program and Python have are equal."""
    assert _constant("shim.h", "PROTOCOL") == str(wire.VERSION)
    assert _constant("shim.h", "MAX_BODY") == f"{wire.MAX_BODY >> 20} << 20"
    assert _constant("shim.h", "MAX_STDIN") == f"{MAX_STDIN >> 20} << 20"
    assert _constant("queue.c", "MAX_FILES") == str(queue.MAX_FILES)
    assert _constant("queue.c", "MAX_BYTES") == f"{queue.MAX_BYTES >> 10} << 10"
    listed = (f'"{one}"' for one in SUPPORTED_VERSIONS)
    assert _constant("main.c", "VERSIONS") == "{" + ", ".join(listed) + "}"
    assert f'"\\n{installed._MARKER}\\n"' in (NATIVE / "python.c").read_text()
    assert _constant("python.c", "TRAILER") == "2 * 4096 + 256"
    assert installed._MARKER_WITHIN == 2 * 4096 + 256
