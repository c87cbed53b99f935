"""What a test cannot do without: where it is missing, the test is skipped with the reason, and in CI it fails.

needs.root()
needs.command("podman", package="podman")
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs of the system are looked for, whatever PATH a developer has."""


def that(present: object, what: str) -> None:
    """Go on only where ``present`` is true: else skip, saying what is missing; fail where CI is set."""
    if present:
        return
    if os.environ.get("CI"):
        pytest.fail(f"missing in CI: {what}", pytrace=False)
    pytest.skip(f"missing: {what}")


def root() -> None:
    """The test makes namespaces, links or BPF programs."""
    that(os.geteuid() == 0, "root (run the tests as root)")


def command(name: str, package: str) -> Path:
    """A program of the system; its path."""
    found = shutil.which(name, path=SYSTEM_PATH)
    that(found, f"the program {name} (apt-get install {package})")
    return Path(str(found))


def file(path: Path | str, package: str) -> Path:
    """A file that a package brings; its path."""
    that(Path(path).exists(), f"{path} (apt-get install {package})")
    return Path(path)
