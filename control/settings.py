"""Host-wide settings: /etc/dataplane/dataplane.toml, or the file that DATAPLANE_CONFIG names. No file: the defaults.

mark_bit = 27        # of packets of published ports; choose one that nothing else on this host uses
attach = "auto"      # how programs are hooked: "tcx", "clsact", or tcx where the kernel takes it
localhost = "auto"   # how published ports answer on 127.0.0.1 and [::1]: by programs of the cgroups' root where there
                     # is one, else by "nft", which sets route_localnet and serves IPv4 alone; "off": not at all
agent = "optional"   # whether plugins may do the agent's work while none runs; "required": only DEL and GC
metrics = "unix"     # where the agent shows them: "off", a socket beside its own, or "127.0.0.1:9477", "[::1]:9477"
ownership = "off"    # "on": the kernel lets nobody but the agent change our table
collect_after = 60   # seconds until the agent removes what a vanished container left without a DEL; 0: never
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from control.desired.ruleset import DEFAULT_MARK
from control.errors import EngineError
from dataplane.types import Address, AttachMode

DEFAULT_PATH = Path("/etc/dataplane/dataplane.toml")
_MARK_BITS = 32
_KEYS = ("mark_bit", "attach", "localhost", "agent", "metrics", "ownership", "collect_after")
_ENDPOINT = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<v4>[0-9.]+)):(?P<port>[0-9]{1,5})")


class LocalhostMode(StrEnum):
    """How processes of the host reach published ports by loopback addresses."""

    AUTO = "auto"  # programs on the root of the cgroups where the kernel takes them, else nft
    NFT = "nft"  # DNAT and route_localnet: IPv4 alone
    OFF = "off"  # not at all


class SettingsError(EngineError):
    """The settings file cannot be used; the text names the key."""


@dataclass(frozen=True, slots=True)
class Loopback:
    """A TCP port of a loopback address."""

    address: Address
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


MetricsPlace = Loopback | Literal["off", "unix"]
"""Where the agent's metrics are read."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for all networks of this host."""

    mark: int = DEFAULT_MARK
    """Mask with one bit set."""
    attach: AttachMode = AttachMode.AUTO
    localhost: LocalhostMode = LocalhostMode.AUTO
    agent_required: bool = False
    """Without an agent nothing is attached: an ADD is refused, and STATUS says so."""
    metrics: MetricsPlace = "unix"
    owned: bool = False
    """Whether the agent owns our table (``flags owner, persist``), so that the kernel refuses changes by others."""
    collect_after: int = 60
    """Seconds from when a container's namespace is seen to be gone until its attachment is removed; 0: never."""


def read_settings(path: Path | None = None) -> Settings:
    """Read the settings file. Raises ``SettingsError``."""
    chosen = path or Path(os.environ.get("DATAPLANE_CONFIG") or DEFAULT_PATH)
    try:
        raw = tomllib.loads(chosen.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"could not read the settings {chosen}: {error}") from error
    return _parse(raw, chosen)


def _parse(raw: dict[str, object], path: Path) -> Settings:
    unknown = sorted(set(raw) - set(_KEYS))
    if unknown:
        raise SettingsError(f"{path}: unknown key {unknown[0]!r}; known are {', '.join(_KEYS[:-1])} and {_KEYS[-1]}")
    bit = _number(raw, "mark_bit", DEFAULT_MARK.bit_length() - 1)
    if bit is None or bit >= _MARK_BITS:
        raise SettingsError(f"{path}: mark_bit must be a number from 0 to 31")
    attach = raw.get("attach", AttachMode.AUTO)
    if not isinstance(attach, str) or attach not in {mode.value for mode in AttachMode}:
        raise SettingsError(f'{path}: attach must be "auto", "tcx" or "clsact"')
    localhost = raw.get("localhost", LocalhostMode.AUTO)
    if not isinstance(localhost, str) or localhost not in {mode.value for mode in LocalhostMode}:
        raise SettingsError(f'{path}: localhost must be "auto", "nft" or "off"')
    agent = raw.get("agent", "optional")
    if agent not in ("optional", "required"):
        raise SettingsError(f'{path}: agent must be "optional" or "required"')
    ownership = raw.get("ownership", "off")
    if ownership not in ("off", "on"):
        raise SettingsError(f'{path}: ownership must be "off" or "on"')
    collect_after = _number(raw, "collect_after", 60)
    if collect_after is None:
        raise SettingsError(f"{path}: collect_after must be a whole number of seconds, or 0 for never")
    return Settings(
        mark=1 << bit,
        attach=AttachMode(attach),
        localhost=LocalhostMode(localhost),
        agent_required=agent == "required",
        metrics=_metrics(raw.get("metrics", "unix"), path),
        owned=ownership == "on",
        collect_after=collect_after,
    )


def _number(raw: dict[str, object], key: str, default: int) -> int | None:
    """The number of a key, from 0; None where it is something else."""
    value = raw.get(key, default)
    return None if isinstance(value, bool) or not isinstance(value, int) or value < 0 else value


def _metrics(value: object, path: Path) -> MetricsPlace:
    if value == "off":
        return "off"
    if value == "unix":
        return "unix"
    wanted = f'{path}: metrics must be "off", "unix", or a loopback address with a port, as "127.0.0.1:9477"'
    found = _ENDPOINT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise SettingsError(wanted)
    try:
        address = ipaddress.ip_address(found["v6"] or found["v4"])
    except ValueError:
        raise SettingsError(wanted) from None
    if not address.is_loopback:
        raise SettingsError(f"{wanted}: {address} is reached from elsewhere, and nobody is asked for a password")
    port = int(found["port"])
    if not 1 <= port <= 65535:
        raise SettingsError(f"{path}: metrics: {port} is not a port (1 to 65535)")
    return Loopback(address, port)
