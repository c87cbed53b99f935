"""What a runtime does with a conflist: libcni's part of the protocol, for ``dpctl cni``, the tests and the demo.

    driver = Driver([Path("/opt/cni/bin"), Path("/usr/lib/cni")], cache=Path("/var/lib/cni"))
    conflist = ConfList.load("/etc/cni/net.d/10-dataplane.conflist")
    result = driver.add(conflist, "web", "/run/netns/web", "eth0", {"portMappings": [...]})
    driver.check(conflist, "web", "/run/netns/web", "eth0")
    driver.delete(conflist, "web", "/run/netns/web", "eth0")

Plugins run in order, for DEL in reverse. Each gets its own entry of the conflist, into which ``name``, ``cniVersion``,
``prevResult`` and ``runtimeConfig`` are put: of the capability arguments only those that the entry declares. The final
result of an ADD is kept in the cache, with its arguments; CHECK, DEL and GC take both from there.

    verb      since    not asked for where the list says
    CHECK     0.4.0    disableCheck
    GC        1.1.0    disableGC; before 1.1.0 it is only the DEL of what is cached and not valid
    STATUS    1.1.0

Be aware: as with libcni, a failed ADD is followed by the DEL of the plugins, the last first, which ends with the first
that fails; that is noted on the ADD's error.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from control.model import InvalidValueError, identifier, interface_name
from plugin.config import VALID_ATTACHMENTS
from plugin.environment import Verb, arguments
from plugin.errors import CniError, Code
from plugin.executables import failure_in, is_path, located
from plugin.jsontext import Json, JsonObject
from plugin.result import convert
from plugin.runtime.conflist import ConfList
from plugin.runtime.resultcache import Attachment, Kept, ResultCache

__all__ = ["ConfList", "Driver"]

TIMEOUT = 120.0
"""Seconds that a plugin may take."""
BUSY_TRIES, BUSY_PAUSE = 6, 1.0
"""How often an executable that is just being written is tried, and the seconds between."""


class Driver:
    """Runs the plugins of conflists. Plugins are looked for in ``path_dirs``, the first one counts.

    ``stderr`` gets what plugins that succeed write on theirs.
    """

    def __init__(self, path_dirs: Sequence[Path | str], cache: Path, stderr: TextIO | None = None) -> None:
        self._path_dirs, self._cache, self._stderr = [Path(one) for one in path_dirs], ResultCache(cache), stderr

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
        attachment = Attachment(
            conflist.name,
            _checked(container_id, identifier, "container ID"),
            netns_path,
            _checked(ifname, interface_name, "interface"),
            _pairs(cni_args),
            capability_args or {},
        )
        result: JsonObject = {}
        try:
            for index, plugin in enumerate(conflist.plugins):
                extra: JsonObject = {"prevResult": result} if index else {}
                result = _result(conflist, plugin, self._run(Verb.ADD, conflist, plugin, attachment, extra))
            self._cache.keep(Kept(attachment, result, conflist.text))
        except CniError as error:
            try:
                self._delete(conflist, attachment, result=None)
            except CniError as second:
                error.add_note(f"the DEL after it failed, too: {second}")
            raise
        return result

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
        if not conflist.at_least("0.4.0"):
            details = f"cniVersion: CHECK needs 0.4.0, and the list is of {conflist.cni_version}"
            raise CniError(Code.INCOMPATIBLE_VERSION, "config version does not allow CHECK", details)
        if conflist.disable_check:
            return
        asked = Attachment(conflist.name, container_id, netns_path, ifname)
        result, attachment = self._recall(conflist, asked, capability_args, cni_args)
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
        asked = Attachment(conflist.name, container_id, netns_path, ifname)
        try:
            result, attachment = self._recall(conflist, asked, capability_args, cni_args)
        except CniError:
            # A DEL must do without a result, and one that cannot be read must not keep an attachment alive.
            result, attachment = None, _with_arguments(asked, capability_args, cni_args)
        self._delete(conflist, attachment, result if conflist.at_least("0.4.0") else None)

    def gc(self, conflist: ConfList, valid: Iterable[tuple[str, str]]) -> None:
        """DEL what is cached and not valid, then GC with the valid (container ID, ifname). Raises all ``CniError``s
        in an ``ExceptionGroup``."""
        if conflist.disable_gc:
            return
        keep = set(valid)
        errors: list[CniError] = []
        for attachment in list(self._cache.of_network(conflist.name)):
            if (attachment.container, attachment.ifname) not in keep:
                try:
                    self.delete(conflist, attachment.container, attachment.netns, attachment.ifname)
                except CniError as error:
                    error.add_note(f"in the DEL of {attachment.ifname} of {attachment.container}")
                    errors.append(error)
        listed: list[Json] = [{"containerID": container, "ifname": ifname} for container, ifname in sorted(keep)]
        # Under the name that libcni used before the specification had one, too.
        extra: JsonObject = {VALID_ATTACHMENTS: listed, "cni.dev/attachments": listed}
        for plugin in conflist.plugins if conflist.at_least("1.1.0") else ():
            try:
                self._run(Verb.GC, conflist, plugin, Attachment(), extra)
            except CniError as error:
                errors.append(error)
        if errors:
            raise ExceptionGroup(f'could not collect everything on network "{conflist.name}"', errors)

    def status(self, conflist: ConfList) -> None:
        """STATUS of every plugin. Raises the first ``CniError``."""
        for plugin in conflist.plugins if conflist.at_least("1.1.0") else ():
            self._run(Verb.STATUS, conflist, plugin, Attachment(), {})

    def attached(self, conflist: ConfList, container_id: str, ifname: str) -> bool:
        """Whether the cache holds this attachment, so that an ADD would be the second."""
        return self._cache.find(conflist.name, container_id, ifname) is not None

    def find(self, name: str) -> Path:
        """The executable of a plugin. Raises ``CniError``: also for a name that is a path (CVE-2021-20206)."""
        if is_path(name):
            raise CniError(Code.INVALID_CONFIG, "invalid plugin type", f"{name[:64]!r} is not the name of a plugin")
        if path := located(name, self._path_dirs):
            return path
        where = ", ".join(map(str, self._path_dirs))
        raise CniError(Code.IO, "could not find the plugin", f"no executable {name!r} in {where}", plugin=name)

    def _recall(
        self,
        conflist: ConfList,
        asked: Attachment,
        capability_args: Mapping[str, object] | None,
        cni_args: str | Mapping[str, str],
    ) -> tuple[JsonObject | None, Attachment]:
        """The cached result in the list's version; the attachment, with the cached arguments where none are given."""
        kept = self._cache.find(asked.network, asked.container, asked.ifname)
        if kept is None:
            return None, _with_arguments(asked, capability_args, cni_args)
        result = kept.result
        if result.get("cniVersion") != conflist.cni_version:  # the list was changed since
            result = convert(result, conflist.cni_version)
        former = replace(kept.attachment, netns=asked.netns)
        return result, _with_arguments(former, capability_args, cni_args)

    def _delete(self, conflist: ConfList, attachment: Attachment, result: JsonObject | None) -> None:
        extra: JsonObject = {} if result is None else {"prevResult": result}
        for plugin in reversed(conflist.plugins):
            self._run(Verb.DEL, conflist, plugin, attachment, extra)
        self._cache.forget(attachment.network, attachment.container, attachment.ifname)

    def _run(
        self, verb: Verb, conflist: ConfList, plugin: JsonObject, attachment: Attachment, extra: JsonObject
    ) -> str:
        name = str(plugin["type"])
        conf: JsonObject = {
            **plugin,
            "name": conflist.name,
            "cniVersion": conflist.cni_version,
            **_runtime_config(plugin, attachment.capability_args),
            **{key: value for key, value in extra.items() if value is not None},
        }
        done = _start(self.find(name), json.dumps(conf).encode(), self._environment(verb, attachment))
        stdout, stderr = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        if done.returncode:
            raise _failure(name, done.returncode, stdout, stderr)
        if self._stderr is not None:
            self._stderr.write(stderr)
        return stdout

    def _environment(self, verb: Verb, attachment: Attachment) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CNI_")}
        return kept | {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": attachment.container,
            "CNI_NETNS": attachment.netns,
            "CNI_IFNAME": attachment.ifname,
            "CNI_ARGS": ";".join(f"{name}={value}" for name, value in attachment.cni_args),
            "CNI_PATH": os.pathsep.join(map(str, self._path_dirs)),
        }


def _checked(value: str, check: Callable[[str, str], str], field: str) -> str:
    try:
        return check(value, field)
    except InvalidValueError as error:
        raise CniError(Code.INVALID_ENVIRONMENT, "invalid attachment", str(error)) from None


def _pairs(cni_args: str | Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((arguments(cni_args) if isinstance(cni_args, str) else cni_args).items())


def _with_arguments(
    attachment: Attachment, capability_args: Mapping[str, object] | None, cni_args: str | Mapping[str, str]
) -> Attachment:
    if capability_args is not None:
        attachment = replace(attachment, capability_args=capability_args)
    return replace(attachment, cni_args=_pairs(cni_args)) if cni_args else attachment


def _start(path: Path, stdin: bytes, environment: Mapping[str, str]) -> subprocess.CompletedProcess[bytes]:
    for tries_left in reversed(range(BUSY_TRIES)):
        try:
            return subprocess.run(
                [path], input=stdin, env=environment, capture_output=True, timeout=TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            details = f"{path} did not end within {TIMEOUT:g} seconds"
            raise CniError(Code.IO, "the plugin was stopped", details, plugin=path.name) from None
        except OSError as error:
            if error.errno != errno.ETXTBSY or not tries_left:
                details = f"{path}: {error.strerror}"
                raise CniError(Code.IO, "could not start the plugin", details, plugin=path.name) from error
        time.sleep(BUSY_PAUSE)
    raise AssertionError("the last try returns or raises")


def _runtime_config(plugin: JsonObject, given: Mapping[str, object]) -> dict[str, Json]:
    declared = plugin.get("capabilities")
    if not isinstance(declared, dict):
        return {}
    chosen: JsonObject = json.loads(json.dumps({name: given[name] for name in given if declared.get(name)}))
    return {"runtimeConfig": chosen} if chosen else {}


def _result(conflist: ConfList, plugin: JsonObject, stdout: str) -> JsonObject:
    with suppress(ValueError):
        result = json.loads(stdout)
        if isinstance(result, dict):
            # Before CNI 0.3.0 plugins need not say of which version their result is.
            return result if result.get("cniVersion") else {**result, "cniVersion": conflist.cni_version}
    raise CniError(Code.DECODE, "the plugin printed no result", stdout[:256], plugin=str(plugin["type"]))


def _failure(plugin: str, status: int, stdout: str, stderr: str) -> CniError:
    if failure := failure_in(stdout):
        return CniError(*failure, plugin)
    said = (stdout + stderr).strip()
    return CniError(Code.INTERNAL, f"the plugin ended with status {status}", said[-2048:], plugin)
