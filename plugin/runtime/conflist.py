"""Network configuration lists: a file, or the one of a name in a directory, as a value; read as libcni reads them.

    conflist = ConfList.load("/etc/cni/net.d/10-front.conflist")
    conflist = find("front", Path("/etc/cni/net.d"))

    *.conflist         a list; since CNI 1.1 the plugins in DIRECTORY/<name>/*.conf follow those in its text, unless it
                       says loadOnlyInlinedPlugins
    *.conf, *.json     one plugin, which is read as a list of one

Of ``cniVersions`` (1.1) and ``cniVersion`` the latest that we know counts.

Be aware: where libcni gives up at the first file that it cannot read, ``find`` goes on, and names that file only if the
network was not found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from control.model import InvalidValueError, identifier
from dataplane.errors import DataplaneError
from plugin.errors import ConfigError
from plugin.jsontext import Json, JsonObject, Section
from plugin.versions import SUPPORTED_VERSIONS

LIST, SINGLE = (".conflist",), (".conf", ".json")
"""How files of lists and of single plugins end."""


class ConfListError(DataplaneError, ValueError):
    """A text that is no configuration list, or a network that there is none of."""


@dataclass(frozen=True, slots=True)
class ConfList:
    """A network configuration list."""

    name: str
    cni_version: str
    plugins: tuple[JsonObject, ...]
    disable_check: bool = False
    disable_gc: bool = False
    text: str = ""
    """As it was written."""

    @classmethod
    def load(cls, path: Path | str) -> ConfList:
        """Read a file, and the plugins beside it. Raises ``OSError``, and ``ConfListError`` for what is no list."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            document = _object(text)
            if path.suffix not in LIST and "plugins" not in document:
                text = json.dumps(_list_of_one(document))
                document = _object(text)
            return _parse(document, text, path.parent)
        except (ConfListError, UnicodeDecodeError) as error:
            raise ConfListError(f"could not read {path}: {error}") from None

    @classmethod
    def parse(cls, text: str) -> ConfList:
        """Read the text of a list, which holds all of its plugins. Raises ``ConfListError``."""
        return _parse(_object(text), text, beside=None)

    def at_least(self, version: str) -> bool:
        """Whether the list is of this version of CNI or a later one."""
        return SUPPORTED_VERSIONS.index(self.cni_version) >= SUPPORTED_VERSIONS.index(version)


def find(name: str, directory: Path) -> ConfList:
    """The network of this name: of lists the first by file name, else of single plugins. Raises ``ConfListError``."""
    found: list[str] = []
    broken: list[str] = []
    for path in (*_files(directory, LIST), *_files(directory, SINGLE)):
        try:
            conflist = ConfList.load(path)
        except ConfListError as error:
            broken.append(str(error))
        except OSError as error:
            broken.append(f"could not read {path}: {error.strerror}")
        else:
            if conflist.name == name:
                return conflist
            found.append(conflist.name)
    holds = f"it holds {', '.join(dict.fromkeys(found))}" if found else "it holds none"
    raise ConfListError("; ".join([f'no network "{name}" in {directory}: {holds}', *broken]))


def _parse(document: JsonObject, text: str, beside: Path | None) -> ConfList:
    section = Section(document)
    try:
        name = identifier(section.text("name"), "name")
        return ConfList(
            name,
            _version(section),
            _plugins(section, None if beside is None else beside / name),
            disable_check=_flag(section, "disableCheck"),
            disable_gc=_flag(section, "disableGC"),
            text=text,
        )
    except (ConfigError, InvalidValueError) as error:
        raise ConfListError(f"{error.field}: {error.reason}") from None


def _plugins(section: Section, directory: Path | None) -> tuple[JsonObject, ...]:
    alone = directory is None or _flag(section, "loadOnlyInlinedPlugins")
    inlined = [_plugin(item, path) for path, item in section.items("plugins")]
    if not inlined and (alone or section.raw("plugins") is not None):
        raise ConfigError("plugins", "holds no plugin")
    apart = [] if alone or directory is None else _files(directory, SINGLE[:1])
    found = (*inlined, *(_plugin(_object(path.read_text(encoding="utf-8")), str(path)) for path in apart))
    if not found:
        raise ConfigError("plugins", f"is missing, and {directory} holds none either")
    return found


def _version(section: Section) -> str:
    written = section.text("cniVersion")
    known = [one for one in (*section.texts("cniVersions"), written) if one in SUPPORTED_VERSIONS]
    if known:
        return max(known, key=SUPPORTED_VERSIONS.index)
    if written:
        raise ConfigError("cniVersion", f"{written[:64]!r} is not one of {', '.join(SUPPORTED_VERSIONS)}")
    return SUPPORTED_VERSIONS[0]


def _flag(section: Section, name: str) -> bool:
    # libcni takes these from strings, too.
    match section.raw(name):
        case str(text) if text.lower() in {"true", "false"}:
            return text.lower() == "true"
    return section.boolean(name, default=False)


def _plugin(item: Json, path: str) -> JsonObject:
    section = Section(item, path)
    if not section.text("type"):
        raise ConfigError(section.at("type"), "is missing")
    return {name: section.raw(name) for name in section.names()}


def _list_of_one(plugin: JsonObject) -> JsonObject:
    carried: JsonObject = {name: plugin[name] for name in ("cniVersion", "name") if name in plugin}
    return {**carried, "plugins": [plugin], "loadOnlyInlinedPlugins": True}


def _object(text: str) -> JsonObject:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ConfListError(f"it is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ConfListError("it is not a JSON object")
    return document


def _files(directory: Path, suffixes: Sequence[str]) -> list[Path]:
    return sorted(path for path in directory.glob("*") if path.suffix in suffixes and not path.is_dir())
