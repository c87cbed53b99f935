"""What cannot work in a chain of plugins, whatever each says for itself. Pure.

chain_problems(["plugins[0]", "plugins[1]"], [portmap, bridge])    -> Finding("plugins[0]", "portmap needs prevResult")

An order that no plugin can serve, ports that two publish or that no runtime will hand over, isolation without a bridge,
masquerade twice, a guard that others find in their way or do not tell what they change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from control.model import ChecksumPolicy, GuardPolicy
from plugin import dropins
from plugin.check.keys import FOREIGN_MAIN, HOST_LOCAL, OWN_TYPES, TYPES
from plugin.check.singleentry import SINGLE, declares
from plugin.errors import CniError
from plugin.jsontext import JsonObject


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one place of the configuration."""

    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}" if self.path else self.text


def chain_problems(paths: Sequence[str], plugins: Sequence[JsonObject]) -> Iterator[Finding]:
    """Everything that is wrong with the order and the company of plugins; ``paths`` says where each is written."""
    kinds = [str(entry["type"]) for entry in plugins]
    mains = [index for index, kind in enumerate(kinds) if _is_main(kind)]
    for index, kind in enumerate(kinds):
        if kind == HOST_LOCAL.name:
            yield Finding(paths[index], 'host-local is no plugin of a chain: name it in "ipam" of the main plugin')
        elif kind in TYPES and not _is_main(kind) and (index == 0 or (mains and index < mains[0])):
            yield Finding(paths[index], f"{kind} needs prevResult: put it after the main plugin, such as bridge")
    for index in mains[1:]:
        yield Finding(paths[index], f"{kinds[index]} is a second main plugin; a network has one interface a container")
    yield from _port_problems(paths, plugins)
    yield from _isolation_problems(paths, plugins)
    yield from _guard_problems(paths, plugins)
    masquerading = [index for index, entry in enumerate(plugins) if _masquerades(entry)]
    for index in masquerading[1:]:
        text = f"masquerade is asked for by {kinds[masquerading[0]]} already; say ipMasq false in one of the two"
        yield Finding(join(paths[index], "ipMasq"), text)


def _is_main(kind: str) -> bool:
    return kind in FOREIGN_MAIN or (kind in TYPES and TYPES[kind].main)


def _masquerades(entry: JsonObject) -> bool:
    asked = next((value for name, value in entry.items() if name.lower() == "ipmasq"), None)
    return asked is True or (entry["type"] == "cni-nftables-portmap" and asked is not False)


def _port_problems(paths: Sequence[str], plugins: Sequence[JsonObject]) -> Iterator[Finding]:
    publishers = [
        index
        for index, entry in enumerate(plugins)
        if str(entry["type"]) in TYPES and TYPES[str(entry["type"])].publishes and declares(entry, "portMappings")
    ]
    for index in publishers[1:]:
        text = f"ports are published by {plugins[publishers[0]]['type']} already; declare portMappings in one of them"
        yield Finding(join(paths[index], "capabilities.portMappings"), text)
    for index, entry in enumerate(plugins):
        kind = str(entry["type"])
        # bridge publishes if it is told to; the others are there to do so, unless another of the chain does.
        if kind == "bridge" or kind not in TYPES or not TYPES[kind].publishes or declares(entry, "portMappings"):
            continue
        declared = entry.get("capabilities")
        if (kind in OWN_TYPES and publishers) or (isinstance(declared, dict) and declared.get("portMappings") is False):
            continue
        text = "is not declared, so that runtimes keep -p to themselves; false says that no ports are wanted"
        yield Finding(join(paths[index], "capabilities.portMappings"), text)


def _isolation_problems(paths: Sequence[str], plugins: Sequence[JsonObject]) -> Iterator[Finding]:
    bridged = False
    for path, entry in zip(paths, plugins, strict=True):
        kind = str(entry["type"])
        bridged = bridged or kind in {"bridge", SINGLE}
        policy = next((value for name, value in entry.items() if name.lower() == "ingresspolicy"), "")
        isolates = kind == "isolation" or (kind == "firewall" and policy not in ("", "open", None))
        if isolates and not bridged:
            yield Finding(path, f"{kind} isolates bridges, and no bridge comes before it")


def _guard_problems(paths: Sequence[str], plugins: Sequence[JsonObject]) -> Iterator[Finding]:
    guards = (index for index, entry in enumerate(plugins) if hooks_veths(entry))
    first = next(guards, None)
    if first is None:
        return
    ours, main = str(plugins[first]["type"]), _is_main(str(plugins[first]["type"]))
    for index, entry in enumerate(plugins[first + 1 :], first + 1):
        if entry["type"] == "bandwidth":
            way = 'say attach = "tcx" in the settings, or guard off' if main else f"put {ours} after it"
            yield Finding(paths[index], f"bandwidth finds a qdisc of {ours} where it is to make its own: {way}")
        if entry["type"] == "tuning" and ("mac" in entry or declares(entry, "mac")):
            way = f"let {ours} have it, by capability mac" if main else f"put {ours} after it"
            yield Finding(paths[index], f"tuning sets a MAC address that {ours} guards the container against: {way}")


def hooks_veths(entry: JsonObject) -> bool:
    """Whether an entry has programs on the containers' own host veths: a guard, or checksum fill."""
    kind = str(entry["type"])
    if kind not in TYPES or kind == HOST_LOCAL.name:
        return False
    try:
        chosen = dropins.read(kind, {**entry, "name": "name", "cniVersion": "1.0.0"}).options
    except CniError:
        return False  # told elsewhere
    return chosen.guard is not GuardPolicy.OFF or chosen.checksum is ChecksumPolicy.FILL


def join(path: str, name: str) -> str:
    """The path of a key of the entry at ``path``, which is empty for a single configuration."""
    return f"{path}.{name}" if path else name
