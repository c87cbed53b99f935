"""Calls and commands that are killed at a crash point, in forked children of this process: no import is waited for.

    answer = served(host, call)                                in process; raises where it was not answered
    status = ran(host, ("reconcile",))                         dpctl, likewise
    killed = crashed(host, call, Point.VETH_MADE)              call or command; whether it died of SIGKILL
    killed = crashed_agent(host, call, Point.VETH_MADE)        the agent that serves it; or starts, without a call
    answer = served_by_agent(host, call)                       one that is started for it and stopped again

All is done where and as the plugin's executable and ``dpctl`` do it; a killed process leaves what the kernel leaves of
it, and nobody else notices.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import control.cli.bpf  # noqa: F401 - as below
import plugin.cli  # noqa: F401 - imported here once, and not in each forked child
from control.cli import agent, reconcile, root  # noqa: F401 - as above
from control.protocol.client import SOCKET_PATH, AgentClient, AgentUnreachableError
from control.protocol.wire import Answer, CniCall
from dataplane import crashpoints
from plugin.frontend import serve_embedded
from support.netns import Place

Command = tuple[str, ...]
"""What follows ``dpctl``."""

_START_WITHIN, _END_WITHIN = 20.0, 20.0  # seconds
_PAUSE = 0.005


@dataclass(frozen=True, slots=True)
class PluginCall:
    """One start of a plugin by a runtime."""

    plugin: str
    verb: str
    container: str
    stdin: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def wire(self) -> CniCall:
        """As the executable hands it on."""
        named = {
            "CNI_COMMAND": self.verb,
            "CNI_CONTAINERID": self.container,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
        }
        return CniCall({**self.environment, **named}, self.stdin, plugin=self.plugin)

    @property
    def netns(self) -> str:
        return f"/run/netns/{self.container}"


def served(host: Place, call: PluginCall) -> Answer:
    """Have a call served in a process of its own."""
    return host.call(_served, call)


def ran(host: Place, words: Command) -> int:
    """Run dpctl in a process of its own; its exit status."""
    return host.call(_status_of, _dpctl, words, "")


def crashed(host: Place, act: PluginCall | Command, point: str) -> bool:
    """Have a call served, or run dpctl, in a process with this crash point armed; whether it was killed."""
    if isinstance(act, PluginCall):
        return host.call(_status_of, _serve_embedded, (act,), point) == -signal.SIGKILL
    return host.call(_status_of, _dpctl, act, point) == -signal.SIGKILL


def crashed_agent(host: Place, call: PluginCall | None, point: str) -> bool:
    """Have a call served by an agent with this crash point armed; whether the agent was killed. Without a call it dies
    of its start."""
    return host.call(_crashed_agent, call, point)


def served_by_agent(host: Place, call: PluginCall) -> Answer:
    """Start an agent, have it serve a call, and stop it."""
    return host.call(_served_by_agent, call)


def _served(call: PluginCall) -> Answer:
    with suppress(FileNotFoundError):
        descriptor = os.open(call.netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return serve_embedded(call.wire(), descriptor)
        finally:
            os.close(descriptor)
    return serve_embedded(call.wire(), None)


def _serve_embedded(call: PluginCall) -> int:
    answer = _served(call)
    print(answer.stdout, answer.stderr, file=sys.stderr)
    return answer.exit_code


def _dpctl(*words: str) -> int:
    return root.run(words)


def _crashed_agent(call: PluginCall | None, point: str) -> bool:
    with _agent(point) as child:
        if call is not None and _is_up(child):
            with suppress(AgentUnreachableError):
                _asked(call)
            # Where it lives, nothing is to be waited for.
            os.kill(child, signal.SIGTERM)
        return _end_of(child) == -signal.SIGKILL


def _served_by_agent(call: PluginCall) -> Answer:
    with _agent("") as child:
        assert _is_up(child), "the agent does not start"
        answer = _asked(call)
        os.kill(child, signal.SIGTERM)
        assert _end_of(child) == 0, "the agent did not stop as it should"
        return answer


@contextmanager
def _agent(point: str) -> Iterator[int]:
    """The process of an agent, which does not live longer than this, whatever fails."""
    child = _forked(_dpctl, ("agent",), point)
    try:
        yield child
    except BaseException:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        raise


def _asked(call: PluginCall) -> Answer:
    descriptor = os.open(call.netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return AgentClient().call(call.wire(), descriptor)
    finally:
        os.close(descriptor)


def _status_of(work: Callable[..., int], arguments: tuple[object, ...], point: str) -> int:
    return _end_of(_forked(work, arguments, point))


def _forked(work: Callable[..., int], arguments: tuple[object, ...], point: str) -> int:
    """Start a process that ends with what ``work`` returns, with a crash point armed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            crashpoints.arm(point)
            status = work(*arguments)
        except BaseException:  # noqa: BLE001 - a second pytest must not come out of the fork
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def _is_up(child: int) -> bool:
    """Whether the agent answers; not, where it ended."""
    end = time.monotonic() + _START_WITHIN
    while time.monotonic() < end:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        if Path(SOCKET_PATH).exists():
            with suppress(AgentUnreachableError):
                AgentClient().ping()
                return True
        time.sleep(_PAUSE)
    raise AssertionError(f"no agent answers within {_START_WITHIN:g} s")


def _end_of(child: int) -> int:
    end = time.monotonic() + _END_WITHIN
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_PAUSE)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"process {child} does not end within {_END_WITHIN:g} s")
