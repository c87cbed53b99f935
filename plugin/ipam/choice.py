"""Who hands out addresses for a main plugin.

ipam = ipam_of(invocation, conf, environment)      # None: layer 2 only
result = ipam.add()

"ipam": {"type": "host-local", ...}     in this process, see plugin/ipam/hostlocal.py
"ipam": {"type": "dhcp", ...}           by that plugin's executable, see plugin/ipam/delegate.py
"ipam": {}                              nobody
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Protocol

from plugin.environment import Invocation, Verb
from plugin.errors import ConfigError
from plugin.ipam.delegate import Delegated, Say
from plugin.ipam.hostlocal import HostLocal
from plugin.ipam.result import IpamResult
from plugin.jsontext import JsonObject, kind_of, shown

HOST_LOCAL = "host-local"


class Ipam(Protocol):
    """The verbs of an IPAM plugin, for one attachment or, for ``collect`` and ``status``, one network."""

    def add(self) -> IpamResult:
        """Give the attachment its addresses. Raises ``NoAddressError``, ``CniError``, ...; then it has none more."""

    def delete(self) -> None:
        """Take them back; what is gone is no error. Also undoes an ADD."""

    def check(self) -> None:
        """Raises ``DifferenceError`` or ``CniError`` where the attachment does not hold its addresses."""

    def collect(self, valid: frozenset[tuple[str, str]]) -> None:
        """Take back what no valid (container, ifname) holds. Raises an ``ExceptionGroup`` after having tried all."""

    def status(self) -> None:
        """Raises ``NotReadyError`` or ``CniError`` where an ADD would fail."""


def is_delegated(conf: JsonObject) -> bool:
    """Whether addresses are another plugin's business."""
    return _type_of(conf, lenient=True) not in {"", HOST_LOCAL}


def ipam_of(
    invocation: Invocation, conf: JsonObject, environment: Mapping[str, str], say: Say = sys.stderr.write
) -> Ipam | None:
    """The IPAM of a configuration; None where it has none. Raises ``CniError`` for one that cannot be served.

    ``environment`` is the caller's, and where another plugin is to run the whole of it. Everything is checked here,
    before anything is changed, except on DEL and GC, which read no more than they need: a configuration that was broken
    after the ADD must not keep addresses from release.
    """
    named = _type_of(conf, lenient=invocation.verb is Verb.DEL)
    if not named:
        return None
    if named == HOST_LOCAL:
        return HostLocal(invocation, conf)
    return Delegated(named, invocation, conf, environment, say)


def _type_of(conf: JsonObject, *, lenient: bool) -> str:
    ipam = conf.get("ipam")
    if isinstance(ipam, dict):
        named = ipam.get("type")
        if isinstance(named, str):
            return named
        if not ipam or lenient:
            return ""
        raise ConfigError("ipam.type", "is missing" if named is None else f"{shown(named)} is not a string")
    if ipam is None or lenient:
        return ""
    raise ConfigError("ipam", f"{shown(ipam)} is {kind_of(ipam)}, not an object")
