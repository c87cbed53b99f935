"""The one plugin entry, ``type: dataplane-bridge``, that does what a chain of several does. Pure.

    single_entry("web", "1.0.0", [bridge, portmap, firewall])   -> Single(entry={...}, obstacles=())
    single_entry("web", "1.0.0", [bridge, portmap, tuning])     -> Single(entry={...}, stays=("tuning",))
    single_entry("web", "1.0.0", [macvlan, portmap])            -> Single(entry=None, obstacles=("macvlan stays ...",))

The parts are read as each plugin reads them, and joined as the kernel joins them: what any part closes is closed, what
any part repairs is repaired, what any part masquerades is masqueraded.

Be aware: three keys are always written, ``ingressPolicy``, ``checksum`` and ``guard``, because their defaults are not
bridge's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from control.model import ChecksumPolicy, ForeignChain, GuardPolicy, IngressPolicy, Options
from plugin import dropins
from plugin.check.keys import BRIDGE_KEYS, HOST_LOCAL, TYPES
from plugin.config import NetConf
from plugin.errors import CniError
from plugin.jsontext import Json, JsonObject, Section

SINGLE = "dataplane-bridge"

_REWRITTEN = {"ipMasq", "ipMasqBackend"}
"""Keys of bridge that are told anew, from all parts."""
_POLICIES, _CHECKSUMS, _GUARDS = list(IngressPolicy), list(ChecksumPolicy), list(GuardPolicy)
"""From the weakest to the strongest."""


@dataclass(frozen=True, slots=True)
class Single:
    """An entry that replaces what is ours of a chain, or why there is none."""

    entry: JsonObject | None
    obstacles: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()
    """Chained plugins of others, which follow the entry."""


@dataclass(frozen=True, slots=True)
class _Part:
    kind: str
    entry: JsonObject
    conf: NetConf

    @property
    def publishes(self) -> bool:
        return TYPES[self.kind].publishes and declares(self.entry, "portMappings")


def declares(entry: JsonObject, capability: str) -> bool:
    """Whether an entry has the runtime hand this capability over."""
    capabilities = entry.get("capabilities")
    return isinstance(capabilities, dict) and capabilities.get(capability) is True


def single_entry(name: str, cni_version: str, plugins: Sequence[JsonObject]) -> Single:
    """Join a chain of plugins, each with its ``type``, into one entry."""
    obstacles = list(_wrong_mains(plugins))
    parts = []
    for entry in plugins:
        kind = str(entry["type"])
        if kind not in TYPES or kind == HOST_LOCAL.name:
            continue
        try:
            conf = dropins.read(kind, {**entry, "name": name, "cniVersion": cni_version})
        except CniError as error:
            obstacles.append(f"{kind} is refused as it is written: {error.details or error.msg}")
        else:
            parts.append(_Part(kind, entry, conf))
    obstacles += _contradictions(parts)
    if obstacles:
        return Single(None, tuple(obstacles))
    return Single(_joined(parts), stays=tuple(str(entry["type"]) for entry in plugins if entry["type"] not in TYPES))


def _wrong_mains(plugins: Sequence[JsonObject]) -> Iterable[str]:
    main, *chained = [str(entry["type"]) for entry in plugins]
    if main not in TYPES:
        yield f"{main} stays: no plugin of ours makes such an interface"
    elif not TYPES[main].main:
        yield f"{main} is no main plugin, and the first of a chain must be one"
    for kind in chained:
        if kind == HOST_LOCAL.name:
            yield f"{kind} is no plugin of a chain"
        elif kind in TYPES and TYPES[kind].main and main in TYPES and TYPES[main].main:
            yield f"{kind} is a second main plugin"


def _contradictions(parts: Sequence[_Part]) -> Iterable[str]:
    publishers = [part.kind for part in parts if part.publishes]
    if len(publishers) > 1:
        yield f"ports are published by {' and '.join(publishers)}: choose one of them"
    for what, names in (
        ("admin chain", {part.conf.options.admin_chain for part in parts} - {""}),
        ("zone of firewalld", {part.conf.options.firewalld_zone for part in parts} - {""}),
    ):
        if len(names) > 1:
            yield f"an entry has one {what}, and these are {' and '.join(sorted(names))}"


def _joined(parts: Sequence[_Part]) -> JsonObject:
    publisher = next((part for part in parts if part.publishes), None)
    entry: JsonObject = {"type": SINGLE}
    if capabilities := _capabilities(parts):
        entry["capabilities"] = capabilities
    main = Section(parts[0].entry, fold=True)
    for key in BRIDGE_KEYS:
        value = main.raw(key.name)
        if value is not None and key.name not in _REWRITTEN:
            entry[key.name] = value
    if (arguments := main.raw("args")) is not None:
        entry["args"] = arguments
    chosen = [part.conf.options for part in parts]
    if any(one.ip_masq for one in chosen):
        entry["ipMasq"] = True
    entry["ingressPolicy"] = max((one.ingress_policy for one in chosen), key=_POLICIES.index)
    entry["checksum"] = max((one.checksum for one in chosen), key=_CHECKSUMS.index)
    entry["guard"] = max((one.guard for one in chosen), key=_GUARDS.index)
    if entry["checksum"] == ChecksumPolicy.FILL:
        entry["fillPorts"] = list[Json](sorted({port for one in chosen for port in one.fill_ports}))
    if publisher is not None:
        entry |= _publishing(publisher)
    if chains := dict.fromkeys(chain for one in chosen for chain in one.forward_chains):
        entry["forwardChains"] = [_chain(chain) for chain in chains]
    for name, values in (
        ("adminChain", [one.admin_chain for one in chosen]),
        ("firewalldZone", [one.firewalld_zone for one in chosen]),
    ):
        if value := next(filter(None, values), ""):
            entry[name] = value
    return entry


def _capabilities(parts: Iterable[_Part]) -> JsonObject:
    found: JsonObject = {}
    for part in parts:
        declared = part.entry.get("capabilities")
        if isinstance(declared, dict):
            found |= {name: value for name, value in declared.items() if value is True}
    return found


def _publishing(part: _Part) -> JsonObject:
    options, section, defaults = part.conf.options, Section(part.entry, fold=True), Options()
    found: JsonObject = {}
    if options.snat != defaults.snat:
        found["snat"] = options.snat
    if options.masq_all != defaults.masq_all:
        found["masqAll"] = options.masq_all
    for name in ("conditionsV4", "conditionsV6"):
        if value := section.raw(name):
            found[name] = value
    return found


def _chain(chain: ForeignChain) -> Json:
    if not chain.optional:
        return str(chain)
    return {"family": chain.family, "table": chain.table, "chain": chain.chain, "optional": True}
