"""What a runtime does with a conflist: libcni's part of the protocol, for the tests and the demo.

    driver = Driver([Path("/opt/cni/bin"), Path("/usr/lib/cni")], cache=Path("/run/demo/cache"))
    conflist = ConfList.load("/etc/cni/net.d/10-dataplane.conflist")
    result = driver.add(conflist, "web", "/run/netns/web", "eth0", {"portMappings": [...]})
    driver.check(conflist, "web", "/run/netns/web", "eth0")
    driver.delete(conflist, "web", "/run/netns/web", "eth0")

Plugins run in order, for DEL in reverse. Each gets its own entry of the conflist, into which ``name``, ``cniVersion``,
``prevResult`` and ``runtimeConfig`` are put: of the capability arguments only those that the entry declares. The final
result of an ADD is kept in the cache, with its arguments; CHECK, DEL and GC take both from there.

Be aware: as runtimes do, a failed ADD is followed by the DEL of all plugins, whose errors are noted on the ADD's.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from plugin.config import SUPPORTED_VERSIONS, VALID_ATTACHMENTS
from plugin.environment import Verb
from plugin.errors import CniError, Code
from plugin.jsontext import Json, JsonObject

TIMEOUT = 120.0
"""Seconds that a plugin may take."""

_VERSIONS = ("0.1.0", "0.2.0", *SUPPORTED_VERSIONS)


@dataclass(frozen=True, slots=True)
class ConfList:
    """A network configuration list."""

    name: str
    cni_version: str
    plugins: tuple[JsonObject, ...]

    @classmethod
    def load(cls, path: Path | str) -> ConfList:
        """Read a ``.conflist``. Raises ``OSError``, and ``ValueError`` for what is no conflist."""
        return cls.parse(Path(path).read_text(encoding="utf-8"))

    @classmethod
    def parse(cls, text: str) -> ConfList:
        """Read the text of a conflist. Raises ``ValueError``."""
        match json.loads(text):
            case {"name": str(name), "cniVersion": str(version), "plugins": [_, *_] as plugins} if all(
                isinstance(plugin, dict) and isinstance(plugin.get("type"), str) for plugin in plugins
            ):
                return cls(name, version, tuple(plugins))
        raise ValueError('not a conflist: it needs "name", "cniVersion" and "plugins" with a "type" each')

    def at_least(self, version: str) -> bool:
        """Whether the list is of this version of CNI or a later one."""
        return _VERSIONS.index(self.cni_version) >= _VERSIONS.index(version)


@dataclass(frozen=True, slots=True)
class _Attachment:
    """What one run of the plugins is about; without a container for GC and STATUS."""

    container: str = ""
    netns: str = ""
    ifname: str = ""
    capability_args: Mapping[str, object] | None = None
    cni_args: str | Mapping[str, str] = ""


class Driver:
    """Runs the plugins of conflists. Plugins are looked for in ``path_dirs``, the first one counts."""

    def __init__(self, path_dirs: Sequence[Path | str], cache: Path) -> None:
        self._path_dirs, self._cache = [Path(one) for one in path_dirs], cache

    def add(
        self,
        conflist: ConfList,
        container_id: str,
        netns_path: str,
        ifname: str,
        capability_args: Mapping[str, object] | None = None,
        cni_args: str | Mapping[str, str] = "",
    ) -> JsonObject:
        """ADD; the final result. Raises ``CniError``, after a DEL."""
        attachment = _Attachment(container_id, netns_path, ifname, capability_args, cni_args)
        result: JsonObject | None = None
        try:
            for plugin in conflist.plugins:
                result = _result(plugin, self._run(Verb.ADD, conflist, plugin, attachment, {"prevResult": result}))
        except CniError as error:
            try:
                self._delete(conflist, attachment, result=None)
            except CniError as second:
                error.add_note(f"the DEL after it failed, too: {second}")
            raise
        self._remember(conflist, attachment, result or {})
        return result or {}

    def check(
        self,
        conflist: ConfList,
        container_id: str,
        netns_path: str,
        ifname: str,
        capability_args: Mapping[str, object] | None = None,
        cni_args: str | Mapping[str, str] = "",
    ) -> None:
        """CHECK against the cached result. Raises ``CniError``."""
        attachment = _Attachment(container_id, netns_path, ifname, capability_args, cni_args)
        result, attachment = self._recall(conflist, attachment)
        for plugin in conflist.plugins:
            self._run(Verb.CHECK, conflist, plugin, attachment, {"prevResult": result})

    def delete(
        self,
        conflist: ConfList,
        container_id: str,
        netns_path: str,
        ifname: str,
        capability_args: Mapping[str, object] | None = None,
        cni_args: str | Mapping[str, str] = "",
    ) -> None:
        """DEL, with the cached result where there is one (prevResult exists since 0.4.0). Raises ``CniError``."""
        attachment = _Attachment(container_id, netns_path, ifname, capability_args, cni_args)
        result, attachment = self._recall(conflist, attachment)
        self._delete(conflist, attachment, result if conflist.at_least("0.4.0") else None)
        self._cached(conflist, attachment).unlink(missing_ok=True)

    def gc(self, conflist: ConfList, valid: Iterable[tuple[str, str]]) -> None:
        """DEL what is cached and not valid, then GC with the valid (container ID, ifname). Raises all ``CniError``s
        in an ``ExceptionGroup``."""
        keep = set(valid)
        errors: list[CniError] = []
        for attachment in list(self._attachments(conflist)):
            if (attachment.container, attachment.ifname) not in keep:
                try:
                    self.delete(conflist, attachment.container, attachment.netns, attachment.ifname)
                except CniError as error:
                    errors.append(error)
        listed: list[Json] = [{"containerID": container, "ifname": ifname} for container, ifname in sorted(keep)]
        # Under the name that libcni used before the specification had one, too.
        extra: JsonObject = {VALID_ATTACHMENTS: listed, "cni.dev/attachments": listed}
        for plugin in conflist.plugins if conflist.at_least("1.1.0") else ():
            try:
                self._run(Verb.GC, conflist, plugin, _Attachment(), extra)
            except CniError as error:
                errors.append(error)
        if errors:
            raise ExceptionGroup(f'could not collect everything on network "{conflist.name}"', errors)

    def status(self, conflist: ConfList) -> None:
        """STATUS of every plugin. Raises the first ``CniError``."""
        for plugin in conflist.plugins:
            self._run(Verb.STATUS, conflist, plugin, _Attachment(), {})

    def find(self, name: str) -> Path:
        """The executable of a plugin. Raises ``CniError``: also for a name that is a path (CVE-2021-20206)."""
        if name in {"", ".", ".."} or "/" in name or "\0" in name:
            raise CniError(Code.INVALID_CONFIG, "invalid plugin type", f"{name[:64]!r} is not the name of a plugin")
        for directory in self._path_dirs:
            if os.access(path := directory / name, os.X_OK) and path.is_file():
                return path
        where = ", ".join(map(str, self._path_dirs))
        raise CniError(Code.IO, "could not find the plugin", f"no executable {name!r} in {where}", plugin=name)

    def _delete(self, conflist: ConfList, attachment: _Attachment, result: JsonObject | None) -> None:
        for plugin in reversed(conflist.plugins):
            self._run(Verb.DEL, conflist, plugin, attachment, {"prevResult": result})

    def _run(
        self, verb: Verb, conflist: ConfList, plugin: JsonObject, attachment: _Attachment, extra: JsonObject
    ) -> str:
        name = str(plugin["type"])
        conf: JsonObject = {
            **plugin,
            "name": conflist.name,
            "cniVersion": conflist.cni_version,
            **_runtime_config(plugin, attachment.capability_args or {}),
            **{key: value for key, value in extra.items() if value is not None},
        }
        done = subprocess.run(
            [self.find(name)],
            input=json.dumps(conf).encode(),
            env=self._environment(verb, attachment),
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
        stdout = done.stdout.decode(errors="replace")
        if done.returncode:
            raise _failure(name, done.returncode, stdout, done.stderr.decode(errors="replace"))
        return stdout

    def _environment(self, verb: Verb, attachment: _Attachment) -> dict[str, str]:
        arguments = attachment.cni_args
        if not isinstance(arguments, str):
            arguments = ";".join(f"{key}={value}" for key, value in arguments.items())
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CNI_")}
        return kept | {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": attachment.container,
            "CNI_NETNS": attachment.netns,
            "CNI_IFNAME": attachment.ifname,
            "CNI_ARGS": arguments,
            "CNI_PATH": os.pathsep.join(map(str, self._path_dirs)),
        }

    def _cached(self, conflist: ConfList, attachment: _Attachment) -> Path:
        name = f"{conflist.name}-{attachment.container}-{attachment.ifname}"
        if "/" in name:
            raise CniError(Code.INVALID_ENVIRONMENT, "invalid attachment", f"{name[:64]!r} cannot be a file name")
        return self._cache / "results" / name

    def _remember(self, conflist: ConfList, attachment: _Attachment, result: JsonObject) -> None:
        path = self._cached(conflist, attachment)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        document = {
            "network": conflist.name,
            "container": attachment.container,
            "netns": attachment.netns,
            "ifname": attachment.ifname,
            "capabilityArgs": attachment.capability_args,
            "cniArgs": attachment.cni_args,
            "result": result,
        }
        path.write_text(json.dumps(document), encoding="utf-8")

    def _recall(self, conflist: ConfList, asked: _Attachment) -> tuple[JsonObject | None, _Attachment]:
        """The cached result, and the attachment with the cached arguments where none are given."""
        with suppress(OSError, ValueError):
            document = json.loads(self._cached(conflist, asked).read_text(encoding="utf-8"))
            capability_args = document["capabilityArgs"] if asked.capability_args is None else asked.capability_args
            arguments = asked.cni_args or document["cniArgs"]
            return document["result"], _Attachment(
                asked.container, asked.netns, asked.ifname, capability_args, arguments
            )
        return None, asked

    def _attachments(self, conflist: ConfList) -> Iterator[_Attachment]:
        for path in sorted((self._cache / "results").glob("*")):
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["network"] == conflist.name:
                yield _Attachment(document["container"], document["netns"], document["ifname"])


def _runtime_config(plugin: JsonObject, arguments: Mapping[str, object]) -> dict[str, Json]:
    declared = plugin.get("capabilities")
    if not isinstance(declared, dict):
        return {}
    chosen: JsonObject = json.loads(json.dumps({name: arguments[name] for name in arguments if declared.get(name)}))
    return {"runtimeConfig": chosen} if chosen else {}


def _result(plugin: JsonObject, stdout: str) -> JsonObject:
    with suppress(ValueError):
        result = json.loads(stdout)
        if isinstance(result, dict):
            return result
    raise CniError(Code.DECODE, "the plugin printed no result", stdout[:256], plugin=str(plugin["type"]))


def _failure(plugin: str, status: int, stdout: str, stderr: str) -> CniError:
    with suppress(ValueError):
        match json.loads(stdout):
            case {"code": int(code), "msg": str(msg), **rest}:
                return CniError(code, msg, str(rest.get("details", "")), plugin)
    said = (stdout + stderr).strip()
    return CniError(Code.INTERNAL, f"the plugin ended with status {status}", said[-2048:], plugin)
