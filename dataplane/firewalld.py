"""The door to firewalld: which addresses its zones hold as sources, asked and changed by D-Bus.

firewalld decides of a forwarded packet by the zone that its source is in, and its chain comes after ours: an accept of
ours cannot overrule it. What it holds by these calls is its runtime configuration, which a reload forgets.

Be aware: a firewalld that does not run is never started by these calls. The bus is that of DBUS_SYSTEM_BUS_ADDRESS, or
else the system's; D-Bus knows no network namespaces, so firewalld may be at work in another one than this process.

Source: firewalld.dbus(5), org.fedoraproject.FirewallD1.zone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataplane.errors import FirewalldError, MissingDependencyError
from dataplane.types import Address

if TYPE_CHECKING:
    from jeepney import Message
    from jeepney.io.blocking import DBusConnection

TIME_LIMIT = 10.0
"""Seconds for one call. A firewalld that is being reloaded answers late; a change takes it some ten milliseconds."""

_BUS_ADDRESS = "DBUS_SYSTEM_BUS_ADDRESS"
_BUS_SOCKET = Path("/run/dbus/system_bus_socket")
_NAME = "org.fedoraproject.FirewallD1"
_PATH = "/org/fedoraproject/FirewallD1"
_EXCEPTION = "org.fedoraproject.FirewallD1.Exception"
_NOBODY = frozenset({"org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner"})
# firewall.errors: an error of firewalld's begins with one of its codes.
_NO_ZONE = "INVALID_ZONE"
_HINTS = {
    _NO_ZONE: "firewall-cmd --get-zones lists the zones",
    "ZONE_CONFLICT": "firewall-cmd --get-zone-of-source tells the zone that holds it",
}


class SystemFirewalld:
    """``dataplane.doors.Firewalld`` on the system bus."""

    def running(self) -> bool:
        """Whether one runs. Cheap where there is no system bus. Raises ``FirewalldError`` where that is no clear no."""
        if not os.environ.get(_BUS_ADDRESS) and not _BUS_SOCKET.exists():
            return False
        try:
            with _connected("ask", "the system bus for firewalld") as bus:
                return bool(bus.ask("org.freedesktop.DBus", "/org/freedesktop/DBus", "NameHasOwner", _NAME))
        except _NoBusError:
            return False

    def add_source(self, zone: str, address: Address) -> bool:
        """Put an address into a zone until firewalld is reloaded; whether it was not there before. Raises
        ``FirewalldError``, also where none runs."""
        with _connected("put", f'{address} into firewalld zone "{zone}"') as bus:
            # Asked first: firewalld would log a warning of a source that is there, and a repair adds all once more.
            if bus.zone("querySource", zone, str(address)):
                return False
            bus.zone("addSource", zone, str(address))
        return True

    def remove_source(self, zone: str, address: Address) -> bool:
        """Take an address out of a zone; whether it was there. No such zone, and no firewalld, is fine. Raises
        ``FirewalldError``."""
        try:
            with _connected("take", f'{address} out of firewalld zone "{zone}"') as bus:
                if not bus.zone("querySource", zone, str(address)):
                    return False
                bus.zone("removeSource", zone, str(address))
        except _RefusedError as error:
            if error.code == _NO_ZONE:
                return False
            raise
        except (_NoBusError, _NotRunningError):
            return False
        return True

    def sources(self, zone: str) -> frozenset[Address]:
        """The single addresses in a zone. Raises ``FirewalldError``, also where none runs."""
        with _connected("list", f'the sources of firewalld zone "{zone}"') as bus:
            return frozenset(_addresses(bus.zone("getSources", zone)))


class _NoBusError(FirewalldError):
    """Nobody serves the system bus."""


class _NotRunningError(FirewalldError):
    """The bus knows no firewalld."""


class _RefusedError(FirewalldError):
    """firewalld's own answer. ``code`` is the word that it begins with."""

    @property
    def code(self) -> str:
        return self.cause.partition(":")[0]


class _Bus:
    """A connection for one purpose, which errors name."""

    def __init__(self, connection: DBusConnection, verb: str, thing: str) -> None:
        self._connection, self._verb, self._thing = connection, verb, thing

    def zone(self, method: str, *arguments: str) -> Any:
        """Call a method of firewalld's zones; what it returned."""
        return self.ask(_NAME, _PATH, method, *arguments, interface=f"{_NAME}.zone")

    def ask(self, name: str, path: str, method: str, *arguments: str, interface: str = "") -> Any:
        """Call a method whose arguments are strings; the first thing that it returned."""
        from jeepney import DBusAddress, MessageFlag, MessageType, new_method_call  # noqa: PLC0415

        target = DBusAddress(path, bus_name=name, interface=interface or name)
        call = new_method_call(target, method, "s" * len(arguments), arguments)
        call.header.flags |= MessageFlag.no_auto_start
        answer = self._connection.send_and_get_reply(call)
        if answer.header.message_type is not MessageType.error:
            return answer.body[0]
        raise self._refusal(_error_name(answer), str(answer.body[0]) if answer.body else "")

    def _refusal(self, name: str, text: str) -> FirewalldError:
        if name in _NOBODY:
            return _NotRunningError(self._verb, self._thing, "firewalld does not run")
        if name == _EXCEPTION:
            return _RefusedError(self._verb, self._thing, text, _HINTS.get(text.partition(":")[0], ""))
        return FirewalldError(self._verb, self._thing, f"{name}: {text}")


@contextmanager
def _connected(verb: str, thing: str) -> Iterator[_Bus]:
    try:
        with _open() as connection:
            yield _Bus(connection, verb, thing)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise _NoBusError(verb, thing, f"no system bus: {error.strerror}") from error
    except TimeoutError as error:
        raise FirewalldError(verb, thing, f"no answer by D-Bus within {TIME_LIMIT:g} seconds") from error
    except (OSError, ValueError, RuntimeError) as error:
        # Not authenticated, and an address that is none, are ValueErrors; a transport other than unix: a RuntimeError.
        raise FirewalldError(verb, thing, f"the system bus: {error}", f"see {_BUS_ADDRESS}") from error


def _open() -> DBusConnection:
    try:
        # Imported here: it costs 20 ms, and most hosts have no firewalld.
        from jeepney.bus import get_bus  # noqa: PLC0415
        from jeepney.io.blocking import DBusConnection, prep_socket  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(f"no D-Bus library for {sys.executable}: install jeepney 0.8 or later") from error

    class Limited(DBusConnection):  # type: ignore[misc]  # brings no types
        """One whose greeting has a time limit as well."""

        def send_and_get_reply(self, message: Message, *, timeout: float | None = None) -> Message:
            return super().send_and_get_reply(message, timeout=timeout or TIME_LIMIT)

    return Limited(prep_socket(get_bus("SYSTEM"), timeout=TIME_LIMIT))


def _error_name(answer: Message) -> str:
    from jeepney import HeaderFields  # noqa: PLC0415

    return str(answer.header.fields.get(HeaderFields.error_name, ""))


def _addresses(sources: list[str]) -> Iterator[Address]:
    # Networks, MAC addresses and ipsets are sources, too.
    for source in sources:
        try:
            yield ip_address(source)
        except ValueError:
            continue
