"""What a bridge plugin leaves: links, addresses, routes and sysctls, in words that two plugins share.

    left = left_by(host, "web", "br-front")
    left["host link PORT mtu"]                                      1500
    left["container address eth0 10.11.0.2/24 scope"]               "global"
    left["container sysctl net/ipv4/conf/eth0/arp_notify"]          "1"

Names, hardware addresses and indexes that were made up are replaced by the part they play: BRIDGE, PORT and CONTAINER.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

from support.netns import Sandbox

Left = dict[str, Any]

_MADE_UP = frozenset({"ifindex", "link_index", "link_netnsid", "link", "stats", "group_addr"})
"""Fields of iproute2's output that say which link it is, not what it is like."""
_TIMES = ("_timer", "_time", "_jiffies")
_NO_MAC = "00:00:00:00:00:00"
_LINK_LOCAL = re.compile(r"fe80::[0-9a-f:]+")


def left_by(host: Sandbox, container: str, bridge: str, ifname: str = "eth0") -> Left:
    """Everything of a host and one container, a line each. The container may be gone, or have no such interface."""
    path = f"/run/netns/{container}" if host.exists(f"/run/netns/{container}") else ""
    raw = host.call(_read, path)
    text, inside = json.dumps(raw), {link["ifname"]: link for link in raw["container"]["link"]}
    for word, link in _parts(raw["host"]["link"], inside.get(ifname), bridge):
        for own, role in _words(word, link):
            text = text.replace(own, role)
    named = json.loads(_LINK_LOCAL.sub("LINK-LOCAL", text))
    return {
        line: value
        for place, about in named.items()
        for kind, entries in about.items()
        for line, value in _lines(place, kind, entries)
    }


def differences(one: Left, other: Left) -> dict[str, tuple[Any, Any]]:
    """What is not the same: what it is with each, None where it is not there."""
    return {name: (one.get(name), other.get(name)) for name in sorted(one | other) if one.get(name) != other.get(name)}


def settled(left: Left) -> Left:
    """Without what follows later: whether a bridge that lost its last port has a carrier."""
    words = {"NO-CARRIER", "LOWER_UP", "linkdown"}
    return {
        line: [word for word in value if word not in words] if isinstance(value, list) else value
        for line, value in left.items()
        if not line.endswith("operstate")
    }


def in_roles(result: dict[str, Any]) -> dict[str, Any]:
    """A result whose made-up names and hardware addresses are replaced by parts; without empty fields, which some
    versions of Go's encoder write and others do not."""
    interfaces = [one | {"mac": bool(one["mac"])} for one in result.get("interfaces", ())]
    if len(interfaces) > 1:
        interfaces[1]["name"] = "PORT"
    return {name: value for name, value in {**result, "interfaces": interfaces}.items() if value not in ({}, [], None)}


_LISTING = """
ip -json -details address && echo
ip -json -4 route show table all && echo
ip -json -6 route show table all && echo
grep -rs "" /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf /proc/sys/net/ipv4/ip_forward
"""


def _read(netns: str) -> dict[str, dict[str, Any]]:
    """In the sandbox."""
    nowhere: dict[str, Any] = {"link": [], "route": [], "sysctl": {}}
    return {"host": _read_one(()), "container": _read_one(("nsenter", f"--net={netns}")) if netns else nowhere}


def _read_one(enter: tuple[str, ...]) -> dict[str, Any]:
    listed = subprocess.run([*enter, "sh", "-c", _LISTING], capture_output=True, text=True, check=False).stdout
    lines = [line for line in listed.splitlines() if line]
    links, *routes = (json.loads(line) for line in lines if line.startswith("["))
    sysctls = [line.removeprefix("/proc/sys/") for line in lines if line.startswith("/proc/sys/")]
    return {
        "link": [link for link in links if link],
        "route": [route for listed in routes for route in listed],
        "sysctl": dict(line.split(":", 1) for line in sysctls),
    }


def _parts(
    links: list[dict[str, Any]], inner: dict[str, Any] | None, bridge: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    if inner is not None:
        yield "CONTAINER", inner
        yield from (("PORT", link) for link in links if link["ifindex"] == inner.get("link_index"))
    yield from (("BRIDGE", link) for link in links if link["ifname"] == bridge)


def _words(role: str, link: dict[str, Any]) -> Iterator[tuple[str, str]]:
    mac = link["address"]
    if mac != _NO_MAC:
        yield mac, role
        yield ":".join(octet.lstrip("0") or "0" for octet in mac.split(":")), role  # a bridge's ID
    if role == "PORT":
        yield link["ifname"], role


def _lines(place: str, kind: str, entries: Any) -> Iterator[tuple[str, Any]]:
    match kind:
        case "link":
            for link in entries:
                yield from _flat(f"{place} link {link['ifname']}", link)
                for one in link["addr_info"]:
                    yield from _flat(f"{place} address {link['ifname']} {one['local']}/{one['prefixlen']}", one)
        case "route":
            for one in entries:
                yield from _flat(f"{place} route {_route_name(one)}", one)
        case _:
            yield from ((f"{place} sysctl {name}", value) for name, value in entries.items())


def _route_name(route: Mapping[str, Any]) -> str:
    words = (route.get("type"), route["dst"], route.get("gateway"), route.get("dev"), route.get("table"))
    return " ".join(str(word) for word in words if word)


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield path, value
        return
    for name, inner in value.items():
        if name not in _MADE_UP and not name.endswith(_TIMES) and name != "addr_info":
            yield from _flat(f"{path} {name}", inner)
