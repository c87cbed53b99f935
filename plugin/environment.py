"""The environment of a call: which verb, on which attachment.

    verb                  ADD  DEL  CHECK  GC  STATUS  VERSION
    CNI_CONTAINERID        x    x     x
    CNI_IFNAME             x    x     x
    CNI_NETNS              x          x

Be aware: Go's skel also insists on CNI_PATH, which SPEC 1.1 lists as optional. Only a plugin that delegates misses it.
CNI_ARGS is only read by those that take something from there (``arguments``): what others may have put there is no
reason to refuse a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from control.model import InvalidValueError, identifier, interface_name
from plugin.errors import CniError, Code


class Verb(StrEnum):
    """CNI_COMMAND."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"
    VERSION = "VERSION"


SINCE = {Verb.CHECK: "0.4.0", Verb.GC: "1.1.0", Verb.STATUS: "1.1.0"}
"""The version of CNI that a verb came with; the others always were."""

_ON_ATTACHMENT = frozenset({Verb.ADD, Verb.DEL, Verb.CHECK})
_REQUIRED = {
    "CNI_CONTAINERID": _ON_ATTACHMENT,
    "CNI_NETNS": frozenset({Verb.ADD, Verb.CHECK}),
    "CNI_IFNAME": _ON_ATTACHMENT,
}


@dataclass(frozen=True, slots=True)
class Invocation:
    """A verb and, where it is about an attachment, which."""

    verb: Verb
    container: str = ""
    ifname: str = ""
    netns: str = ""
    args: str = ""
    """CNI_ARGS as it was written."""
    path: tuple[str, ...] = ()
    """CNI_PATH: where executables of plugins are."""


def parse_environment(environment: Mapping[str, str]) -> Invocation:
    """Read the CNI_* variables. Raises ``CniError`` (code 4) that names all missing ones, or a bad one."""
    command = environment.get("CNI_COMMAND", "")
    if command not in set(Verb):
        _refuse(f"CNI_COMMAND: {command[:64]!r} is not one of {', '.join(Verb)}")
    verb = Verb(command)
    missing = [name for name, verbs in _REQUIRED.items() if verb in verbs and not environment.get(name)]
    if missing:
        _refuse(f"{verb} needs {', '.join(missing)}, missing or empty")
    path = tuple(one for one in environment.get("CNI_PATH", "").split(":") if one)
    if verb not in _ON_ATTACHMENT:
        return Invocation(verb, path=path)
    try:
        return Invocation(
            verb,
            identifier(environment["CNI_CONTAINERID"], "CNI_CONTAINERID"),
            interface_name(environment["CNI_IFNAME"], "CNI_IFNAME"),
            environment.get("CNI_NETNS", ""),
            environment.get("CNI_ARGS", ""),
            path,
        )
    except InvalidValueError as error:
        _refuse(str(error))


def arguments(text: str) -> dict[str, str]:
    """CNI_ARGS, ``"K=V;K=V"``, by name; the last of equal names counts. Raises ``CniError`` (code 4)."""
    found = {}
    for pair in filter(None, text.split(";")):
        name, separator, value = pair.partition("=")
        if not (name and separator):
            _refuse(f"CNI_ARGS: {pair[:64]!r} is not NAME=VALUE")
        found[name] = value
    return found


def _refuse(details: str) -> NoReturn:
    raise CniError(Code.INVALID_ENVIRONMENT, "invalid CNI environment", details)
