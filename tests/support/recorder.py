"""An IPAM plugin that writes down how it is called, and answers as it is told.

ipam = Recorder(tmp_path / "ipam")
ipam.answers("ADD", {"cniVersion": "1.1.0", "ips": [{"address": "10.11.0.7/24"}]})
ipam.fails("CHECK", {"cniVersion": "1.1.0", "code": 142, "msg": "lost"})
ipam.calls                          ["ADD", "CHECK"]
ipam.environment("ADD"), ipam.configuration("ADD")
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAME = "recorder"
SAID = "words of the IPAM plugin for people"

_SCRIPT = f"""#!/bin/sh
own=$(/usr/bin/dirname "$0")
/bin/echo "$CNI_COMMAND" >>"$own/calls"
/usr/bin/env --null >"$own/$CNI_COMMAND.environment"
/bin/cat >"$own/$CNI_COMMAND.configuration"
/bin/echo "{SAID}" >&2
if [ -e "$own/$CNI_COMMAND.answer" ]; then /bin/cat "$own/$CNI_COMMAND.answer"; fi
if [ -e "$own/$CNI_COMMAND.failed" ]; then exit 1; fi
"""


class Recorder:
    """The plugin "recorder" in a directory of its own, which is to be in CNI_PATH."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        script = directory / NAME
        script.write_text(_SCRIPT)
        script.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """The verbs that it was called with, in order."""
        written = self.directory / "calls"
        return written.read_text().split() if written.exists() else []

    def forget(self) -> None:
        """Forget the calls so far."""
        (self.directory / "calls").unlink(missing_ok=True)

    def answers(self, verb: str, result: dict[str, Any]) -> None:
        """Print this from now on, with exit status 0."""
        (self.directory / f"{verb}.answer").write_text(json.dumps(result))
        (self.directory / f"{verb}.failed").unlink(missing_ok=True)

    def fails(self, verb: str, error: dict[str, Any]) -> None:
        """Print this from now on, with exit status 1."""
        self.answers(verb, error)
        (self.directory / f"{verb}.failed").touch()

    def environment(self, verb: str) -> dict[str, str]:
        """The variables of its last call with this verb."""
        pairs = (self.directory / f"{verb}.environment").read_text().rstrip("\0").split("\0")
        return dict(pair.split("=", 1) for pair in pairs)

    def configuration(self, verb: str) -> dict[str, Any]:
        """What it read in its last call with this verb."""
        written = json.loads((self.directory / f"{verb}.configuration").read_text())
        assert isinstance(written, dict)
        return written
