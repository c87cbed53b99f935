"""The file that ``dpctl install`` puts where runtimes look: the program in C where it was built, else a script.

    executable()          its content
    is_ours(content)      whether a file is such a one, of any version
    why_script()          why it is a script; empty where it is the program
    notes()               what ``dpctl status`` says about it, by entry point

The program carries the interpreter and the package behind its last byte (``python.c``), for when no agent answers;
the script names them in its lines.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

CNI_BIN = Path("/opt/cni/bin")
DROP_IN_BIN = Path("/opt/cni/dataplane")

_MARKER = "# The CNI plugin dataplane, installed by dpctl."
"""Tells our executable, of any version, from somebody else's; ``python.c`` has it, too."""
_MARKER_WITHIN = 8448
"""Bytes, from the beginning of a script or from the end of the program: ``TRAILER`` in ``python.c``."""
_ELF = b"\x7fELF"
_MAX_SHEBANG = 127
"""Bytes of a first line that every kernel reads whole (BINPRM_BUF_SIZE was 128 until Linux 5.1)."""
_PROGRAM = Path(__file__).absolute().parent / "shim"
_REASON = _PROGRAM.with_name("not-built")  # plugin.native.build writes both


def executable() -> bytes:
    """The content of the executable."""
    if why_script():
        return script().encode()
    return _PROGRAM.read_bytes() + trailer(sys.executable, _package())


def trailer(interpreter: str, package: str) -> bytes:
    """What stands behind the last byte of the program; without it it is nobody's."""
    return f"\n{_MARKER}\n{interpreter}\n{package}\n".encode()


def script() -> str:
    """The script: isolated from the environment's PYTHON*, and without ``site``, which costs a third of the start."""
    shebang = f"#!{sys.executable} -IS"
    body = f"sys.path.append({_package()!r})\n\nfrom plugin.shim import main\n\nmain()\n"
    if len(shebang.encode()) <= _MAX_SHEBANG and not any(character.isspace() for character in sys.executable):
        return f"{shebang}\n{_MARKER}\nimport sys\n\n{body}"
    # Which plugin it is, the name of the script tells: Python would see "-c" in its place.
    body = f"import sys\n\ndel sys.argv[0]\n{body}"
    return f'#!/bin/sh\n{_MARKER}\nexec {shlex.quote(sys.executable)} -IS -c {shlex.quote(body)} "$0"\n'


def is_ours(content: bytes) -> bool:
    """Whether a file is our executable, of any version."""
    part = content[-_MARKER_WITHIN:] if content.startswith(_ELF) else content[:_MARKER_WITHIN]
    return _MARKER.encode() in part.splitlines()


def why_script() -> str:
    """Why plugins start through Python; empty where they start through the program."""
    if "\n" in sys.executable + _package():
        return "the path of its interpreter, or its own, has two lines"
    if _PROGRAM.is_file():
        return ""
    return _REASON.read_text().strip() if _REASON.is_file() else "it was not built when dataplane was installed"


def notes() -> list[str]:
    """What an operator should know: plugins that start slowly, and how to change that."""
    scripts = [path for directory in (CNI_BIN, DROP_IN_BIN) for path in _scripts(directory)]
    if not scripts:
        return []
    about = f"plugins start through Python ({scripts[0]}{' and others' if scripts[1:] else ''})"
    if reason := why_script():
        return [f"{about}: {reason}; install gcc and libc6-dev, dataplane once more, then run dpctl install"]
    return [f"{about}: dpctl install puts the executable in C there"]


def _scripts(directory: Path) -> list[Path]:
    found = []
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                start = file.read(_MARKER_WITHIN)
            if not start.startswith(_ELF) and is_ours(start):
                found.append(path)
    return found


def _package() -> str:
    return str(Path(__file__).absolute().parent.parent.parent)
