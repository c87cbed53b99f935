"""Plugins that write down how they were called: two executables, ``first`` and ``second``, for what runs conflists.

    recorders = Recorders(tmp_path / "bin")
    recorders.fail("second", "ADD", '{"code": 101, "msg": "port in use"}')
    ... run something ...
    recorders.calls()                                   # [(plugin, verb, configuration, environment), ...]

ADD adds the plugin's name to the list "by" of prevResult; the first makes the result.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PLUGIN = """#!{python} -IS
import json, os, pathlib, sys
here, name = pathlib.Path(__file__).parent, pathlib.Path(__file__).name
verb, conf = os.environ["CNI_COMMAND"], json.load(sys.stdin)
cni = {{key: value for key, value in os.environ.items() if key.startswith(("CNI_", "TRACE"))}}
with (here / "calls").open("a") as calls:
    print(json.dumps([name, verb, conf, cni]), file=calls)
print(f"{{name}} was here", file=sys.stderr)
failure = here / f"{{name}}-{{verb}}"
if failure.exists():
    print(failure.read_text())
    sys.exit(1)
if verb == "ADD":
    result = conf.get("prevResult", {{"ips": [{{"address": "10.11.0.10/24"}}], "by": []}})
    print(json.dumps({{**result, "by": [*result["by"], name]}}))
"""
NAMES = ("first", "second")


class Recorders:
    """See the module."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        for name in NAMES:
            (directory / name).write_text(PLUGIN.format(python=sys.executable))
            (directory / name).chmod(0o755)

    @staticmethod
    def conflist(version: str = "1.1.0", name: str = "front", **more: object) -> str:
        """The text of a list of both; the second takes port mappings."""
        plugins = [
            {"type": "first", "key": 1},
            {"type": "second", "capabilities": {"portMappings": True, "mac": False}},
        ]
        return json.dumps({"cniVersion": version, "name": name, "plugins": plugins, **more})

    def fail(self, plugin: str, verb: str, answer: str) -> None:
        """From now on a plugin ends this verb with status 1 and this output."""
        (self.directory / f"{plugin}-{verb}").write_text(answer)

    def calls(self) -> list[tuple[str, str, dict[str, Any], dict[str, str]]]:
        """The calls since the last look: plugin, verb, configuration, environment."""
        path = self.directory / "calls"
        calls = [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return calls

    def order(self) -> list[tuple[str, str]]:
        """The same, plugin and verb alone."""
        return [(name, verb) for name, verb, _, _ in self.calls()]
