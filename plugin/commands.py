"""The verbs: what each reads, what it asks of the engine, and what it prints.

ADD     conf, prevResult, netns   ->  engine.add(request)       prevResult in the configuration's version
CHECK   conf, prevResult, netns   ->  engine.check(request)
DEL     name                      ->  engine.delete(key)        whatever else the configuration says or lacks
GC      name, valid attachments   ->  engine.collect(...)
STATUS  name                      ->  engine.status()
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from control.errors import BusyError, NotReadyError
from control.model import AttachmentKey, Request
from dataplane.errors import DataplaneError
from plugin import config, result, sandbox
from plugin.environment import Invocation, Verb
from plugin.errors import CniError, Code, ConfigError
from plugin.jsontext import JsonObject
from plugin.ports import unserved


class Engine(Protocol):
    """What the plugin needs of ``control.engine.Engine``."""

    def add(self, request: Request) -> None:
        """Attach, or bring up to date. Raises ``DataplaneError``; then nothing is changed."""

    def delete(self, key: AttachmentKey) -> None:
        """Detach; an unknown key is fine."""

    def check(self, request: Request) -> None:
        """Raises ``DifferenceError`` where the kernel is not as the request wants it."""

    def collect(self, network: str, valid: frozenset[tuple[str, str]]) -> None:
        """Detach all but these (container ID, ifname). Raises an ``ExceptionGroup`` after having tried all."""

    def status(self) -> None:
        """Raises ``NotReadyError`` where an ADD would fail."""


OpenEngine = Callable[[], AbstractContextManager[Engine]]
"""Makes an engine available for the time of a ``with``; called only once everything was found valid."""


@dataclass(frozen=True, slots=True)
class Netns:
    """CNI_NETNS as the shim found it."""

    descriptor: int | None
    error: str = ""
    """Why there is no descriptor, though there is a path."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a verb that succeeded prints."""

    stdout: str = ""
    notes: tuple[str, ...] = ()
    """For standard error, a line each."""


def run(invocation: Invocation, conf: JsonObject, netns: Netns, engine: OpenEngine) -> Outcome:
    """Carry out a verb other than VERSION. Raises ``CniError``, ``DataplaneError`` or an ``ExceptionGroup``."""
    header = config.parse_header(conf)
    since = _SINCE.get(invocation.verb)
    if since and not header.at_least(since):
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"config version does not allow {invocation.verb}",
            f"cniVersion: {invocation.verb} needs {since}, and the configuration is of {header.cni_version}",
        )
    return _VERBS[invocation.verb](invocation, conf, netns, engine)


def _add(invocation: Invocation, conf: JsonObject, netns: Netns, engine: OpenEngine) -> Outcome:
    parsed = config.parse(conf)
    request, notes = _request(invocation, parsed, netns)
    # Written before anything is changed: what cannot be answered must not be attached.
    printed = json.dumps(result.convert(parsed.previous or {}, parsed.cni_version))
    with engine() as opened:
        opened.add(request)
    return Outcome(printed, notes)


def _check(invocation: Invocation, conf: JsonObject, netns: Netns, engine: OpenEngine) -> Outcome:
    request, notes = _request(invocation, config.parse(conf), netns)
    with engine() as opened:
        opened.check(request)
    return Outcome(notes=notes)


def _delete(invocation: Invocation, conf: JsonObject, _netns: Netns, engine: OpenEngine) -> Outcome:
    key = AttachmentKey(config.parse_header(conf).name, invocation.container, invocation.ifname)
    with engine() as opened:
        opened.delete(key)
    return Outcome()


def _collect(_invocation: Invocation, conf: JsonObject, _netns: Netns, engine: OpenEngine) -> Outcome:
    valid = config.parse_valid_attachments(conf)
    if valid is None:
        # cnitool sends none where it means all: to take that for "nothing is valid" would cut off running containers.
        return Outcome(notes=(f"GC did nothing: {config.VALID_ATTACHMENTS} is missing",))
    with engine() as opened:
        opened.collect(config.parse_header(conf).name, valid)
    return Outcome()


def _status(_invocation: Invocation, _conf: JsonObject, _netns: Netns, engine: OpenEngine) -> Outcome:
    try:
        with engine() as opened:
            opened.status()
    except (NotReadyError, BusyError):
        raise
    except DataplaneError as error:
        # An engine that cannot even be opened would fail an ADD, too.
        raise NotReadyError(str(error)) from error
    return Outcome()


_SINCE = {Verb.CHECK: "0.4.0", Verb.GC: "1.1.0", Verb.STATUS: "1.1.0"}
_VERBS: dict[Verb, Callable[[Invocation, JsonObject, Netns, OpenEngine], Outcome]] = {
    Verb.ADD: _add,
    Verb.CHECK: _check,
    Verb.DEL: _delete,
    Verb.GC: _collect,
    Verb.STATUS: _status,
}


def _request(invocation: Invocation, conf: config.NetConf, netns: Netns) -> tuple[Request, tuple[str, ...]]:
    """What is asked of the engine, and notes on what was written and asks for nothing."""
    previous = result.parse(conf.previous, invocation.ifname)
    if conf.mappings and not previous.addresses:
        raise ConfigError("prevResult.ips", f"holds no address of {invocation.ifname!r} that a port could lead to")
    notes = (*conf.notes, *unserved(conf.ports, previous.addresses))
    if netns.descriptor is None:
        cause = netns.error or "no descriptor came with the call"
        details = f"CNI_NETNS: could not open {invocation.netns[:256]!r}: {cause}"
        raise CniError(Code.INVALID_NETNS, "invalid network namespace", details)
    request = Request(
        key=AttachmentKey(conf.name, invocation.container, invocation.ifname),
        addresses=previous.addresses,
        host_interfaces=previous.host_interfaces,
        mappings=conf.mappings,
        options=conf.options,
        netns=invocation.netns,
        netns_inode=sandbox.network_namespace(netns.descriptor, invocation.netns),
    )
    return request, notes
