"""Running another plugin's executable, as SPEC 1.1, "Plugin Delegation", has it; and IPAM by such a plugin.

    path = find("dhcp", invocation.path)
    stdout = execute(path, conf, {**environment, "CNI_COMMAND": "ADD"})

The delegate reads the configuration that we got, in the environment that we got with the verb put in. The type may not
be a path (CVE-2021-20206), and only the directories of CNI_PATH are looked through. What the delegate says no to is
said on with its code and its words, under its name.

Be aware: CHECK is not delegated where the configuration's version is before 0.4.0, nor are GC and STATUS before 1.1.0:
a delegate of such a time does not know them. DEL always is.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from control.ipam.ranges import Lease
from dataplane.types import Route
from plugin.config import parse_header
from plugin.environment import SINCE, Invocation, Verb
from plugin.errors import CniError, Code, ConfigError
from plugin.executables import failure_in, is_path, located
from plugin.ipam.result import IpamResult, address, parse_interface, routes
from plugin.jsontext import JsonObject, Section, parse_object, shown

if TYPE_CHECKING:
    import subprocess

Say = Callable[[str], object]
"""Takes what a delegate wrote to its standard error."""

TIMEOUT = 100.0
"""Seconds that a delegate may take: less than runtimes give us, so that ours is the answer they get."""

_BUSY_RETRIES = 5
_BUSY_PAUSE = 0.2
_SAID = 2048


class Delegated:
    """``plugin.ipam.choice.Ipam`` by a plugin's executable. Raises ``CniError`` where there is none."""

    def __init__(
        self, name: str, invocation: Invocation, conf: JsonObject, environment: Mapping[str, str], say: Say
    ) -> None:
        self._name, self._conf, self._environment, self._say = name, conf, environment, say
        self._header = parse_header(conf)
        self._executable = find(name, invocation.path)

    def add(self) -> IpamResult:
        """ADD. Where it fails, or its result cannot be read or holds no address, a DEL gives back what it did."""
        try:
            return parse_result(self._run(Verb.ADD), self._name)
        except CniError as error:
            try:
                self.delete()
            except CniError as second:
                details = f"{error.details}; the DEL after it failed, too: {second}"
                raise CniError(error.code, error.msg, details) from error
            raise

    def delete(self) -> None:
        """DEL."""
        self._run(Verb.DEL)

    def check(self) -> None:
        """CHECK, where the version knows it."""
        self._run(Verb.CHECK)

    def collect(self, valid: frozenset[tuple[str, str]]) -> None:  # noqa: ARG002 - the configuration holds them, too
        """GC, where the version knows it."""
        self._run(Verb.GC)

    def status(self) -> None:
        """STATUS, where the version knows it."""
        self._run(Verb.STATUS)

    def _run(self, verb: Verb) -> str:
        if (since := SINCE.get(verb)) and not self._header.at_least(since):
            return ""
        try:
            return execute(self._executable, self._conf, {**self._environment, "CNI_COMMAND": verb}, self._say)
        except CniError as error:
            msg = f'IPAM plugin "{self._name}" failed to {verb}: {error.msg}'
            raise CniError(error.code, msg, error.details) from error


def find(name: str, directories: Sequence[Path | str]) -> Path:
    """The executable of a plugin type, the first one counts. Raises ``CniError``, also for a name that is a path."""
    if is_path(name):
        raise CniError(Code.INVALID_CONFIG, "invalid plugin type", f"{shown(name)} is not the name of a plugin")
    if path := located(name, directories):
        return path
    where = ", ".join(map(str, directories)) or "CNI_PATH, which is empty"
    raise CniError(
        Code.IO, f'could not find plugin "{name}"', f"no executable {shown(name)} in {where}; install it there"
    )


def execute(
    executable: Path, conf: JsonObject, environment: Mapping[str, str], say: Say, timeout: float = TIMEOUT
) -> str:
    """Run a plugin to its end; its standard output. Raises ``CniError``: the plugin's own, or what went wrong instead.

    What it wrote to standard error goes to ``say``, whole and at its end. After ``timeout`` seconds it is killed, with
    all that it started.
    """
    from subprocess import TimeoutExpired  # noqa: PLC0415 - few calls delegate, and it costs milliseconds

    process = _start(executable, environment)
    try:
        stdout, stderr = process.communicate(json.dumps(conf).encode(), timeout)
    except BaseException as error:
        # All of them: who holds its pipes may have outlived it.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if not isinstance(error, TimeoutExpired):
            raise
        raise CniError(
            Code.TRY_AGAIN, "the plugin did not end", f"killed {executable} after {timeout:g} s without an answer"
        ) from None
    finally:
        _end(process)
    if stderr:
        say(stderr.decode(errors="replace"))
    if process.returncode:
        _fail(process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))
    return stdout.decode(errors="replace")


def parse_result(text: str, plugin: str) -> IpamResult:
    """The result of an ADD in whichever version it was written. Raises ``CniError`` that names the plugin.

    Before 0.3.0 a result holds ``ip4`` and ``ip6``, each with its own routes; since then ``ips`` and ``routes``.
    """
    try:
        section = Section(parse_object(text.encode()))
        result = _old_result(section) if section.raw("ips") is None else _result(section)
    except ConfigError as error:
        _refuse(plugin, f"it cannot be read: {error.details}")
    except CniError as error:
        _refuse(plugin, f"it is no JSON object: {error.details}")
    if not result.addresses:
        _refuse(plugin, "it holds no address: neither ips, nor ip4 or ip6")
    return result


def _result(section: Section) -> IpamResult:
    leases = tuple(_lease(Section(item, path), "address") for path, item in section.items("ips"))
    return IpamResult(leases, routes(section), _dns(section))


def _old_result(section: Section) -> IpamResult:
    leases: list[Lease] = []
    found: list[Route] = []
    for family in ("ip4", "ip6"):
        if section.raw(family) is not None:
            part = section.section(family)
            leases.append(_lease(part, "ip"))
            found += routes(part)
    return IpamResult(tuple(leases), tuple(found), _dns(section))


def _lease(section: Section, name: str) -> Lease:
    text = section.text(name)
    interface = parse_interface(text) if "/" in text else None
    if interface is None:
        raise ConfigError(section.at(name), f"{shown(text)} is not an address with its prefix length")
    return Lease(interface, address(section, "gateway"))


def _dns(section: Section) -> JsonObject:
    section.section("dns")  # an object, or missing
    dns = section.raw("dns")
    return dns if isinstance(dns, dict) else {}


def _refuse(plugin: str, reason: str) -> NoReturn:
    raise CniError(Code.DECODE, f'the result of IPAM plugin "{plugin}" cannot be used', reason) from None


def _start(executable: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    import subprocess  # noqa: PLC0415 - as above

    # What a call carries is CNI's; a plugin that is a script needs to find its interpreter, too.
    variables = {"PATH": os.environ.get("PATH", os.defpath), **environment}
    attempt = 0
    while True:
        try:
            return subprocess.Popen(
                [executable],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=variables,
                process_group=0,
            )
        except OSError as error:
            attempt += 1
            if error.errno != errno.ETXTBSY or attempt > _BUSY_RETRIES:
                raise CniError(Code.IO, "could not start the plugin", f"{executable}: {error.strerror}") from None
            time.sleep(_BUSY_PAUSE)  # it is being installed


def _end(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _fail(status: int, stdout: str, stderr: str) -> NoReturn:
    if failure := failure_in(stdout):
        raise CniError(*failure)
    how = f"signal {-status}" if status < 0 else f"status {status}"
    raise CniError(Code.FAILED, f"it ended with {how} and no CNI error", (stdout + stderr).strip()[-_SAID:])
