"""The plugins that are chained behind a main plugin: dataplane, portmap, firewall, isolation and greenpau's two.

ADD     conf, prevResult, netns   ->  engine.add(request)       prevResult in the configuration's version
CHECK   conf, prevResult, netns   ->  engine.check(request)
DEL     name                      ->  engine.delete(key)        whatever else the configuration says or lacks
GC      name, valid attachments   ->  engine.collect(...)
STATUS  name                      ->  engine.status(name)

The main plugin asks the engine in the same words: ``request_of``, ``collect`` and ``status`` are its, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from control.errors import BusyError, NotReadyError
from control.model import Request
from dataplane.errors import DataplaneError
from plugin import config, dropins, result, sandbox
from plugin.call import Call, Outcome, collected, every
from plugin.environment import Verb
from plugin.errors import ConfigError
from plugin.ports import unserved


def run(call: Call) -> Outcome:
    """Carry out a verb. Raises ``CniError``, ``DataplaneError`` or an ``ExceptionGroup``."""
    return _VERBS[call.invocation.verb](call)


def collect(call: Call, others: Callable[[str, frozenset[tuple[str, str]]], None] | None = None) -> Outcome:
    """GC, with what ``others`` collects besides. Raises everything that went wrong after having tried all."""
    network = config.parse_header(call.conf).name

    def collect_all(valid: frozenset[tuple[str, str]]) -> None:
        every(
            "could not collect everything",
            lambda: _collect_attachments(call, network, valid),
            lambda: others(network, valid) if others else None,
        )

    return collected(call.conf, collect_all)


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
        mac=previous.mac,
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
    # greenpau's masquerades besides.
    return call.plugin in _ONLY_PORTS and not request.mappings and not request.options.ip_masq


def _collect_attachments(call: Call, network: str, valid: frozenset[tuple[str, str]]) -> None:
    with call.engine() as opened:
        opened.collect(network, valid)


_ONLY_PORTS = frozenset({"portmap", "cni-nftables-portmap"})
_VERBS: dict[Verb, Callable[[Call], Outcome]] = {
    Verb.ADD: _add,
    Verb.CHECK: _check,
    Verb.DEL: _delete,
    Verb.GC: collect,
    Verb.STATUS: status,
}
