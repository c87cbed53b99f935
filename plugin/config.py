"""The network configuration on standard input, as a value: every key is checked here, and nowhere else.

    conf = parse(parse_object(stdin))
    conf.name, conf.options.ingress_policy, conf.mappings, conf.previous

    cniVersion, name, type     SPEC 1.1; versions 0.1.0 to 1.1.0 are served
    snat                       default true: masquerade hairpin and localhost connections to published ports
    masqAll                    default false: masquerade every connection to a published port
    ipMasq                     default false: masquerade what leaves the network
    ingressPolicy              open | same-bridge (default) | isolated
    checksum                   off | observe | repair (default) | fill
    fillPorts                  UDP ports whose partial sums "fill" completes, default [68, 546]: DHCP clients
    guard                      off | mac | full (default): what the containers may send. off lets everything pass, mac
                               frames from their own MAC; full, of these, packets from their own addresses, and nothing
                               that a router or a DHCP server says. dataplane-bridge: mac at least with macspoofchk
    conditionsV4, conditionsV6 extra matches of published ports, see control/conditions.py; they are about packets, so
                               that processes of the host do not reach these ports by 127.0.0.1 and [::1], unless
                               nftables serves localhost (the host's settings)
    forwardChains              foreign chains that need our accept: "inet filter forward" or {family, table, chain},
                               with "optional": true where it is no error that there is none
    adminChain                 a chain of inet dataplane_admin for rules of your own; what is forwarded enters it
    firewalldZone              zone of firewalld for the containers' addresses, while firewalld runs
    runtimeConfig              portMappings, see plugin/ports.py; declare it in "capabilities"
    prevResult                 see plugin/result.py

Of the portmap plugin's keys ``backend`` and ``markMasqBit`` are accepted and ignored, with a note, so that a conflist
can be moved by changing ``type`` alone. Unknown keys are ignored, as Go's plugins do, unless they are one of ours in
another letter case: a misspelled ``ingressPolicy`` must not mean less isolation than was written.

What other types have in common with this one is read by the same code, from a ``Section`` that may fold letter case:

    options(section, defaults)                 the keys above, each with its own default
    net_conf(conf, section, options, notes)    the rest: ports, prevResult
    choice, conditions, forward_chains         single keys
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from control.conditions import Condition, ConditionError
from control.conditions import parse as parse_conditions
from control.model import (
    ChecksumPolicy,
    ForeignChain,
    GuardPolicy,
    IngressPolicy,
    InvalidValueError,
    Options,
    PortMapping,
    chain_name,
    identifier,
    zone_name,
)
from plugin.errors import CniError, Code, ConfigError
from plugin.jsontext import Json, JsonObject, Section, kind_of, shown
from plugin.ports import Entry, port_mappings
from plugin.versions import SUPPORTED_VERSIONS

VALID_ATTACHMENTS = "cni.dev/valid-attachments"

_KEYS = (
    "cniVersion", "name", "type", "capabilities", "runtimeConfig", "snat", "masqAll", "ipMasq", "ingressPolicy",
    "checksum", "fillPorts", "guard", "conditionsV4", "conditionsV6", "forwardChains", "adminChain", "firewalldZone",
    "prevResult", "args", VALID_ATTACHMENTS, "backend", "markMasqBit", "externalSetMarkChain",
)  # fmt: skip
_SPELLING = {key.lower(): key for key in _KEYS}
IGNORED = {
    "backend": "this plugin always works by nftables",
    "markMasqBit": "what is masqueraded is told by conntrack, not by a mark",
}
"""Keys of portmap's that have nothing to act on here, and why."""

E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Header:
    """The part of a configuration that every verb needs; DEL reads nothing else."""

    cni_version: str
    name: str

    def at_least(self, version: str) -> bool:
        """Whether the configuration is of this version of CNI or a later one."""
        return SUPPORTED_VERSIONS.index(self.cni_version) >= SUPPORTED_VERSIONS.index(version)


@dataclass(frozen=True, slots=True)
class NetConf(Header):
    """A whole configuration."""

    options: Options = field(default_factory=Options)
    ports: tuple[Entry, ...] = ()
    """``portMappings`` as they were written."""
    previous: JsonObject | None = None
    """``prevResult`` as it was written: it is passed on with all that it holds."""
    notes: tuple[str, ...] = ()
    """What was read and has no effect, a sentence each."""

    @property
    def mappings(self) -> tuple[PortMapping, ...]:
        """The ports to publish."""
        return tuple(entry.mapping for entry in self.ports)


def parse_header(conf: JsonObject) -> Header:
    """Read version and name. Raises ``CniError``: code 1 for a version that is not served, 7 for a bad name."""
    section = Section(conf)
    # SPEC 0.1.0 had no cniVersion; Go's decoder takes its absence for that version, too.
    version = section.text("cniVersion") or SUPPORTED_VERSIONS[0]
    if version not in SUPPORTED_VERSIONS:
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            "incompatible CNI versions",
            f"cniVersion: {version[:64]!r} is not one of {', '.join(SUPPORTED_VERSIONS)}",
        )
    name = section.text("name")
    if not name:
        raise ConfigError("name", "is missing")
    return Header(version, _checked_name(name))


def parse(conf: JsonObject, others: Iterable[str] = ()) -> NetConf:
    """Read everything of our own types. Raises ``CniError`` that names the first field that cannot be served.

    ``others`` are keys that are read elsewhere, and must not be misspelt either.
    """
    header = parse_header(conf)
    section = Section(conf)
    _refuse_other_spellings(section, others)
    if chain := section.text("externalSetMarkChain"):
        raise ConfigError(
            "externalSetMarkChain",
            f"{chain[:64]!r} is a chain of iptables, which this plugin does not use; remove the key",
            Code.UNSUPPORTED_FIELD,
        )
    section.section("args")
    return net_conf(header, section, options(section, Options()), notes(section, IGNORED))


def options(section: Section, defaults: Options) -> Options:
    """Read every key that says what is done for a network; what is not written is as in ``defaults``."""
    return Options(
        snat=section.boolean("snat", default=defaults.snat),
        masq_all=section.boolean("masqAll", default=defaults.masq_all),
        ip_masq=section.boolean("ipMasq", default=defaults.ip_masq),
        ingress_policy=choice(section, "ingressPolicy", IngressPolicy, defaults.ingress_policy),
        checksum=choice(section, "checksum", ChecksumPolicy, defaults.checksum),
        fill_ports=fill_ports(section, defaults.fill_ports),
        guard=choice(section, "guard", GuardPolicy, defaults.guard),
        conditions4=conditions(section, 4),
        conditions6=conditions(section, 6),
        forward_chains=forward_chains(section),
        admin_chain=admin_chain(section, "adminChain", defaults.admin_chain),
        firewalld_zone=firewalld_zone(section, "firewalldZone", defaults.firewalld_zone),
    )


def net_conf(header: Header, section: Section, chosen: Options, remarks: tuple[str, ...]) -> NetConf:
    """A configuration with these options: reads what every type has."""
    section.text("type")
    for name in (capabilities := section.section("capabilities")).names():
        capabilities.boolean(name, default=False)
    return NetConf(
        cni_version=header.cni_version,
        name=header.name,
        options=chosen,
        ports=port_mappings(section.section("runtimeConfig", fold=True).items("portMappings")),
        previous=_previous(section),
        notes=remarks,
    )


def notes(section: Section, ignored: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence for each key that was given and is ignored."""
    return tuple(f"{key} is ignored: {why}" for key, why in ignored.items() if section.raw(key) is not None)


def parse_valid_attachments(conf: JsonObject) -> frozenset[tuple[str, str]] | None:
    """What GC may not touch, as (container ID, interface); None where the key is missing, which is not "nothing"."""
    section = Section(conf)
    if section.raw(VALID_ATTACHMENTS) is None:
        return None
    valid = set()
    for path, item in section.items(VALID_ATTACHMENTS):
        attachment = Section(item, path)
        pair = (attachment.text("containerID"), attachment.text("ifname"))
        for name, value in zip(("containerID", "ifname"), pair, strict=True):
            if not value:
                raise ConfigError(attachment.at(name), "is missing")
        valid.add(pair)
    return frozenset(valid)


def _checked_name(name: str) -> str:
    try:
        return identifier(name, "name")
    except InvalidValueError as error:
        raise ConfigError(error.field, error.reason) from None


def _refuse_other_spellings(section: Section, others: Iterable[str]) -> None:
    spelling = _SPELLING | {key.lower(): key for key in others}
    for key in section.names():
        meant = spelling.get(key.lower(), key)
        if meant != key:
            raise ConfigError(key[:64], f"did you mean {meant!r}? Only runtimeConfig is read in any letter case")


def choice(section: Section, name: str, kind: type[E], default: E) -> E:
    """One of several words; the default where it is missing. Raises ``ConfigError``."""
    text = section.text(name, default)
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(section.at(name), f"{text[:64]!r} is not one of {', '.join(filter(None, kind))}") from None


def fill_ports(section: Section, default: tuple[int, ...]) -> tuple[int, ...]:
    """``fillPorts``, each once and in order; the default where it is missing. Raises ``ConfigError``."""
    if section.raw("fillPorts") is None:
        return default
    ports = []
    for path, item in section.items("fillPorts"):
        if isinstance(item, bool) or not isinstance(item, int) or not 1 <= item <= 65535:
            raise ConfigError(path, f"{shown(item)} is not a port (1 to 65535)")
        ports.append(item)
    return tuple(sorted(set(ports)))


def conditions(section: Section, version: int) -> tuple[Condition, ...]:
    """``conditionsV4`` or ``conditionsV6``. Raises ``ConfigError`` that names the word."""
    name = f"conditionsV{version}"
    words: Sequence[str] = section.texts(name)
    try:
        return parse_conditions(words, version)
    except ConditionError as error:
        raise ConfigError(f"{section.at(name)}[{error.index}]", error.reason) from None


def forward_chains(section: Section) -> tuple[ForeignChain, ...]:
    """``forwardChains``, each once. Raises ``ConfigError``."""
    return tuple(dict.fromkeys(_forward_chain(path, item) for path, item in section.items("forwardChains")))


def admin_chain(section: Section, name: str, default: str) -> str:
    """The chain that users fill, under the key that this type has for it. Raises ``ConfigError``."""
    chain = section.text(name) or default
    if not chain:
        return chain
    try:
        return chain_name(chain, section.at(name))
    except InvalidValueError as error:
        raise ConfigError(error.field, error.reason) from None


def firewalld_zone(section: Section, name: str, default: str) -> str:
    """The zone of firewalld. Raises ``ConfigError``."""
    zone = section.text(name) or default
    try:
        return zone_name(zone, section.at(name)) if zone else zone
    except InvalidValueError as error:
        raise ConfigError(error.field, error.reason) from None


def _forward_chain(path: str, item: Json) -> ForeignChain:
    optional = False
    if isinstance(item, str):
        parts = item.split()
        if len(parts) != 3:
            raise ConfigError(path, f"{shown(item)} is not 'family table chain'")
    elif isinstance(item, dict):
        chain = Section(item, path)
        parts = [chain.text(name) for name in ("family", "table", "chain")]
        optional = chain.boolean("optional", default=False)
    else:
        raise ConfigError(path, f"{shown(item)} is {kind_of(item)}, not a string 'family table chain' or an object")
    try:
        family, table, name = parts
        return ForeignChain(family, table, name, optional)
    except InvalidValueError as error:
        raise ConfigError(path, error.reason) from None


def _previous(section: Section) -> JsonObject | None:
    value = section.raw("prevResult")
    if not isinstance(value, dict | None):
        raise ConfigError("prevResult", f"{shown(value)} is {kind_of(value)}, not an object")
    return value
