"""The cache of attachments in libcni's own format: what an ADD was given, and what it answered, for the verbs after it.

    cache = ResultCache(Path("/var/lib/cni"))
    cache.keep(Kept(attachment, result, conflist.text))
    cache.find("front", "web", "eth0")

    DIRECTORY/results/<network>-<container>-<ifname>     {"kind": "cniCacheV1", ...}, for root alone

What one tool that uses libcni attached (cnitool, CRI-O, nerdctl), another can check and delete.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from plugin.errors import CniError, Code, ConfigError
from plugin.jsontext import Json, JsonObject, Section

_KIND = "cniCacheV1"


@dataclass(frozen=True, slots=True)
class Attachment:
    """What one run of the plugins is about; without a container for GC and STATUS."""

    network: str = ""
    container: str = ""
    netns: str = ""
    ifname: str = ""
    cni_args: tuple[tuple[str, str], ...] = ()
    capability_args: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kept:
    """An attachment, its result, and the text of the list that made it."""

    attachment: Attachment
    result: JsonObject
    conflist: str = ""


class ResultCache:
    """See the module."""

    def __init__(self, directory: Path) -> None:
        self._results = directory / "results"

    def keep(self, kept: Kept) -> None:
        """Write one, or write it again. Raises ``CniError``."""
        one = kept.attachment
        path = self._path(one.network, one.container, one.ifname)
        optional: dict[str, object] = {
            "netns": one.netns,
            "cniArgs": [list(pair) for pair in one.cni_args],
            "capabilityArgs": dict(one.capability_args),
            "result": kept.result,
        }
        document = {
            "kind": _KIND,
            "containerId": one.container,
            "config": base64.b64encode(kept.conflist.encode()).decode(),
            "ifName": one.ifname,
            "networkName": one.network,
            **{name: value for name, value in optional.items() if value},
        }
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            unfinished.touch(mode=0o600)
            unfinished.write_text(json.dumps(document), encoding="utf-8")
            unfinished.rename(path)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink()
            raise CniError(Code.IO, "could not keep the result", f"{path}: {error.strerror}") from error

    def find(self, network: str, container: str, ifname: str) -> Kept | None:
        """One that was kept, or None. Raises ``CniError`` for one that cannot be read."""
        path = self._path(network, container, ifname)
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise CniError(Code.IO, "could not read the cached result", f"{path}: {error}") from error
        try:
            return _read(json.loads(text))
        except ConfigError as error:
            raise CniError(Code.DECODE, "could not read the cached result", f"{path}: {error.details}") from None
        except ValueError as error:
            raise CniError(Code.DECODE, "could not read the cached result", f"{path}: {error}") from None

    def forget(self, network: str, container: str, ifname: str) -> None:
        """Remove one; one that is not there is fine. Raises ``CniError``."""
        path = self._path(network, container, ifname)
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise CniError(Code.IO, "could not remove the cached result", f"{path}: {error.strerror}") from error

    def of_network(self, network: str) -> Iterator[Attachment]:
        """All attachments of a network; what cannot be read, and so names none, is passed by."""
        for path in sorted(self._results.glob("[!.]*")):
            with suppress(OSError, ValueError, ConfigError):
                kept = _read(json.loads(path.read_text(encoding="utf-8")))
                if kept.attachment.network == network:
                    yield kept.attachment

    def _path(self, network: str, container: str, ifname: str) -> Path:
        name = f"{network}-{container}-{ifname}"
        if not (network and container and ifname) or "/" in name or "\0" in name:
            raise CniError(Code.INVALID_ENVIRONMENT, "invalid attachment", f"{name[:64]!r} cannot be a file name")
        return self._results / name


def _read(document: Json) -> Kept:
    """Raises ``ConfigError``, or ``ValueError`` for a text that is not base64."""
    section = Section(document)
    if section.text("kind") != _KIND:
        raise ConfigError("kind", f"{section.text('kind')[:64]!r} is not {_KIND!r}")
    for name in ("capabilityArgs", "result"):
        section.section(name)
    attachment = Attachment(
        network=section.text("networkName"),
        container=section.text("containerId"),
        netns=section.text("netns"),
        ifname=section.text("ifName"),
        cni_args=tuple(_pair(path, item) for path, item in section.items("cniArgs")),
        capability_args=_object(section, "capabilityArgs"),
    )
    return Kept(attachment, _object(section, "result"), base64.b64decode(section.text("config")).decode())


def _object(section: Section, name: str) -> JsonObject:
    value = section.raw(name)
    return value if isinstance(value, dict) else {}


def _pair(path: str, item: Json) -> tuple[str, str]:
    match item:
        case [str(name), str(value)]:
            return name, value
    raise ConfigError(path, "is not a pair of strings")
