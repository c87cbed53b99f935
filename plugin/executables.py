"""Executables of plugins, for those who start them: where one is, and what its failure says.

path = located("dhcp", directories)      # None: there is none; a name that is a path is never looked for
failure = failure_in(stdout)             # (code, message, details) of the CNI error that was printed, or None
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def is_path(name: str) -> bool:
    """Whether a plugin's type would lead out of the directories that it is looked for in (CVE-2021-20206)."""
    return name in {"", ".", ".."} or "/" in name or "\0" in name


def located(name: str, directories: Sequence[Path | str]) -> Path | None:
    """The executable by this name, the first one counts; ``is_path`` is to be asked before."""
    candidates = (Path(directory) / name for directory in directories)
    return next((path for path in candidates if os.access(path, os.X_OK) and path.is_file()), None)


def failure_in(stdout: str) -> tuple[int, str, str] | None:
    """The CNI error that a plugin printed: code, message and details."""
    with suppress(ValueError):
        match json.loads(stdout):
            case {"code": int(code), "msg": str(msg), **rest}:
                return code, msg, str(rest.get("details", ""))
    return None
