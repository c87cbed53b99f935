"""Compiles the executable that runtimes start, when a wheel is built or a checkout is installed in place.

    compile_shim(Path("shim"))     -> "", or why there is none

Hatchling loads this file by its path. A wheel that holds the program is for one platform; where there is no compiler
the wheel is pure, and holds the reason in its place: plugins then start through Python.

``CC`` names another compiler, as everywhere.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

PROGRAM = "shim"
REASON = "not-built"
"""Why there is no program, in one line; beside where it would be."""

_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")
_HARDENED = ("-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", "-static", "-s")
_TIMEOUT = 120.0


def compile_shim(output: Path, *flags: str, hardened: bool = True) -> str:
    """Compile the program, for tests with ``flags``. Where that is not possible: why, in one line."""
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    sources = sorted(map(str, Path(__file__).parent.glob("*.c")))
    command = [*compiler, *_FLAGS, *(_HARDENED if hardened else ()), *flags, "-o", str(output), *sources]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except OSError as error:
        return f"no C compiler ({compiler[0]}: {error.strerror})"
    except subprocess.TimeoutExpired:
        return f"the C compiler ({compiler[0]}) did not end"
    if done.returncode == 0:
        return ""
    said = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
    return f"the C compiler ({compiler[0]}) failed: {next((line for line in said if 'error' in line), said[-1])}"


class ShimBuildHook(BuildHookInterface[BuilderConfig]):
    """Puts the program, or the reason why there is none, into a wheel; or into the checkout, for one in place."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel is put together."""
        self._scratch = Path(tempfile.mkdtemp(prefix="dataplane-"))
        program, reason = self._scratch / PROGRAM, self._scratch / REASON
        if cause := compile_shim(program):
            self.app.display_warning(f"plugins will start through Python: {cause}")
            program.unlink(missing_ok=True)
            reason.write_text(f"{cause}\n")
        else:
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform()}"
        for made in (program, reason):
            self._place(made, build_data, in_place=version == "editable")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - hatchling's signature
        """Called when the wheel is there."""
        shutil.rmtree(self._scratch)

    def _place(self, made: Path, build_data: dict[str, Any], *, in_place: bool) -> None:
        beside = Path(self.root, "plugin", "native")
        if not in_place:
            if made.exists():
                build_data["force_include"][str(made)] = f"plugin/native/{made.name}"
            return
        place = beside / made.name
        place.unlink(missing_ok=True)
        if made.exists():
            shutil.copy2(made, place)


def _platform() -> str:
    # The program needs no library: neither manylinux nor musllinux, which name a libc.
    return next(tag.platform for tag in sys_tags() if tag.platform.startswith("linux_"))
