"""The main plugin, ``bridge`` and ``dataplane-bridge``: interface, addresses, and what the engine does about both.

    ADD      connect, IPAM ADD, configure, engine.add        the other way round where one of them fails
    DEL      engine.delete, disconnect, IPAM DEL             each whatever the others say
    CHECK    engine.check, differences, IPAM CHECK           what each found, together
    GC       engine.collect, wiring.collect, IPAM GC
    STATUS   engine.status, IPAM STATUS

Two calls about one attachment wait for each other: a runtime's second try may begin before the first has ended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_interface, ip_network
from pathlib import Path

from control.errors import DifferenceError
from control.lock import locked_attachment
from control.model import AttachmentKey
from control.wiring.comparing import differences
from control.wiring.making import configure, connect
from control.wiring.removing import collect, disconnect
from control.wiring.wire import Expected, Plug, Wire
from dataplane.errors import DataplaneError
from dataplane.netns import scoped
from dataplane.types import Network, Route
from plugin import chained, config, mainconf, result, sandbox
from plugin.call import Call, Engine, Outcome, every
from plugin.environment import Verb
from plugin.errors import CniError, ConfigError, WholeEnvironmentNeededError
from plugin.ipam.choice import Ipam, ipam_of, is_delegated
from plugin.ipam.result import IpamResult, lease_object, parse_interface, route_object, routes
from plugin.jsontext import Json, JsonObject, Section
from plugin.mainconf import MainConf
from plugin.versions import CURRENT_VERSION

_DEFAULT_ROUTES: dict[int, Network] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
_CONTAINER = 2
"""Index of the container's interface in a result: bridge, host veth, container."""

Undo = Callable[[], None]


def run(call: Call) -> Outcome:
    """Carry out a verb. Raises ``CniError``, ``DataplaneError`` or an ``ExceptionGroup``."""
    if not call.whole and is_delegated(call.conf):
        raise WholeEnvironmentNeededError
    return _VERBS[call.invocation.verb](call)


def _add(call: Call) -> Outcome:
    main = mainconf.parse(call.plugin, call.conf, call.invocation)
    ipam = _ipam(call)
    if main.wire.options.is_default_gateway and ipam is None and call.plugin != "bridge":
        # Upstream's bridge takes it, and makes an interface without addresses.
        raise ConfigError("ipam", "is missing: isDefaultGateway needs addresses to make a route from")
    netns = _container(call)
    with call.engine() as engine, _alone(engine, main.wire), _undone_on_failure() as undo:
        pair = connect(main.wire, netns)
        if pair.made:
            undo.append(lambda: disconnect(main.wire.key, None))
        leased = IpamResult(())
        if ipam is not None:
            leased = _with_gateways(ipam.add(), main.wire)
            # Of an interface that was there before, the addresses were, too; a delegate does not say.
            if leased.fresh and pair.made:
                undo.append(ipam.delete)
        plug = configure(main.wire, pair, leased.addresses, _with_next_hops(leased))
        made = _result(main, plug, leased, call.invocation.netns)
        printed = json.dumps(result.convert(made, main.net.cni_version))
        request, notes = chained.request_of(call, main.net, result.parse(made, call.invocation.ifname))
        engine.add(replace(request, lease_dir=leased.lease_dir))
    return Outcome(printed, (*plug.notes, *notes))


def _delete(call: Call) -> Outcome:
    # Of the configuration nothing is needed but the name, and what IPAM needs.
    header = config.parse_header(call.conf)
    key = call.key(header.name)
    with locked_attachment(_run_directory(), str(key)):
        # The engine first: it refuses where nobody waits for this call any more, and another one has the attachment.
        every(
            f"could not remove everything of {key}",
            lambda: _detach(call, key),
            lambda: disconnect(key, sandbox.container_namespace(call.netns.descriptor)),
            lambda: _release(call),
        )
    return Outcome()


def _check(call: Call) -> Outcome:
    main = mainconf.parse(call.plugin, call.conf, call.invocation)
    netns = _container(call)
    if main.net.previous is None:
        raise ConfigError("prevResult", "is missing: CHECK compares with what an ADD returned; was there one?")
    previous = result.parse(main.net.previous, call.invocation.ifname)
    ipam = _ipam(call)
    expected = _expected(main, call.invocation.ifname)
    request, notes = chained.request_of(call, main.net, previous)
    found: list[str] = []
    with call.engine() as engine:
        found += _differences(lambda: engine.check(request))
        found += differences(main.wire, expected, netns)
    if ipam is not None:
        found += _differences(ipam.check)
    if found:
        raise DifferenceError(tuple(found))
    return Outcome(notes=notes)


def _collect(call: Call) -> Outcome:
    def interfaces_and_leases(network: str, valid: frozenset[tuple[str, str]]) -> None:
        every(
            "could not collect every interface and lease",
            lambda: collect(network, valid),
            lambda: _collect_leases(call, valid),
        )

    return chained.collect(call, interfaces_and_leases)


def _status(call: Call) -> Outcome:
    chained.status(call)
    ipam = _ipam(call)
    if ipam is not None:
        ipam.status()
    return Outcome()


@contextmanager
def _alone(engine: Engine, wire: Wire) -> Iterator[None]:
    with locked_attachment(_run_directory(), str(wire.key)):
        engine.heed()
        yield


@contextmanager
def _undone_on_failure() -> Iterator[list[Undo]]:
    """What is to be undone where the rest fails, the last first."""
    undos: list[Undo] = []
    try:
        yield undos
    except Exception as error:
        for undo in reversed(undos):
            try:
                undo()
            except (CniError, DataplaneError, OSError) as left:
                error.add_note(f"while undoing: {left}")
        raise


def _with_gateways(leased: IpamResult, wire: Wire) -> IpamResult:
    """With the gateways and default routes that the configuration asks for besides what IPAM gave."""
    if not wire.options.is_gateway:
        return leased
    leases = tuple(
        replace(one, gateway=one.gateway or one.address.network.network_address + 1) for one in leased.addresses
    )
    found = list(leased.routes)
    if wire.options.is_default_gateway:
        for one in leases:
            default = _DEFAULT_ROUTES[one.address.version]
            # One that names no gateway will lead over this one.
            if not any(route.destination == default for route in found):
                found.append(Route(default, one.gateway))
    return replace(leased, addresses=leases, routes=tuple(found))


def _with_next_hops(leased: IpamResult) -> tuple[Route, ...]:
    """The routes for the container: by the gateway of their family where they name none."""
    gateways = {one.address.version: one.gateway for one in reversed(leased.addresses) if one.gateway}
    return tuple(
        replace(route, gateway=route.gateway or gateways.get(route.destination.version)) for route in leased.routes
    )


def _result(main: MainConf, plug: Plug, leased: IpamResult, netns: str) -> JsonObject:
    """In the newest version."""
    interfaces: list[Json] = [
        {"name": plug.bridge.name, "mac": plug.bridge.mac, "mtu": plug.bridge.mtu},
        {"name": plug.host.name, "mac": plug.host.mac, "mtu": plug.host.mtu},
        {"name": plug.container.name, "mac": plug.container.mac, "mtu": plug.container.mtu, "sandbox": netns},
    ]
    if plug.vlan is not None:
        interfaces.append({"name": plug.vlan.name, "mac": plug.vlan.mac, "mtu": plug.vlan.mtu})
    ips: list[Json] = [{"interface": _CONTAINER, **lease_object(one)} for one in leased.addresses]
    made: JsonObject = {"cniVersion": CURRENT_VERSION, "interfaces": interfaces}
    if ips:
        made["ips"] = ips
    if leased.routes:
        made["routes"] = [route_object(route) for route in leased.routes]
    return made | {"dns": main.dns or leased.dns}


def _expected(main: MainConf, ifname: str) -> Expected:
    """What prevResult, which was found valid, says of the interface."""
    section = Section(result.upgraded(main.net.previous or {}), "prevResult")
    interfaces = [Section(item, path) for path, item in section.items("interfaces")]
    own = [index for index, one in enumerate(interfaces) if one.text("sandbox") and one.text("name") == ifname]
    ips = [Section(item, path) for path, item in section.items("ips")]
    ips = [one for one in ips if one.integer("interface") in {None, *own}]
    held = [(parse_interface(one.text("address")), parse_interface(one.text("gateway"))) for one in ips]
    host = [one.text("name") for one in interfaces if not one.text("sandbox")]
    return Expected(
        mac=next((interfaces[index].text("mac") for index in own), ""),
        host=next((name for name in host if name.startswith("veth")), ""),
        addresses=tuple(one for one, _ in held if one is not None),
        gateways=tuple(ip_interface((gateway.ip, one.network.prefixlen)) for one, gateway in held if one and gateway),
        routes=routes(section),
    )


def _differences(check: Callable[[], None]) -> tuple[str, ...]:
    try:
        check()
    except DifferenceError as error:
        return error.differences
    return ()


def _detach(call: Call, key: AttachmentKey) -> None:
    with call.engine() as engine:
        engine.delete(key)


def _collect_leases(call: Call, valid: frozenset[tuple[str, str]]) -> None:
    ipam = _ipam(call)
    if ipam is not None:
        ipam.collect(valid)


def _release(call: Call) -> None:
    ipam = _ipam(call)
    if ipam is not None:
        ipam.delete()


def _ipam(call: Call) -> Ipam | None:
    return ipam_of(call.invocation, call.conf, call.environment, call.say)


def _container(call: Call) -> int:
    """The descriptor of the container's network namespace. Raises ``CniError`` (code 8) where there is none."""
    path = call.invocation.netns
    netns = call.netns.opened(path)
    sandbox.network_namespace(netns, path)
    return netns


def _run_directory() -> Path:
    return Path(scoped("/run/dataplane"))


_VERBS: dict[Verb, Callable[[Call], Outcome]] = {
    Verb.ADD: _add,
    Verb.DEL: _delete,
    Verb.CHECK: _check,
    Verb.GC: _collect,
    Verb.STATUS: _status,
}
