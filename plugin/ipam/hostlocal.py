"""host-local in this process: its configuration as types, the IPAM that serves it, and the drop-in's verbs.

    ipam.ranges          [[{subnet, rangeStart, rangeEnd, gateway}, ...], ...]: one address of each inner list
    ipam.subnet, ...     the older form: one range, a set of its own before those of ``ranges``
    runtimeConfig        ipRanges: sets before all others. ips: addresses asked for
    args.cni.ips         addresses asked for; CNI_ARGS IP=... one more
    ipam.rangeFromFile   where no other range is given: a file with the JSON of one
    ipam.routes          passed on;  ipam.resolvConf: a file whose content becomes the result's ``dns``
    ipam.dataDir         where leases are, see control/ipam/leases.py

Unknown keys are ignored. An address asked for by several ways counts once.

Be aware: what differs from host-local. A repeated ADD gets the addresses that the attachment holds instead of an error,
CNI_ARGS may hold what others read, paths must be absolute (an agent does not run where the runtime does), and two
addresses asked for of one set are refused before anything is leased.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from control.ipam.leases import DATA_DIR, LeaseStore, Owner
from control.ipam.ranges import Range, RangeSet, assign, refuse_overlaps
from control.model import InvalidValueError
from dataplane.types import Address, Route
from plugin.call import Outcome, collected
from plugin.config import Header, parse_header
from plugin.environment import Invocation, Verb, arguments
from plugin.errors import CniError, ConfigError
from plugin.ipam.result import IpamResult, address, lease_object, network, parse_interface, route_object, routes
from plugin.jsontext import JsonObject, Section, kind_of, parse_object, shown
from plugin.result import convert
from plugin.versions import CURRENT_VERSION

_SEVERAL_OF_A_FAMILY = "0.3.0"
_MAX_FILE = 1 << 16


@dataclass(frozen=True, slots=True)
class Settings:
    """host-local's part of a configuration."""

    sets: tuple[RangeSet, ...]
    requested: Mapping[int, Address]
    """Addresses asked for, by the index of their set."""
    routes: tuple[Route, ...]
    resolv_conf: Path | None


class HostLocal:
    """``plugin.ipam.choice.Ipam`` on host-local's leases. Nothing is executed."""

    def __init__(self, invocation: Invocation, conf: JsonObject) -> None:
        releasing = invocation.verb in {Verb.DEL, Verb.GC}
        self._owner = Owner(invocation.container, invocation.ifname)
        self._invocation, self._conf = invocation, conf
        self._directory = _data_dir(conf, lenient=releasing)
        self._store = LeaseStore(parse_header(conf).name, self._directory)
        self._settings = None if releasing else parse(conf, invocation.args)

    def add(self) -> IpamResult:
        """Lease. The file of ``resolvConf`` is read before."""
        settings = self._parsed()
        dns = {} if settings.resolv_conf is None else _read_dns(settings.resolv_conf)
        leased = self._store.lease(self._owner, settings.sets, settings.requested)
        return IpamResult(leased.leases, settings.routes, dns, leased.fresh, str(self._directory))

    def delete(self) -> None:
        """Release."""
        self._store.release(self._owner)

    def check(self) -> None:
        """Compare the leases with the addresses of prevResult that lie in the ranges; there must be one at least."""
        sets = self._parsed().sets
        addresses = _previous_addresses(self._conf, self._invocation.ifname)
        self._store.check(self._owner, [one for one in addresses if any(pool.range_of(one) for pool in sets)])

    def collect(self, valid: frozenset[tuple[str, str]]) -> None:
        """Release all leases of the network but those of ``valid``."""
        self._store.collect(valid)

    def status(self) -> None:
        """Look for a free address in every set."""
        self._store.status(self._parsed().sets)

    def _parsed(self) -> Settings:
        return self._settings or parse(self._conf, self._invocation.args)


def run(invocation: Invocation, conf: JsonObject) -> Outcome:
    """Serve a call as the executable ``host-local`` does, of a version that knows the verb.

    Raises ``CniError``, ``DataplaneError``, ``OSError`` or an ``ExceptionGroup``.
    """
    ipam = HostLocal(invocation, conf)
    match invocation.verb:
        case Verb.ADD:
            return Outcome(_printed(ipam.add(), parse_header(conf).cni_version))
        case Verb.DEL:
            ipam.delete()
        case Verb.CHECK:
            ipam.check()
        case Verb.STATUS:
            ipam.status()
        case Verb.GC:
            return collected(conf, ipam.collect)
    return Outcome()


def parse(conf: JsonObject, cni_args: str = "") -> Settings:
    """Read everything that ADD needs. Raises ``CniError`` that names the first field that cannot be served."""
    header, section = parse_header(conf), Section(conf)
    if section.raw("ipam") is None:
        raise ConfigError("ipam", "is missing")
    ipam = section.section("ipam", fold=True)
    runtime = section.section("runtimeConfig", fold=True)
    sets = tuple(_range_sets(ipam, runtime))
    try:
        refuse_overlaps(sets)
    except InvalidValueError as error:
        raise ConfigError(ipam.at(error.field), error.reason) from None
    _refuse_what_no_result_can_say(header, sets)
    return Settings(
        sets=sets,
        requested=_requested(section, runtime, cni_args, sets),
        routes=routes(ipam),
        resolv_conf=_path(ipam, "resolvConf"),
    )


def parse_resolv_conf(text: str) -> JsonObject:
    """resolv.conf(5) as the ``dns`` of a result; what it does not know is left out."""
    lists: dict[str, list[str]] = {"nameservers": [], "search": [], "options": []}
    domain = ""
    for line in text.split("\n"):
        match line.split():
            case ["nameserver", server, *_]:
                lists["nameservers"].append(server)
            case ["domain", domain, *_]:
                pass
            case ["search" | "options" as name, *words]:
                lists[name].extend(words)
    dns: JsonObject = {name: [*words] for name, words in lists.items() if words}
    return {**dns, "domain": domain} if domain else dns


def _data_dir(conf: JsonObject, *, lenient: bool) -> Path:
    """Where leases are. ``lenient``: what no ADD could have used is not used for a DEL either."""
    try:
        return _path(Section(conf).section("ipam", fold=True), "dataDir") or DATA_DIR
    except ConfigError:
        if lenient:
            return DATA_DIR
        raise


def _path(section: Section, name: str) -> Path | None:
    text = section.text(name)
    if not text:
        return None
    if not text.startswith("/") or "\0" in text:
        raise ConfigError(section.at(name), f"{shown(text)} is not an absolute path")
    return Path(text)


def _range_sets(ipam: Section, runtime: Section) -> Iterator[RangeSet]:
    first = list(_listed_sets(runtime, "ipRanges"))
    if ipam.text("subnet"):
        first.append(_range_set(ipam.at("subnet"), [_range(ipam)]))
    found = [*first, *_listed_sets(ipam, "ranges")]
    if not found and (path := _path(ipam, "rangeFromFile")):
        found = [_range_set(ipam.at("rangeFromFile"), [_range_of_file(path, ipam.at("rangeFromFile"))])]
    if not found:
        raise ConfigError(ipam.at("ranges"), 'is missing: give a range to lease from, [[{"subnet": "10.11.0.0/24"}]]')
    return iter(found)


def _listed_sets(section: Section, name: str) -> Iterator[RangeSet]:
    for path, item in section.items(name):
        if not isinstance(item, list):
            raise ConfigError(path, f"{shown(item)} is {kind_of(item)}, not a list of ranges")
        inner = [Section(one, f"{path}[{index}]", fold=True) for index, one in enumerate(item)]
        yield _range_set(path, [_range(one) for one in inner])


def _range_set(path: str, ranges: list[Range]) -> RangeSet:
    try:
        return RangeSet(tuple(ranges))
    except InvalidValueError as error:
        raise ConfigError(f"{path}{error.field}", error.reason) from None


def _range(section: Section) -> Range:
    subnet = network(section, "subnet", strict=True)
    start, end, gateway = (address(section, name) for name in ("rangeStart", "rangeEnd", "gateway"))
    try:
        return Range.of(subnet, start, end, gateway)
    except InvalidValueError as error:
        raise ConfigError(section.at(error.field), error.reason) from None


def _range_of_file(path: Path, field: str) -> Range:
    try:
        return _range(Section(parse_object(_read(path)), str(path), fold=True))
    except OSError as error:
        raise ConfigError(field, f"could not read {path}: {error.strerror}") from None
    except CniError as error:
        raise ConfigError(field, f"{path} holds no range: {error.details}") from None


def _refuse_what_no_result_can_say(header: Header, sets: tuple[RangeSet, ...]) -> None:
    versions = [pool.version for pool in sets]
    if len(set(versions)) < len(versions) and not header.at_least(_SEVERAL_OF_A_FAMILY):
        reason = f"several sets of one address family need cniVersion {_SEVERAL_OF_A_FAMILY}"
        raise ConfigError("ipam.ranges", f"{reason}, and the configuration is of {header.cni_version}")


def _requested(section: Section, runtime: Section, cni_args: str, sets: tuple[RangeSet, ...]) -> Mapping[int, Address]:
    cni = section.section("args").section("cni")
    by_argument = arguments(cni_args).get("IP", "")
    found = {
        "CNI_ARGS IP": [by_argument] if by_argument else [],
        cni.at("ips"): cni.texts("ips"),
        runtime.at("ips"): runtime.texts("ips"),
    }
    wanted = [_asked_for(field, text) for field, texts in found.items() for text in texts]
    try:
        return assign(sets, wanted)
    except InvalidValueError as error:
        raise ConfigError(", ".join(field for field, texts in found.items() if texts), error.reason) from None


def _asked_for(field: str, text: str) -> Address:
    parsed = parse_interface(text)
    if parsed is None:
        raise ConfigError(field, f"{shown(text)} is not an IP address, with or without prefix length")
    return parsed.ip


def _read(path: Path) -> bytes:
    """The content of a plain file, and no more than one of its kind has. Raises ``OSError``: also for what never ends,
    or would keep its reader waiting."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no plain file")
        content = file.read(_MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise OSError(errno.EFBIG, f"it is longer than {_MAX_FILE} bytes")
    return content


def _read_dns(path: Path) -> JsonObject:
    try:
        return parse_resolv_conf(_read(path).decode(errors="replace"))
    except OSError as error:
        raise ConfigError("ipam.resolvConf", f"could not read {path}: {error.strerror}") from None


def _previous_addresses(conf: JsonObject, ifname: str) -> Iterator[Address]:
    """The addresses of an interface by prevResult."""
    previous = Section(conf).section("prevResult")
    names = [Section(item, path).text("name") for path, item in previous.items("interfaces")]
    for path, item in previous.items("ips"):
        entry = Section(item, path)
        owner = entry.integer("interface")
        parsed = parse_interface(entry.text("address"))
        if parsed is None:
            raise ConfigError(entry.at("address"), f"{shown(entry.raw('address'))} is not an address")
        if owner is None or not 0 <= owner < len(names) or names[owner] == ifname:
            yield parsed.ip


def _printed(result: IpamResult, version: str) -> str:
    written: JsonObject = {
        "cniVersion": CURRENT_VERSION,
        "ips": [lease_object(one) for one in result.addresses],
    }
    if result.routes:
        written["routes"] = [route_object(route) for route in result.routes]
    return json.dumps(convert({**written, "dns": result.dns}, version))
