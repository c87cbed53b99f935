"""What a network configuration will do here, key by key, what is wrong with it, and what one entry would do the same.

    report = check(parse_object(file))
    report.entries, report.problems, report.remarks, report.single

Any conflist or single configuration is looked at as text alone: no kernel, no executable and no state is asked. A
*problem* is what cannot work, or not as it was meant; a *remark* is what is good to know.

Be aware: whether our executables are installed under the names of others is not looked at; ``dpctl install`` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from dataplane.errors import DataplaneError
from plugin import dropins, mainconf
from plugin.check.chainrules import Finding, chain_problems, join
from plugin.check.keys import COMMON, HOST_LOCAL, OWN_TYPES, TYPES, Effect, Key
from plugin.check.singleentry import Single, declares, single_entry
from plugin.config import NetConf, parse_header
from plugin.environment import SINCE, Invocation, Verb
from plugin.errors import CniError, ConfigError
from plugin.ipam import hostlocal
from plugin.jsontext import Json, JsonObject, Section
from plugin.versions import SUPPORTED_VERSIONS

LIST_KEYS = {"name", "cniVersion", "cniVersions", "plugins", "disableCheck", "disableGC", "loadOnlyInlinedPlugins"}
"""Keys of a conflist beside those that its runtime puts there for itself."""

_SOME_CONTAINER = Invocation(Verb.ADD, "container", "eth0")
_ALIKE = 0.75
"""From which likeness on an unknown key is taken for a misspelt one (``difflib``'s ratio)."""


class NoConflistError(DataplaneError):
    """A file that is no network configuration; the text says what is missing."""


class Standing(StrEnum):
    """Who serves an entry."""

    OURS = "ours"
    DROP_IN = "drop-in"  # ours, where our executable is installed under this name
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class KeyReport:
    """One key of an entry. ``effect`` is None where nobody is known to read it."""

    path: str
    effect: Effect | None
    text: str


@dataclass(frozen=True, slots=True)
class EntryReport:
    """One plugin entry."""

    path: str
    type: str
    standing: Standing
    keys: tuple[KeyReport, ...]
    notes: tuple[str, ...] = ()
    """What an ADD would note on standard error."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything there is to say about a configuration."""

    name: str
    cni_version: str
    entries: tuple[EntryReport, ...]
    problems: tuple[Finding, ...]
    remarks: tuple[Finding, ...]
    single: Single


def check(document: JsonObject) -> Report:
    """Look at a conflist, or at a single configuration. Raises ``NoConflistError``."""
    plugins, prefix = _plugins(document)
    paths = [f"plugins[{index}]" for index in range(len(plugins))] if prefix else [""]
    name, version = _text(document, "name"), _version(document)
    problems: list[Finding] = list(_header_problems({**document, "cniVersion": version} if version else document))
    # A name or version that is refused is told once; the entries are read as if it were right.
    common: JsonObject = {"name": "name", "cniVersion": "1.0.0"} if problems else {"name": name, "cniVersion": version}
    entries = []
    for path, entry in zip(paths, plugins, strict=True):
        report, found = _entry(path, entry, common)
        entries.append(report)
        problems += found
    problems += chain_problems(paths, plugins)
    refused = [join(entry.path, key.path) for entry in entries for key in entry.keys if key.effect is Effect.REFUSED]
    return Report(
        name=name,
        cni_version=version,
        entries=tuple(entries),
        problems=tuple(problems),
        remarks=tuple(_remarks(document, version)),
        single=Single(None, (f"refused as it is written: {', '.join(refused)}",))
        if refused
        else single_entry(str(common["name"]), str(common["cniVersion"]), plugins),
    )


def _plugins(document: JsonObject) -> tuple[list[JsonObject], bool]:
    """The plugin entries, and whether they are those of a list."""
    listed = document.get("plugins")
    entries: Json = listed if listed is not None else [document]
    if not isinstance(entries, list) or not entries:
        raise NoConflistError('not a network configuration: "plugins" is not a list of at least one entry')
    found: list[JsonObject] = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("type"), str) or not entry["type"]:
            where = f'plugins[{index}] has no "type"' if listed is not None else 'neither "plugins" nor "type" is there'
            raise NoConflistError(f"not a network configuration: {where}")
        found.append(entry)
    return found, listed is not None


def _text(document: JsonObject, name: str) -> str:
    value = document.get(name)
    return value if isinstance(value, str) else ""


def _version(document: JsonObject) -> str:
    """The latest that is known of ``cniVersions`` (CNI 1.1) and ``cniVersion``; the latter where none is."""
    listed = document.get("cniVersions")
    offered = [*(listed if isinstance(listed, list) else ()), document.get("cniVersion")]
    known = [one for one in offered if isinstance(one, str) and one in SUPPORTED_VERSIONS]
    return max(known, key=SUPPORTED_VERSIONS.index) if known else _text(document, "cniVersion")


def _header_problems(document: JsonObject) -> Iterator[Finding]:
    try:
        parse_header(document)
    except ConfigError as error:
        yield Finding(error.field, error.reason)
    except CniError as error:
        yield Finding("", error.details)


def _entry(path: str, entry: JsonObject, common: JsonObject) -> tuple[EntryReport, list[Finding]]:
    kind = str(entry["type"])
    if kind not in TYPES:
        return EntryReport(path, kind, Standing.FOREIGN, ()), []
    standing = Standing.OURS if kind in OWN_TYPES else Standing.DROP_IN
    problems: list[Finding] = []
    refused: dict[str, str] = {}
    conf = _read(kind, {**entry, **common})
    if isinstance(conf, ConfigError):
        problems.append(Finding(join(path, conf.field), conf.reason))
        refused[_key_at(conf.field)] = conf.reason
    keys: tuple[KeyReport, ...] = tuple(_keys(kind, entry, refused))
    problems += _misspelt(path, kind, keys, refused)
    return EntryReport(path, kind, standing, keys, () if isinstance(conf, ConfigError) else conf.notes), problems


def _read(kind: str, conf: JsonObject) -> NetConf | ConfigError:
    """As an ADD reads it, as far as that needs no more than the text."""
    try:
        if kind == HOST_LOCAL.name:
            return NetConf("1.0.0", "name")
        if not TYPES[kind].main:
            return dropins.read(kind, conf)
        main = mainconf.parse(kind, conf, _SOME_CONTAINER)
        if _leases(conf):
            hostlocal.parse(conf)
    except ConfigError as error:
        return error
    return main.net


def _leases(conf: JsonObject) -> bool:
    """Whether all that host-local needs is in the text: neither in a file nor with the runtime."""
    ipam = Section(conf).section("ipam", fold=True)
    here = ipam.raw("rangeFromFile") is None and not declares(conf, "ipRanges")
    return ipam.text("type") == HOST_LOCAL.name and here


def _keys(kind: str, entry: JsonObject, refused: dict[str, str]) -> Iterator[KeyReport]:
    table = TYPES[kind]
    for name, value in entry.items():
        key = table.key(name)
        if name.lower() in refused:
            yield KeyReport(name, Effect.REFUSED, refused[name.lower()])
        elif name == "runtimeConfig" or (key is None and name.startswith("cni.dev/")):
            yield KeyReport(name, None, "is the runtime's to put there, not a file's")
        elif key is None:
            yield KeyReport(name, None, f"ignored: {kind} has no such key")
        else:
            yield KeyReport(name, key.effect, key.text)
        if name.lower() == "ipam" and isinstance(value, dict) and table.main:
            yield from _ipam(name, value, refused)


def _ipam(path: str, ipam: JsonObject, refused: dict[str, str]) -> Iterator[KeyReport]:
    kind = ipam.get("type")
    if kind != HOST_LOCAL.name:
        text = f"delegated to the executable {kind}" if kind else "no addresses: a network of layer 2"
        yield KeyReport(f"{path}.type", Effect.SAME, text)
        return
    for name in ipam:
        key, at = _key_of(HOST_LOCAL.keys, name), f"{path}.{name}"
        if at.lower() in refused:
            yield KeyReport(at, Effect.REFUSED, refused[at.lower()])
        elif key is None:
            yield KeyReport(at, None, "ignored: host-local has no such key")
        else:
            yield KeyReport(at, key.effect, key.text)


def _key_at(field: str) -> str:
    """The key that a field of an error lies in, as it is listed: ``ipam.ranges[0][0].subnet`` in ``ipam.ranges``."""
    first, *rest = [part.partition("[")[0].lower() for part in field.split(".")]
    return ".".join([first, *rest[:1]]) if first == "ipam" else first


def _key_of(keys: Iterable[Key], name: str) -> Key | None:
    return next((one for one in keys if one.name.lower() == name.lower()), None)


def _misspelt(path: str, kind: str, keys: Iterable[KeyReport], refused: dict[str, str]) -> Iterator[Finding]:
    for one in keys:
        if one.effect is not None or one.path.lower() in refused:
            continue
        inside, _, name = one.path.rpartition(".")
        known = [key.name for key in (HOST_LOCAL.keys if inside else (*TYPES[kind].keys, *COMMON))]
        alike = get_close_matches(name, [one for one in known if "." not in one], n=1, cutoff=_ALIKE)
        if alike and alike[0] != name:
            yield Finding(join(path, one.path), f"is ignored; did you mean {alike[0]!r}?")


def _remarks(document: JsonObject, version: str) -> Iterator[Finding]:
    lacking = [verb for verb, since in SINCE.items() if _parts(version) < _parts(since)]
    if lacking:
        yield Finding("cniVersion", f"runtimes call no {' or '.join(lacking)} at {version or SUPPORTED_VERSIONS[0]}")
    if "plugins" in document:
        for name in document:
            if name not in LIST_KEYS and (alike := get_close_matches(name, LIST_KEYS, n=1, cutoff=_ALIKE)):
                yield Finding(name, f"is no key of a conflist; did you mean {alike[0]!r}?")


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split(".")[:2])
