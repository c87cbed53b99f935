"""Frames between the plugin and the agent: four bytes of length, big endian, then one JSON object.

    plugin -> agent   {"v": 2, "call": "cni", "environment": {"CNI_COMMAND": "ADD", ...}, "stdin": "{...}",
                       "netns_error": "", "plugin": "dataplane"}
    agent -> plugin   {"v": 2, "answer": "cni", "stdout": "{...}", "stderr": "", "exit_code": 0}

    anybody -> agent  {"v": 2, "call": "ping"}
    agent -> anybody  {"v": 2, "answer": "pong", "version": "0.1.0", "pid": 4711}

Pure: bytes in, values out. Text that is no UTF-8 (standard input is whatever a runtime wrote) crosses byte by byte.

Be aware: the plugin imports this on every call, so the values are ``NamedTuple``s: ``dataclasses`` alone costs a third
of the start of a Python process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

VERSION = 2
MAX_BODY = 2 << 20
"""Bytes of JSON in a frame: twice the plugin's standard input, for escapes."""
HEADER_LENGTH = 4

_DEBUG = "DATAPLANE_DEBUG"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_CARRIED = {"TRACEPARENT", _DEBUG}


class WireError(Exception):
    """A frame that does not follow the protocol, or that does not fit in one."""


class CniCall(NamedTuple):
    """One start of the plugin by a runtime; the descriptor of CNI_NETNS travels beside the frame."""

    environment: Mapping[str, str]
    """To an agent only what ``carried`` keeps is sent."""
    stdin: str
    """Standard input, decoded with ``surrogateescape``."""
    netns_error: str = ""
    """Why CNI_NETNS could not be opened; empty where it was, or was not given."""
    plugin: str = "dataplane"
    """The name that the executable was started by: which plugin it is to be."""

    @property
    def trace(self) -> str:
        """The trace that the call belongs to (TRACEPARENT as W3C Trace Context has it); empty where there is none."""
        found = self.environment.get("TRACEPARENT", "")
        return found if _TRACEPARENT.fullmatch(found) else ""


class Answer(NamedTuple):
    """What the plugin's process prints and how it ends."""

    stdout: str
    stderr: str = ""
    exit_code: int = 0


DECLINED = -1
"""In place of an exit status: the agent cannot serve this call, and nothing was changed; its process is to do so."""


class Ping(NamedTuple):
    """Is an agent there?"""


class Pong(NamedTuple):
    """One is."""

    version: str
    pid: int


def carried(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a call carries: CNI's, the trace context (W3C), and the switch for tracebacks."""
    return {name: value for name, value in environment.items() if _is_carried(name)}


def encode_call(call: CniCall | Ping) -> bytes:
    """The frame of a call. Raises ``WireError`` where it is larger than a frame may be."""
    if isinstance(call, Ping):
        return _frame({"call": "ping"})
    return _frame({"call": "cni", **call._asdict(), "environment": carried(call.environment)})


def encode_answer(answer: Answer | Pong) -> bytes:
    """The frame of an answer. Raises ``WireError`` where it is larger than a frame may be."""
    return _frame({"answer": "pong" if isinstance(answer, Pong) else "cni", **answer._asdict()})


def body_length(header: bytes) -> int:
    """How many bytes follow a frame's header. Raises ``WireError`` where they are more than a frame may have."""
    if len(header) != HEADER_LENGTH:
        raise WireError(f"a frame's header has {HEADER_LENGTH} bytes, not {len(header)}")
    length = int.from_bytes(header, "big")
    if length > MAX_BODY:
        raise WireError(f"a frame of {length} bytes is larger than a frame may be ({MAX_BODY})")
    return length


def decode_call(body: bytes) -> CniCall | Ping:
    """What the agent was asked. Raises ``WireError``."""
    message = _Message(body)
    kind = message.text("call")
    if kind == "ping":
        return Ping()
    if kind != "cni":
        raise WireError(f"unknown call {kind[:64]!r}")
    return CniCall(message.environment(), message.text("stdin"), message.text("netns_error"), message.text("plugin"))


def decode_answer(body: bytes) -> Answer | Pong:
    """What the agent answered. Raises ``WireError``."""
    message = _Message(body)
    kind = message.text("answer")
    if kind == "pong":
        return Pong(message.text("version"), message.number("pid"))
    if kind != "cni":
        raise WireError(f"unknown answer {kind[:64]!r}")
    return Answer(message.text("stdout"), message.text("stderr"), message.number("exit_code"))


def _frame(fields: Mapping[str, object]) -> bytes:
    try:
        body = json.dumps({"v": VERSION, **fields}, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise WireError(f"a message holds text that cannot be encoded: {error.reason}") from None
    if len(body) > MAX_BODY:
        raise WireError(f"a message of {len(body)} bytes is larger than a frame may be ({MAX_BODY})")
    return len(body).to_bytes(HEADER_LENGTH, "big") + body


def _is_carried(name: str) -> bool:
    return name.startswith("CNI_") or name in _CARRIED


class _Message:
    """The object in a frame, read field by field."""

    def __init__(self, body: bytes) -> None:
        try:
            decoded: object = json.loads(body.decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError) as error:
            raise WireError(f"a frame does not hold JSON: {error}") from None
        if not isinstance(decoded, dict):
            raise WireError("a frame does not hold a JSON object")
        self._fields: dict[str, object] = decoded
        if self.number("v") != VERSION:
            raise WireError(f"version {self.number('v')} of the protocol is spoken there, {VERSION} here")

    def text(self, name: str) -> str:
        return _text(self._fields.get(name), name)

    def number(self, name: str) -> int:
        value = self._fields.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise WireError(f"{name} is not an integer")
        return value

    def environment(self) -> dict[str, str]:
        value = self._fields.get("environment")
        if not isinstance(value, dict):
            raise WireError("environment is not an object")
        for name in value:
            if not _is_carried(name):
                raise WireError(f"environment carries {name[:64]!r}, which is none of CNI's")
        return {name: _text(item, f"environment.{name[:64]}") for name, item in value.items()}


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise WireError(f"{name} is not a string")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise WireError(f"{name} holds half of a surrogate pair") from None
    return value
