"""The verbs: what each reads, what it asks of the engine, and what it prints.

    run(call)   ->  plugin.mainplugin  for bridge and dataplane-bridge
                    plugin.hostlocal   for host-local
                    here               for all that are chained behind a main plugin: dataplane, portmap, firewall ...

ADD     conf, prevResult, netns   ->  engine.add(request)       prevResult in the configuration's version
CHECK   conf, prevResult, netns   ->  engine.check(request)
DEL     name                      ->  engine.delete(key)        whatever else the configuration says or lacks
GC      name, valid attachments   ->  engine.collect(...)
STATUS  name                      ->  engine.status(name)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from control.errors import AbandonedError, BusyError, NotReadyError
from control.model import AttachmentKey, Request
from dataplane.errors import DataplaneError
from plugin import config, dropins, result, sandbox
from plugin.environment import Invocation, Verb
from plugin.errors import CniError, Code, ConfigError
from plugin.jsontext import JsonObject
from plugin.ports import unserved


class Engine(Protocol):
    """What the plugin needs of ``control.engine.Engine``."""

    def heed(self) -> None:
        """Raises ``DataplaneError`` where nobody waits for the answer any more."""

    def add(self, request: Request) -> None:
        """Attach, or bring up to date. Raises ``DataplaneError``; then nothing is changed."""

    def delete(self, key: AttachmentKey) -> None:
        """Detach; an unknown key is fine."""

    def check(self, request: Request) -> None:
        """Raises ``DifferenceError`` where the kernel is not as the request wants it."""

    def collect(self, network: str, valid: frozenset[tuple[str, str]]) -> None:
        """Detach all but these (container ID, ifname). Raises an ``ExceptionGroup`` after having tried all."""

    def status(self, network: str) -> None:
        """Raises ``NotReadyError`` where an ADD would fail."""


OpenEngine = Callable[[], AbstractContextManager[Engine]]
"""Makes an engine available for the time of a ``with``; called only once everything was found valid."""


@dataclass(frozen=True, slots=True)
class Netns:
    """CNI_NETNS as the shim found it."""

    descriptor: int | None
    error: str = ""
    """Why there is no descriptor, though there is a path."""

    def opened(self, path: str) -> int:
        """The descriptor. Raises ``CniError`` (code 8) where there is none."""
        if self.descriptor is None:
            cause = self.error or "no descriptor came with the call"
            details = f"CNI_NETNS: could not open {path[:256]!r}: {cause}"
            raise CniError(Code.INVALID_NETNS, "invalid network namespace", details)
        return self.descriptor


@dataclass(frozen=True, slots=True)
class Call:
    """A call whose environment was found valid, and whose standard input is a JSON object."""

    plugin: str
    """Which plugin the executable was started as."""
    invocation: Invocation
    conf: JsonObject
    netns: Netns
    engine: OpenEngine
    environment: Mapping[str, str]
    """As far as it concerns CNI, unless it is ``whole``."""
    whole: bool = True
    say: Callable[[str], object] = sys.stderr.write
    """Takes what is to be written to standard error as it is."""

    def key(self, network: str) -> AttachmentKey:
        """The part that this plugin has in an attachment."""
        return AttachmentKey(network, self.invocation.container, self.invocation.ifname, self.plugin)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a verb that succeeded prints."""

    stdout: str = ""
    notes: tuple[str, ...] = ()
    """For standard error, a line each."""


def run(call: Call) -> Outcome:
    """Carry out a verb other than VERSION. Raises ``CniError``, ``DataplaneError`` or an ``ExceptionGroup``."""
    verb, header = call.invocation.verb, config.parse_header(call.conf)
    since = _SINCE.get(verb)
    if since and not header.at_least(since):
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"config version does not allow {verb}",
            f"cniVersion: {verb} needs {since}, and the configuration is of {header.cni_version}",
        )
    if call.plugin in _MAIN:
        from plugin.mainplugin import run as run_main  # noqa: PLC0415 - chained calls need nothing of it

        return run_main(call)
    if call.plugin == "host-local":
        from plugin.hostlocal import run as run_host_local  # noqa: PLC0415 - as above

        return run_host_local(call.invocation, call.conf, call.environment)
    return _VERBS[verb](call)


def collect(call: Call, others: Callable[[str, frozenset[tuple[str, str]]], None] | None = None) -> Outcome:
    """GC, with what ``others`` collects besides. Raises everything that went wrong after having tried all."""
    valid = config.parse_valid_attachments(call.conf)
    if valid is None:
        # cnitool sends none where it means all: to take that for "nothing is valid" would cut off running containers.
        return Outcome(notes=(f"GC did nothing: {config.VALID_ATTACHMENTS} is missing",))
    network = config.parse_header(call.conf).name
    every(
        "could not collect everything",
        lambda: _collect_attachments(call, network, valid),
        lambda: others(network, valid) if others else None,
    )
    return Outcome()


def every(what: str, *steps: Callable[[], None]) -> None:
    """Take every step, whatever the others do, as long as somebody waits for it. Raises all that went wrong in an
    ``ExceptionGroup``."""
    errors: list[Exception] = []
    for step in steps:
        try:
            step()
        except ExceptionGroup as group:
            errors += group.exceptions
        except AbandonedError:
            raise
        except (CniError, DataplaneError, OSError) as error:
            errors.append(error)
    if errors:
        raise ExceptionGroup(what, errors)


def status(call: Call) -> Outcome:
    """STATUS of the engine. Raises ``NotReadyError``."""
    try:
        with call.engine() as opened:
            opened.status(config.parse_header(call.conf).name)
    except (NotReadyError, BusyError):
        raise
    except DataplaneError as error:
        # An engine that cannot even be opened would fail an ADD, too.
        raise NotReadyError(str(error)) from error
    return Outcome()


def request_of(call: Call, parsed: config.NetConf, previous: result.PreviousResult) -> tuple[Request, tuple[str, ...]]:
    """What is asked of the engine, and notes on what was written and asks for nothing."""
    if parsed.mappings and not previous.addresses:
        name = call.invocation.ifname
        raise ConfigError("prevResult.ips", f"holds no address of {name!r} that a port could lead to")
    path = call.invocation.netns
    request = Request(
        key=call.key(parsed.name),
        addresses=previous.addresses,
        host_interfaces=previous.host_interfaces,
        mappings=parsed.mappings,
        options=parsed.options,
        netns=path,
        netns_inode=sandbox.network_namespace(call.netns.opened(path), path),
    )
    # What stands in for others skips what they skip; ours says that the port will not be there.
    skips = call.plugin in _ONLY_PORTS
    return request, (*parsed.notes, *unserved(parsed.ports, previous.addresses, skips=skips))


def _add(call: Call) -> Outcome:
    parsed, previous = _read(call)
    request, notes = request_of(call, parsed, previous)
    # Written before anything is changed: what cannot be answered must not be attached.
    printed = json.dumps(result.convert(parsed.previous or {}, parsed.cni_version))
    if _is_for_nothing(call, request):
        return Outcome(printed, notes)
    with call.engine() as opened:
        opened.add(request)
    return Outcome(printed, notes)


def _check(call: Call) -> Outcome:
    parsed, previous = _read(call)
    request, notes = request_of(call, parsed, previous)
    if not _is_for_nothing(call, request):
        with call.engine() as opened:
            opened.check(request)
    return Outcome(notes=notes)


def _delete(call: Call) -> Outcome:
    key = call.key(config.parse_header(call.conf).name)
    with call.engine() as opened:
        opened.delete(key)
    return Outcome()


def _read(call: Call) -> tuple[config.NetConf, result.PreviousResult]:
    parsed = dropins.read(call.plugin, call.conf)
    return parsed, result.parse(parsed.previous, call.invocation.ifname)


def _is_for_nothing(call: Call, request: Request) -> bool:
    # A container without published ports is none of a portmap's business; whatever its main plugin is, it may pass.
    return call.plugin in _ONLY_PORTS and not request.mappings


def _collect_attachments(call: Call, network: str, valid: frozenset[tuple[str, str]]) -> None:
    with call.engine() as opened:
        opened.collect(network, valid)


_SINCE = {Verb.CHECK: "0.4.0", Verb.GC: "1.1.0", Verb.STATUS: "1.1.0"}
_MAIN = frozenset({"bridge", "dataplane-bridge"})
_ONLY_PORTS = frozenset({"portmap", "cni-nftables-portmap"})
_VERBS: dict[Verb, Callable[[Call], Outcome]] = {
    Verb.ADD: _add,
    Verb.CHECK: _check,
    Verb.DEL: _delete,
    Verb.GC: collect,
    Verb.STATUS: status,
}
