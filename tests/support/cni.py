"""CNI calls for tests: an engine that writes down what it is asked, a network namespace, and a valid call to vary.

engine = RecordingEngine()
answer = call(engine, conf=configuration(snat="yes"), netns=netns)
assert error_of(answer)["code"] == 7 and engine.calls == []
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from control.model import AttachmentKey, Request
from control.protocol.wire import Answer, CniCall
from plugin.errors import Code
from plugin.skel import dispatch

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
VERBS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")


class RecordingEngine:
    """An engine for whatever speaks CNI to it: every call is kept, and ends with ``failure`` if there is one."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.calls: list[tuple[str, object]] = []
        self._failure = failure

    def add(self, request: Request) -> None:
        self._record("add", request)

    def delete(self, key: AttachmentKey) -> None:
        self._record("delete", key)

    def check(self, request: Request) -> None:
        self._record("check", request)

    def collect(self, network: str, valid: frozenset[tuple[str, str]]) -> None:
        self._record("collect", (network, valid))

    def status(self, network: str) -> None:
        self._record("status", network)

    def heed(self) -> None:
        pass

    @contextmanager
    def open(self) -> Iterator[RecordingEngine]:
        """As ``control.engine.open_engine`` does it."""
        yield self

    def request(self) -> Request:
        """The request of the only call."""
        ((_, request),) = self.calls
        assert isinstance(request, Request)
        return request

    def _record(self, verb: str, what: object) -> None:
        self.calls.append((verb, what))
        if self._failure is not None:
            raise self._failure


@contextmanager
def open_netns() -> Iterator[int]:
    """A descriptor of some network namespace that is not ours; without root, one in a user namespace."""
    flags = "-n" if os.geteuid() == 0 else "-rn"
    command = ["unshare", flags, "sh", "-c", "echo ready; read end"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        descriptor = os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def previous_result(**changed: Any) -> dict[str, Any]:
    """What bridge hands on, with everything that CNI 1.1 knows, and a key that nobody knows."""
    result: dict[str, Any] = {
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "br-front", "mac": "02:00:00:00:00:01", "mtu": 1500},
            {"name": "veth0a1b2c3d", "mac": "02:00:00:00:00:02"},
            {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": "/run/netns/web", "pciID": "0000:00:1f.6"},
        ],
        "ips": [
            {"address": "10.11.0.10/24", "gateway": "10.11.0.1", "interface": 2},
            {"address": "fd00:11::10/64", "gateway": "fd00:11::1", "interface": 2},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.11.0.1", "mtu": 1400, "table": 254}],
        "dns": {"nameservers": ["10.11.0.1"]},
        "x-vendor": {"kept": True},
    }
    return _changed(result, changed)


def configuration(version: str = "1.0.0", **changed: Any) -> dict[str, Any]:
    """A valid configuration of every key's default; ``key=None`` takes a key away."""
    conf: dict[str, Any] = {
        "cniVersion": version,
        "name": "front",
        "type": "dataplane",
        "capabilities": {"portMappings": True},
        "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
        "prevResult": previous_result(),
    }
    return _changed(conf, changed)


def environment(verb: str = "ADD", **changed: str | None) -> dict[str, str]:
    """The environment of a verb; ``NAME=None`` takes a variable away."""
    variables: dict[str, str | None] = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": "web",
        "CNI_NETNS": "/run/netns/web",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
    }
    return {name: value for name, value in (variables | changed).items() if value is not None}


def call(
    engine: RecordingEngine,
    *,
    verb: str = "ADD",
    conf: object = None,
    netns: int | None = None,
    env: Mapping[str, str] | None = None,
    plugin: str = "dataplane",
) -> Answer:
    """Dispatch a call; ``conf`` is JSON as text, or what is to become JSON."""
    stdin = conf if isinstance(conf, str) else json.dumps(configuration() if conf is None else conf)
    return dispatch(CniCall(environment(verb) if env is None else env, stdin, plugin=plugin), netns, engine.open)


def error_of(answer: Answer) -> dict[str, Any]:
    """The CNI error in an answer, after the proof that it is one and nothing else."""
    assert answer.exit_code == 1
    assert "Traceback" not in answer.stdout + answer.stderr
    error = json.loads(answer.stdout)
    assert isinstance(error, dict)
    assert error.keys() <= {"cniVersion", "code", "msg", "details"}
    assert error["cniVersion"] in VERSIONS
    assert Code(error["code"]) is not Code.INTERNAL, error
    assert isinstance(error["msg"], str)
    assert error["msg"]
    return error


def _changed(values: dict[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**values, **changed}.items() if value is not None}
