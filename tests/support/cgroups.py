"""A cgroup parent for the containers of one test, because cgroups have no namespace that would take them along.

cgroup = Cgroup("podman")
runtime("run", "--cgroup-parent", f"/{cgroup.name}", ...)
cgroup.remove()                      # once nothing runs in it any more
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from support.netns import wait_until

_ROOT = Path("/sys/fs/cgroup")
_count = itertools.count(1)


class Cgroup:
    """A name for a cgroup that no other test uses, in every hierarchy; a runtime makes it at the first container."""

    def __init__(self, owner: str) -> None:
        self.name = f"dataplane-test-{owner}-{os.getpid()}-{next(_count)}"

    def remove(self) -> None:
        """Remove it and what is below. Raises ``AssertionError`` where processes stay in it."""
        wait_until(self._removed, what=f"the cgroups below {self.name} are empty")

    def _removed(self) -> bool:
        tops = [_ROOT / self.name, *_ROOT.glob(f"*/{self.name}")]
        below = [path for top in tops for path in (top, *top.rglob("*/")) if path.is_dir()]
        for path in sorted(below, reverse=True):
            try:
                path.rmdir()
            except OSError as _a_process_is_still_in_it:
                return False
        return True
