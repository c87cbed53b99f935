"""A plugin as a runtime starts it: the installed executable, parameters in the environment, a configuration on stdin.

    plugin = install(sandbox, tmp_path, "dataplane")
    result = plugin.succeeds("ADD", configuration)
    error = plugin.fails("ADD", configuration, CNI_IFNAME=None)

What a plugin prints is judged here by what every call promises: an error is one JSON object on standard output.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control.protocol.wire import Answer
from support.cni import environment
from support.netns import Sandbox

DPCTL = Path(sys.executable).with_name("dpctl")
_ALWAYS_INSTALLED = {"dataplane", "dataplane-bridge"}


@dataclass(frozen=True, slots=True)
class Plugin:
    """One executable in one sandbox."""

    host: Sandbox
    path: Path

    @property
    def type(self) -> str:
        """What conflists call it."""
        return self.path.name

    def __call__(self, verb: str, conf: object, **env: str | None) -> Answer:
        """Start it; ``conf`` is text, or what is to become JSON. ``CNI_NAME=None`` takes a variable away."""
        variables = environment(verb, **({"CNI_PATH": str(self.path.parent)} | env))
        text = conf if isinstance(conf, str) else json.dumps(conf)
        done = self.host.run(self.path, env=variables, input=text, check=False)
        return Answer(done.stdout, done.stderr, done.returncode)

    def succeeds(self, verb: str, conf: object, **env: str | None) -> dict[str, Any]:
        """Start it where it must not fail; the result of an ADD, nothing of other verbs."""
        answer = self(verb, conf, **env)
        assert answer.exit_code == 0, f"{self.type} {verb}: {answer}"
        if verb in {"ADD", "VERSION"}:
            return object_of(answer)
        assert answer.stdout == ""
        return {}

    def fails(self, verb: str, conf: object, **env: str | None) -> dict[str, Any]:
        """Start it where it must fail; the error."""
        answer = self(verb, conf, **env)
        assert answer.exit_code != 0, f"{self.type} {verb}: {answer}"
        error = object_of(answer)
        assert error.keys() >= {"cniVersion", "code", "msg"}, error
        assert isinstance(error["code"], int)
        assert error["msg"]
        return error


def install(host: Sandbox, directory: Path, name: str) -> Plugin:
    """Install our executable by one of its names, with ``dpctl``, as a user does."""
    own, drop_ins = directory / "bin", directory / "drop-ins"
    options = [] if name in _ALWAYS_INSTALLED else ["--drop-in", "--drop-in-bin", drop_ins]
    host.run(DPCTL, "install", "--cni-bin", own, "--conf", directory / "net.d", *options)
    return Plugin(host, (drop_ins if options else own) / name)


def object_of(answer: Answer) -> dict[str, Any]:
    """The one JSON object on standard output."""
    written = json.loads(answer.stdout)
    assert isinstance(written, dict), answer
    return written


def words_of(error: dict[str, Any]) -> str:
    """What an error says to people."""
    return f"{error['msg']} {error.get('details', '')}"
