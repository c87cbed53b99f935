"""Host-wide settings: /etc/dataplane/dataplane.toml, or the file that DATAPLANE_CONFIG names. No file: the defaults.

mark_bit = 27        # of packets of published ports; choose one that nothing else on this host uses
attach = "auto"      # how programs are hooked: "tcx", "clsact", or tcx where the kernel takes it
agent = "optional"   # whether plugins may do the agent's work while none runs; "required": only DEL and GC
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from control.errors import EngineError
from control.ruleset import DEFAULT_MARK
from dataplane.types import AttachMode

DEFAULT_PATH = Path("/etc/dataplane/dataplane.toml")
_MARK_BITS = 32


class SettingsError(EngineError):
    """The settings file cannot be used; the text names the key."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for all networks of this host."""

    mark: int = DEFAULT_MARK
    """Mask with one bit set."""
    attach: AttachMode = AttachMode.AUTO
    agent_required: bool = False
    """Without an agent nothing is attached: an ADD is refused, and STATUS says so."""


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
    unknown = sorted(set(raw) - {"mark_bit", "attach", "agent"})
    if unknown:
        raise SettingsError(f"{path}: unknown key {unknown[0]!r}; known are mark_bit, attach and agent")
    bit = raw.get("mark_bit", DEFAULT_MARK.bit_length() - 1)
    if isinstance(bit, bool) or not isinstance(bit, int) or not 0 <= bit < _MARK_BITS:
        raise SettingsError(f"{path}: mark_bit must be a number from 0 to 31")
    attach = raw.get("attach", AttachMode.AUTO)
    if not isinstance(attach, str) or attach not in {mode.value for mode in AttachMode}:
        raise SettingsError(f'{path}: attach must be "auto", "tcx" or "clsact"')
    agent = raw.get("agent", "optional")
    if agent not in {"optional", "required"}:
        raise SettingsError(f'{path}: agent must be "optional" or "required"')
    return Settings(1 << bit, AttachMode(attach), agent == "required")
